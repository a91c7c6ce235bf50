from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from derain_engine.base.errors import CheckpointError, InputError
from derain_engine.engine.build import build
from derain_engine.engine.runtime import load
from derain_engine.models.checkpoint import load_checkpoint
from derain_engine.models.ssid_kd import PRESETS, SSIDKD
from derain_engine.training.losses import (
    dark_channel_loss,
    kl_divergence,
    ssim,
    streak_dark_channel_loss,
    total_variation,
)
from derain_engine.training.options import Phase, SsidKdRun
from derain_engine.training.sid import Supervised
from derain_engine.training.ssid_kd import SemiSupervised, learning_rate, phases, train_ssid_kd

from .conftest import same_states

FP32 = torch.autocast("cpu", torch.bfloat16, enabled=False)


@pytest.fixture
def first(pairs, tmp_path):
    """Return ten steps of stage 1."""
    return SsidKdRun(
        preset="tiny",
        pairs=pairs,
        output=tmp_path / "first",
        steps=10,
        batch=2,
        patch=32,
        learning_rate=5e-3,
        validation_photos=1,
        validate_every=5,
        samples_every=10,
        workers=0,
        precision="fp32",
        device="cpu",
    )


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Save weights of the tiny network."""
    from derain_engine.models.checkpoint import save_checkpoint
    from derain_engine.models.ssid_kd import SSIDKDConfig

    torch.manual_seed(3)
    network = SSIDKD(SSIDKDConfig((4, 4, 4), (1, 1, 1), blocks="mffb"))
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_checkpoint(path, network, "ssid-kd", metadata={})
    return path


@pytest.fixture
def second(first, start, real, tmp_path):
    """Return ten steps of stage 2."""
    return replace(
        first, stage=2, output=tmp_path / "second", start=start, real=real, l1_weight=20.0, learning_rate=1e-2
    )


def losses(run):
    found = []
    outcome = train_ssid_kd(run, report=lambda progress: found.append(progress.loss))
    return outcome, found


@pytest.mark.parametrize("recipe", ["official", "paper"])
@pytest.mark.parametrize("stage", [1, 2])
def test_ten_steps_lower_the_loss(first, second, stage, recipe):
    run = replace(first if stage == 1 else second, recipe=recipe)
    if (stage, recipe) == (2, "paper"):
        run = replace(run, l1_weight=0.0)
    outcome, found = losses(run)
    assert len(found) == 10 and outcome.complete and outcome.final
    first_loss, last_loss = np.mean(found[:3]), np.mean(found[-3:])
    assert last_loss < first_loss - 0.02 * abs(first_loss)
    metadata = load_checkpoint(outcome.final).metadata
    assert metadata["step"] == "10"
    with (run.output / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["5", "10"]
    assert ("kl" in rows[0]) == (stage == 2)
    assert [path.name for path in (run.output / "samples").iterdir()] == ["0000010.png"]


def test_what_was_trained_here_goes_through_build_and_run(first, tmp_path):
    best = train_ssid_kd(first).best
    assert best
    build(best, tmp_path / "engine.derain", backend="reference")
    rainy = np.random.default_rng(0).random((32, 64, 3), dtype=np.float32)
    with load(tmp_path / "engine.derain") as engine:
        clean = engine(rainy)
    with torch.inference_mode():
        expected = load_checkpoint(best).network(torch.from_numpy(rainy).permute(2, 0, 1)[None]).clean
    np.testing.assert_allclose(clean, expected[0].permute(1, 2, 0).numpy(), atol=1e-5)
    assert np.abs(clean - rainy).max() > 1e-3


class Interrupted(Exception):
    pass


def test_an_interrupted_stage_ends_where_an_uninterrupted_one_does(second, tmp_path):
    whole, parted = (replace(second, output=tmp_path / name, ema_decay=0.5) for name in ("whole", "parted"))
    train_ssid_kd(whole)

    def interrupt(progress):
        if progress.step == 7:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_ssid_kd(parted, report=interrupt)
    train_ssid_kd(parted, resume=True)
    same_states(whole, parted)
    for name in ("best.safetensors", "final.safetensors"):
        assert (whole.output / name).read_bytes() == (parted.output / name).read_bytes()


def batch(count=2, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rainy, clean, real = (torch.rand(count, 3, side, side, generator=generator) for _ in range(3))
    return {"rainy": rainy, "clean": clean, "real": real}


def tiny():
    torch.manual_seed(0)
    return SSIDKD(PRESETS["tiny"])


@pytest.mark.parametrize("recipe", ["official", "paper"])
def test_the_loss_of_stage_2_is_the_recipes_sum(second, recipe):
    run = replace(
        second,
        recipe=recipe,
        l1_weight=3.0 if recipe == "official" else 0.0,
        kl_weight=0.7,
        kl_reduction="pixel",
        dark_channel_weight=1e-3,
        tv_weight=1e-4,
    )
    network, both = tiny(), batch()
    loss, terms = SemiSupervised(network, FP32, run)(1, **both)
    ours, wild = network(both["rainy"]), network(both["real"])
    if recipe == "official":
        channel = sum(dark_channel_loss(each.clean, 32) for each in (ours, wild))
        variation = total_variation(ours.clean) + total_variation(wild.clean)
    else:
        channel = sum(streak_dark_channel_loss(each.rain, 32) for each in (ours, wild))
        variation = total_variation(wild.clean)
    expected = {
        "l1": F.l1_loss(ours.clean, both["clean"]),
        "kl": kl_divergence(wild.code, ours.code, "pixel"),
        "dark_channel": channel,
        "tv": variation,
    }
    assert terms.keys() == expected.keys() == set(SemiSupervised.names)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-6)
    total = run.l1_weight * expected["l1"] + 0.7 * expected["kl"] + 1e-3 * channel + 1e-4 * variation
    torch.testing.assert_close(loss, total, rtol=1e-4, atol=1e-5)


def test_the_loss_of_stage_1_is_negative_ssim():
    network, both = tiny(), batch()
    loss, terms = Supervised(network, FP32, 0.0)(1, both["rainy"], both["clean"])
    assert not terms
    torch.testing.assert_close(loss, -ssim(network(both["rainy"]).clean, both["clean"]))


def test_a_term_without_weight_has_no_gradient_but_is_told(second):
    run = replace(second, kl_weight=0.0, dark_channel_weight=0.0, tv_weight=0.0)
    network, both = tiny(), batch()
    loss, terms = SemiSupervised(network, FP32, run)(1, **both)
    torch.testing.assert_close(loss, 20 * terms["l1"])
    assert terms["kl"].item() > 0 and terms["tv"].item() > 0


def test_parts_of_a_batch_add_up_to_the_whole(second):
    run = replace(second, kl_weight=1.0, dark_channel_weight=1e-3, tv_weight=1e-3)
    objective, both = SemiSupervised(tiny(), FP32, run), batch(4)
    whole, _ = objective(1, **both)
    weight: Any = objective.network.tail.catLayer[0].weight
    (gradient,) = torch.autograd.grad(whole, [weight])
    halves = [objective(2, **{k: v[half] for k, v in both.items()}) for half in (slice(2), slice(2, 4))]
    parts = torch.stack([loss for loss, _ in halves]).mean()
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    (of_parts,) = torch.autograd.grad(parts, [weight])
    torch.testing.assert_close(of_parts, gradient, rtol=1e-3, atol=1e-4)


def test_accumulated_parts_train_as_the_whole_batch(second, tmp_path):
    one, two = (
        replace(second, output=tmp_path / str(n), steps=3, accumulate=n, dark_channel_weight=1e-3)
        for n in (1, 2)
    )
    (_, whole), (_, parts) = losses(one), losses(two)
    assert parts == pytest.approx(whole, rel=1e-4) and whole[0] != whole[2]


def test_the_defaults_are_the_published_recipes(tmp_path):
    common = {"pairs": tmp_path, "output": tmp_path}
    real = {"stage": 2, "start": tmp_path, "real": tmp_path}
    runs = {
        (stage, recipe): SsidKdRun(recipe=recipe, **common, **(real if stage == 2 else {}))  # type: ignore[arg-type]
        for stage, recipe in product((1, 2), ("official", "paper"))
    }
    assert {run.preset for run in runs.values()} == {"sid"} and {run.ema_decay for run in runs.values()} == {
        0
    }
    for recipe in ("official", "paper"):
        # Rain200H: 1 800 pairs make 150 steps an epoch in stage 1 and 900 in stage 2.
        assert phases(runs[1, recipe], 1800) == (Phase(78000, 120, 12),)
        assert phases(runs[2, recipe], 1800) == (Phase(9000, 128, 2),)
    rates = {
        key: [learning_rate(run, step, 78000) for step in (0, 46799, 46800, 62399, 62400, 77999)]
        for key, run in runs.items()
    }
    assert rates[1, "official"] == pytest.approx([5e-4, 5e-4, 2.5e-4, 2.5e-4, 1.25e-4, 1.25e-4])
    assert rates[1, "paper"] == pytest.approx([5e-3, 5e-3, 5e-4, 5e-4, 5e-5, 5e-5])
    assert set(rates[2, "official"]) == set(rates[2, "paper"]) == {1e-4}
    weights = [(r.l1_weight, r.kl_weight, r.dark_channel_weight, r.tv_weight) for r in runs.values()]
    assert weights[2:] == [(20.0, 1e-6, 1e-6, 1e-6), (0.0, 1e-6, 1e-6, 1e-6)]
    assert runs[2, "official"].kl_reduction == "mean"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": None}, "Stage 2 needs start"),
        ({"real": None}, "Stage 2 needs real"),
        ({"stage": 3}, "stage 3 is not known"),
        ({"recipe": "mine"}, "recipe 'mine'"),
        ({"kl_reduction": "sum"}, "kl_reduction 'sum'"),
        ({"kl_weight": -1.0}, "kl_weight is -1.0"),
        ({"kl_weight": float("nan")}, "kl_weight is nan"),
        ({"patch": 16}, "patches at 32"),
        ({"decay": 0.0}, "decay 0.0"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(second, changes, message):
    with pytest.raises(InputError, match=message):
        replace(second, **changes)


def test_stage_1_takes_no_real_rain(first, real):
    with pytest.raises(InputError, match="Stage 1 knows no real rain"):
        replace(first, real=real)


def test_a_data_set_that_has_shrunk_is_not_resumed(first, pairs, tmp_path):
    run = replace(first, steps=None, epochs=1, pairs=shutil.copytree(pairs, tmp_path / "pairs"))
    train_ssid_kd(run)
    for file in (tmp_path / "pairs").glob("*/4.png"):
        file.unlink()
    with pytest.raises(CheckpointError, match="made for 2 steps, now 1: the data set"):
        train_ssid_kd(run, resume=True)

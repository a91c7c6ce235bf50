"""Semi-DerainGAN's training: its four turns, whole runs, and what comes out of them."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from derain_engine.base.errors import CheckpointError, DerainError, InputError
from derain_engine.models.checkpoint import load_checkpoint
from derain_engine.models.semi_derain_gan import PRESETS, SemiDerainGANConfig
from derain_engine.training.distributed import World
from derain_engine.training.losses import ssim
from derain_engine.training.options import Phase, SemiDerainGanRun
from derain_engine.training.semi_derain_gan.recipe import (
    BothProcesses,
    learning_rate,
    make_domains,
    phases,
    train_semi_derain_gan,
)
from derain_engine.training.trainer import Trainer

from ..conftest import same_states

FP32 = torch.autocast("cpu", torch.bfloat16, enabled=False)
PATCH = 64


@pytest.fixture(autouse=True)
def tiny_gan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", SemiDerainGANConfig(1, 4, 4, 1, residual=True))
    monkeypatch.setitem(PRESETS, "other", SemiDerainGANConfig(1, 4, 8, 1, residual=True))


@pytest.fixture
def run(pairs: Path, real: Path, tmp_path: Path) -> SemiDerainGanRun:
    """Return two steps without the costly perceptual losses."""
    return SemiDerainGanRun(
        preset="tiny",
        pairs=pairs,
        real=real,
        output=tmp_path / "run",
        steps=2,
        patch=PATCH,
        batch=2,
        discriminator_width=2,
        per_super_weight=0.0,
        per_unsup_weight=0.0,
        validation_photos=1,
        validate_every=1,
        samples_every=2,
        workers=0,
        precision="fp32",
        device="cpu",
    )


def pictures(count: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    clean = torch.rand(count, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    rainy = (clean + 0.4 * (torch.rand(count, 1, 1, PATCH) < 0.15)).clamp(max=1)
    return {"rainy": rainy, "clean": clean, "real": (clean.flip(0, 3) + 0.2 * torch.rand(count, 1, 1, PATCH))}


def trainer(run: SemiDerainGanRun) -> Trainer:
    objective = BothProcesses(make_domains(run), FP32, run)
    return Trainer(run, objective, 10, World(torch.device("cpu")))


def told(trained: Trainer, values: torch.Tensor) -> dict[str, float]:
    return dict(zip(("loss", *trained.objective.names), values.tolist(), strict=True))


def snapshot(trained: Trainer) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in trained.objective.named_parameters()}


def moved(trained: Trainer, act: Callable[[], Any]) -> set[str]:
    """Return the modules in which parameters change, by the first two parts of their names."""
    before = snapshot(trained)
    act()
    after = snapshot(trained)
    return {".".join(name.split(".")[:2]) for name in before if not torch.equal(before[name], after[name])}


def test_both_processes_update_the_mask_learner_and_each_its_own(run: SemiDerainGanRun) -> None:
    trained = trainer(replace(run, per_super_weight=1.0, per_unsup_weight=1.0))
    batch = {name: tensor[:1] for name, tensor in pictures().items()}
    found = [
        moved(trained, lambda turn=turn, optimiser=optimiser: trained._turn(turn, optimiser, [batch]))
        for turn, optimiser in zip(trained.turns, trained.optimisers, strict=True)
    ]
    assert found == [
        {"network.ssrml", "network.g_s"},
        {"helpers.d_s", "helpers.d_p"},
        {"network.ssrml", "network.g_r", "helpers.g_rp"},
        {"helpers.d_r"},
    ]


def test_each_turn_has_the_rate_of_its_process(run: SemiDerainGanRun) -> None:
    trained = trainer(run)
    trained.step([pictures()], 2e-4)
    rates = [optimiser.param_groups[0]["lr"] for optimiser in trained.optimisers]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-3, 2e-3])
    assert all(optimiser.param_groups[0]["betas"] == (0.5, 0.999) for optimiser in trained.optimisers)


WEIGHTS = {
    "adv_super_weight": 0.3,
    "pair_weight": 0.7,
    "per_super_weight": 2.0,
    "ssim_weight": 3.0,
    "mask_weight": 0.9,
    "unsup_weight": 0.5,
    "adv_unsup_weight": 0.11,
    "cc_weight": 5.0,
    "per_unsup_weight": 0.25,
    "tv_weight": 7.0,
}


def test_losses_are_the_weighted_sums_of_eq_6_9_and_13(run: SemiDerainGanRun) -> None:
    run = replace(run, **WEIGHTS)
    objective = BothProcesses(make_domains(run), FP32, run)
    batch = {name: tensor[:1] for name, tensor in pictures().items()}
    first, terms = objective(1, turn="supervised", **batch)
    derained = objective.network.synthetic(batch["rainy"])
    torch.testing.assert_close(terms["ssim_s"], -ssim(batch["clean"], derained))
    expected = 0.3 * (terms["adv_s"] + 0.7 * terms["adv_p"]) + 2 * terms["per_s"] + 3 * terms["ssim_s"]
    torch.testing.assert_close(first, expected + 0.9 * terms["mask"])
    second, terms = objective(1, turn="unsupervised", **batch)
    derained = objective.network.real(batch["real"])
    rebuilt = objective.helpers["g_rp"](derained)
    torch.testing.assert_close(terms["cc"], (rebuilt - batch["real"]).abs().mean())
    expected = 0.11 * terms["adv_r"] + 5 * terms["cc"] + 0.25 * terms["per_r"] + 7 * terms["tv"]
    torch.testing.assert_close(second, 0.5 * expected)
    trained = trainer(run)
    values = told(trained, trained.step([batch], 1e-12))
    assert values["loss"] == pytest.approx((first + second).item(), rel=1e-4)


def test_discriminators_judge_what_the_generators_made(run: SemiDerainGanRun) -> None:
    objective = BothProcesses(make_domains(run), FP32, run)
    batches = [{n: t[i : i + 1] for n, t in pictures().items()} for i in range(2)]
    for batch in batches:
        objective(2, turn="unsupervised", **batch)
    for batch in batches:
        loss, _ = objective(2, turn="judge_unsupervised", **batch)
        judge = objective.helpers["d_r"]
        fake = objective.network.real(batch["real"])
        expected = sum(
            -torch.log(r.sigmoid()).mean() - torch.log(1 - f.sigmoid()).mean()
            for r, f in zip(judge(batch["clean"]), judge(fake), strict=True)
        )
        torch.testing.assert_close(loss, torch.as_tensor(expected))


def test_ten_steps_lower_the_supervised_loss_and_stay_finite(run: SemiDerainGanRun) -> None:
    # The paper's weights of eq. 6, against discriminators that learn as fast.
    trained = trainer(replace(run, learning_rate=1e-2, unsupervised_learning_rate=1e-2, per_super_weight=1.0))
    values = [told(trained, trained.step([pictures()], 1e-2)) for _ in range(10)]

    def supervised(each: Mapping[str, float]) -> float:
        return each["adv_s"] + each["adv_p"] + each["per_s"] + each["ssim_s"]

    assert supervised(values[-1]) < supervised(values[0]) - 0.3
    assert all(math.isfinite(value) for each in values for value in each.values())
    # 2 log 2 for every scale is what a discriminator that knows nothing has.
    assert 0 < values[-1]["d_s"] < 6 * math.log(2) and values[-1]["d_p"] > 0


def test_a_discriminator_that_fails_is_seen(run: SemiDerainGanRun) -> None:
    trained = trainer(run)
    next(trained.objective.helpers["d_r"].parameters()).data.fill_(math.nan)
    assert math.isnan(told(trained, trained.step([pictures()], 1e-4))["loss"])
    with pytest.raises(DerainError, match="The loss became"):
        train_semi_derain_gan(replace(run, learning_rate=1e30))


def test_parts_of_a_batch_count_as_the_whole(run: SemiDerainGanRun) -> None:
    # Without D_p, whose weights are normalised anew with every part.
    run = replace(run, pair_weight=0.0)
    batch = pictures()
    halves = [{name: tensor[i : i + 1] for name, tensor in batch.items()} for i in range(2)]
    whole, parted = trainer(run), trainer(run)
    first, second = (told(t, t.step(p, 1e-12)) for t, p in ((whole, [batch]), (parted, halves)))
    for name in ("adv_s", "ssim_s", "d_s", "adv_r", "cc", "tv", "d_r"):
        assert first[name] == pytest.approx(second[name], rel=1e-4), name


def test_the_rate_falls_in_the_second_half(run: SemiDerainGanRun) -> None:
    run = replace(run, epochs=200)
    rates = [learning_rate(run, step, 400) / run.learning_rate for step in (0, 202, 203, 300, 399)]
    assert rates == pytest.approx([1, 1 - 1 / 101, 1 - 1 / 101, 1 - 50 / 101, 1 - 99 / 101])
    assert phases(replace(run, steps=None, epochs=3), 200) == (Phase(3 * 200 * 15 // 2, PATCH, 2),)
    paper = SemiDerainGanRun(output=Path(), real=Path())
    assert phases(paper, 200) == (Phase(200 * 750, 100, 4),)


def test_a_run_leaves_weights_for_both_domains_and_goes_on_exactly(run: SemiDerainGanRun) -> None:
    outcome = train_semi_derain_gan(run)
    assert outcome.complete and outcome.best is not None and outcome.final is not None
    real, synthetic = (
        load_checkpoint(outcome.final, options={"domain": domain}) for domain in ("real", "synthetic")
    )
    assert load_checkpoint(outcome.final).weights_sha256 == real.weights_sha256 != synthetic.weights_sha256
    assert real.spec.config["residual"] is True and real.metadata["step"] == "2"
    rows = list(csv.DictReader((run.output / "log.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert all(
        math.isfinite(float(row[name])) for row in rows for name in ("psnr", "d_s", "d_p", "d_r", "cc")
    )
    assert all(float(row["ssim"]) > 0 > float(row["ssim_s"]) for row in rows)
    assert (run.output / "samples" / "0000002.png").exists()
    parted = replace(run, output=run.output.parent / "parted")
    while not (
        outcome := train_semi_derain_gan(parted, resume=(parted.output).exists(), stop_after=0)
    ).complete:
        assert outcome.progress.step < 2
    same_states(run, parted)


def test_a_run_starts_from_both_generators(run: SemiDerainGanRun) -> None:
    final = train_semi_derain_gan(run).final
    onward = replace(run, output=run.output.parent / "onward", start=final)
    began = make_domains(onward).state_dict()
    saved = torch.load(run.output / "last.pt", weights_only=True)["network"]
    assert began.keys() == saved.keys() and all(torch.equal(began[key], saved[key]) for key in began)
    with pytest.raises(CheckpointError, match="is no other network"):
        make_domains(replace(onward, preset="other"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"real": None}, "needs real, pictures in real rain"),
        ({"patch": 60}, "patch is 60; it must be 61 or more"),
        ({"tv_weight": -1.0}, "tv_weight is -1.0"),
        ({"learning_rate": 0.0}, "must be above 0"),
        ({"preset": "sid-lite"}, "take one of semi-derain-gan"),
        ({"perceptual_layer": "relu5_3"}, "perceptual_layer 'relu5_3' is not known"),
        ({"start": Path("a"), "mask_start": Path("b")}, "not both"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_settings_that_cannot_be(run: SemiDerainGanRun, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(run, **changes)

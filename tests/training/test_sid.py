from __future__ import annotations

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from derain_engine.base.errors import BackendUnavailable, CheckpointError, DerainError, InputError
from derain_engine.models.checkpoint import load_checkpoint
from derain_engine.training import loop, trainer
from derain_engine.training.data import Scenes, find_photos, split, validation_pairs
from derain_engine.training.options import Phase, SidRun
from derain_engine.training.pairs import Scene
from derain_engine.training.run_file import read_run
from derain_engine.training.sid import learning_rate, train_sid
from derain_engine.training.validation import validate

from .conftest import same_states


@pytest.fixture
def run(photos, tmp_path):
    return SidRun(
        preset="tiny",
        photos=photos,
        output=tmp_path / "run",
        phases=(Phase(8, 32, 2), Phase(4, 40, 1)),
        learning_rate=5e-3,
        warmup_steps=2,
        ema_decay=0.5,
        validation_photos=2,
        validate_every=3,
        samples_every=6,
        workers=0,
        precision="fp32",
        device="cpu",
    )


def test_a_run_lowers_the_loss_and_keeps_its_best_weights(run):
    reports = []
    outcome = train_sid(run, report=lambda progress: reports.append(replace(progress)))
    assert [r.step for r in reports] == list(range(1, 13)) and reports[-1].steps == 12
    losses = [r.loss for r in reports]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.1
    with (run.output / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["step"], r["patch"]) for r in rows] == [("3", "32"), ("6", "32"), ("9", "40"), ("12", "40")]
    assert max(float(r["psnr"]) for r in rows) == pytest.approx(reports[-1].best_psnr, abs=1e-4)
    assert outcome.complete and outcome.best and outcome.final
    checkpoint = load_checkpoint(outcome.best)
    assert checkpoint.colour_order == "rgb" and checkpoint.spec.config["channels"] == [4, 4, 4]
    of_best = max(rows, key=lambda r: float(r["psnr"]))
    assert checkpoint.metadata == {
        "step": of_best["step"],
        "validation_psnr": of_best["psnr"],
        "validation_ssim": of_best["ssim"],
    }
    assert load_checkpoint(outcome.final).metadata["step"] == "12"
    files = "best.safetensors final.safetensors last.pt log.csv run.toml samples".split()
    assert sorted(path.name for path in run.output.iterdir()) == files
    assert sorted(path.name for path in (run.output / "samples").iterdir()) == ["0000006.png", "0000012.png"]
    assert read_run(SidRun, run.output / "run.toml", {}) == run
    assert [r.validated for r in reports] == [r.step % 3 == 0 for r in reports]
    assert reports[-1].seconds_left == 0 and all(r.seconds_left > 0 for r in reports[:-1])


def test_the_best_weights_are_those_that_were_validated(run):
    best = train_sid(run).best
    training, held_out = split([Scene(path) for path in find_photos(run.photos)], 2, run.seed)
    assert len(training) == 3
    pairs = validation_pairs(Scenes(held_out), run.seed)
    assert best
    checkpoint = load_checkpoint(best)
    psnr, ssim = validate(lambda x: checkpoint.network(x).clean, pairs, torch.device("cpu"))
    assert psnr == pytest.approx(float(checkpoint.metadata["validation_psnr"]), abs=1e-3)
    assert ssim == pytest.approx(float(checkpoint.metadata["validation_ssim"]), abs=1e-4)


class Interrupted(Exception):
    pass


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(run, tmp_path):
    short = replace(run, phases=(Phase(4, 32, 2), Phase(4, 40, 1)))
    whole, parted = (replace(short, output=tmp_path / name) for name in ("whole", "parted"))
    train_sid(whole)

    def interrupt(progress):
        if progress.step == 7:
            raise Interrupted

    with pytest.raises(Interrupted):
        train_sid(parted, report=interrupt)
    steps = []
    # Neither workers nor places decide what is computed.
    train_sid(replace(parted, workers=1), resume=True, report=lambda p: steps.append(p.step))
    assert steps == [7, 8]
    same_states(whole, parted)
    assert (whole.output / "best.safetensors").read_bytes() == (
        parted.output / "best.safetensors"
    ).read_bytes()


def test_a_run_starts_from_given_weights_and_another_networks_are_refused(run, tmp_path):
    run = replace(run, phases=(Phase(2, 32, 1),))
    best = train_sid(run).best
    assert best
    onward = replace(run, output=tmp_path / "onward", start=best)
    began, found = (
        trainer.make_network(onward),
        load_checkpoint(best).network.state_dict(),
    )
    assert began.state_dict().keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in began.state_dict().items())
    assert all(parameter.requires_grad for parameter in began.parameters())
    train_sid(onward)
    train_sid(replace(onward, start=None), resume=True)
    with pytest.raises(CheckpointError, match=r"best\.safetensors is no other network"):
        train_sid(replace(onward, preset="other", output=tmp_path / "other"))


def test_a_finished_run_stays_as_it_is(run):
    short = replace(run, phases=(Phase(2, 32, 1),))
    train_sid(short)
    files = {path: path.read_bytes() for path in short.output.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="already holds a training"):
        train_sid(short)
    assert train_sid(short, resume=True).best == short.output / "best.safetensors"
    assert files == {path: path.read_bytes() for path in short.output.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 67}, "seed"),
        ({"phases": (Phase(8, 32, 2), Phase(5, 40, 1))}, "phases"),
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"preset": "other"}, "preset"),
        ({"precision": "auto"}, "precision"),
    ],
)
def test_other_settings_are_not_resumed(run, changes, named):
    short = replace(run, phases=(Phase(2, 32, 1),))
    train_sid(short)
    before = (short.output / "last.pt").read_bytes()
    with pytest.raises(CheckpointError, match=f"another {named}"):
        train_sid(replace(short, **changes), resume=True)
    assert (short.output / "last.pt").read_bytes() == before


def test_nothing_or_damage_is_not_resumed(run):
    with pytest.raises(CheckpointError, match="no training to resume"):
        train_sid(run, resume=True)
    run.output.mkdir()
    for content in (b"", b"not a training", b"PK\x03\x04broken"):
        (run.output / "last.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match="no training state"):
            train_sid(run, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "huge"}, "preset 'huge'"),
        ({"precision": "fp8"}, "precision 'fp8'"),
        ({"validation_photos": 5}, "too few photographs"),
        ({"photos": None}, "nothing to train on"),
        ({"device": "abacus"}, "device 'abacus'"),
        ({"accumulate": 2}, "cannot be split"),
        ({"phases": ()}, "phases are empty"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"validate_every": 0}, "validate_every is 0"),
    ],
)
def test_runs_that_cannot_start_are_refused_and_leave_nothing(run, changes, message):
    with pytest.raises(InputError, match=message):
        train_sid(replace(run, **changes))
    assert not run.output.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_a_gpu_that_is_not_there_is_named(run):
    with pytest.raises(BackendUnavailable, match="no CUDA GPU"):
        train_sid(replace(run, device="cuda"))


def test_a_resumed_log_tells_every_step_once(run):
    first = replace(run, phases=(Phase(4, 32, 1),), validate_every=2)
    train_sid(first)
    log = run.output / "log.csv"
    whole = log.read_text()
    log.write_text(whole + "5,32,0.1,1e-3,9.9,,\n")
    train_sid(first, resume=True)
    assert log.read_text() == whole


def test_a_loss_that_is_not_finite_ends_the_run(run, monkeypatch):
    step = loop.Trainer.step
    monkeypatch.setattr(loop.Trainer, "step", lambda *arguments: step(*arguments) * math.nan)
    with pytest.raises(DerainError, match="loss became nan"):
        train_sid(run)
    assert not (run.output / "best.safetensors").exists()


def test_the_learning_rate_warms_up_and_falls_to_its_end(run):
    long = replace(run, phases=(Phase(100, 32, 1),), warmup_steps=10)
    rates = [learning_rate(long, step) for step in range(100)]
    assert rates[0] == pytest.approx(5e-4) and max(rates) == pytest.approx(5e-3)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx((5e-3 + 1e-5) / 2, rel=1e-6)
    assert learning_rate(long, 100) == pytest.approx(1e-5)

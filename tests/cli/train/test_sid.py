from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from derain_engine.models.checkpoint import load_checkpoint
from derain_engine.models.ssid_kd import PRESETS, SSIDKDConfig
from derain_engine.models.weights import shipped
from derain_engine.training.loop import TrainingOutcome
from derain_engine.training.options import Phase, SidRun
from derain_engine.training.trainer import TrainingProgress


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Save four photographs, and add a preset small enough to be trained on them."""
    monkeypatch.setitem(PRESETS, "tiny", SSIDKDConfig((4, 4, 4), (1, 1, 1), blocks="mffb"))
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def arguments(photos, out, *more):
    fixed = "--preset tiny --workers 0 --validation-photos 1 --precision fp32 --device cpu"
    return ["train", "sid", "--photos", str(photos), "-o", str(out), *fixed.split(), *more]


def test_a_run_leaves_weights_that_load_and_can_be_resumed_but_not_overwritten(cli, photos, tmp_path):
    out = tmp_path / "run"
    command = arguments(photos, out, "--phase", "2:32:1", "--phase", "1:48:2", "--validate-every", "2")
    done = cli(*command)
    assert done.code == 0, done.err
    best = out / "best.safetensors"
    assert str(best) in done.out and "Best validation" in done.out and " dB" in done.out
    assert load_checkpoint(best).spec.config["channels"] == [4, 4, 4]
    log = (out / "log.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in log[1:]] == [["2", "32"], ["3", "48"]]
    before = best.read_bytes()
    done = cli(*command)
    assert done.code == 2 and "already holds a training" in done.err
    assert cli(*command, "--resume").code == 0
    assert best.read_bytes() == before


def test_options_reach_the_run_and_others_keep_the_recipe(cli, photos, tmp_path, monkeypatch):
    import torch

    from derain_engine.training import sid

    runs, threads = [], []

    def train_sid(run, *, resume, stop_after, report):
        runs.append((run, resume, stop_after))
        return TrainingOutcome(None, None, TrainingProgress(1, 1, math.nan))

    monkeypatch.setattr(sid, "train_sid", train_sid)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    table = tmp_path / "out.csv"
    assert cli("train", "sid", "--photos", str(photos), "-o", str(tmp_path)).code == 0
    more = ["--seed", "7", "--threads", "1", "--exclude", str(table), "--resume", "--phase", "5:64:3"]
    more += ["--from", "before.safetensors", "--learning-rate", "2e-4", "--teacher", "sid-lite"]
    more += ["--teacher-weight", "2", "--code-weight", "0.5", "--pairs", "pairs", "--accumulate", "3"]
    more += ["--samples-every", "0", "--compile", "--stop-after", "420"]
    assert cli(*arguments(photos, tmp_path, *more)).code == 0
    assert threads == [1]
    assert runs[0] == (SidRun(preset="sid-lite", photos=photos, output=tmp_path), False, None)
    assert runs[1] == (
        SidRun(
            preset="tiny",
            photos=photos,
            output=tmp_path,
            pairs=Path("pairs"),
            exclude=table,
            teacher=shipped("sid-lite"),
            teacher_weight=2.0,
            code_weight=0.5,
            accumulate=3,
            samples_every=0,
            compile=True,
            start=Path("before.safetensors"),
            learning_rate=2e-4,
            phases=(Phase(5, 64, 3),),
            seed=7,
            validation_photos=1,
            workers=0,
            precision="fp32",
            device="cpu",
        ),
        True,
        420,
    )


def test_help_tells_the_recipes_own_defaults(cli):
    shown = " ".join(cli("train", "sid", "--help").out.split())
    run = SidRun(output=Path())
    assert ", then ".join(f"{p.steps}:{p.patch}:{p.batch}" for p in run.phases) in shown
    values = (
        run.preset,
        run.teacher_weight,
        run.code_weight,
        run.learning_rate,
        run.accumulate,
        run.precision,
    )
    more = (run.validation_photos, run.validate_every, run.samples_every, run.seed, run.device, run.workers)
    for value in (f"{v:g}" if isinstance(v, float) else v for v in values + more):
        assert re.search(rf"default: \({re.escape(str(value))}\)", shown), value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--phase", "12000"], "STEPS:PATCH:BATCH"),
        (["--phase", "1:64:x"], "STEPS:PATCH:BATCH"),
        (["--phase", "0:64:8"], "start at 1"),
        (["--preset", "huge"], "huge"),
        (["--precision", "fp8"], "fp8"),
        (["--device", "tpu"], "tpu"),
        (["--validation-photos", "4"], "too few photographs"),
        (["--exclude", "no-such.csv"], "no-such.csv"),
        (["--from", "no-such.pt"], "no-such.pt"),
        (["--resume"], "no training to resume"),
    ],
)
def test_bad_input_is_one_line_and_two(cli, photos, tmp_path, options, message):
    done = cli(*arguments(photos, tmp_path / "run", *options))
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "run").exists()

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from derain_engine.models.checkpoint import load_checkpoint
from derain_engine.models.ssid_kd import PRESETS, SSIDKDConfig
from derain_engine.training.loop import TrainingOutcome
from derain_engine.training.options import SSID_KD_DEFAULTS, SsidKdRun
from derain_engine.training.trainer import TrainingProgress


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Make pairs/{rainy,clean}, real/, and a configuration file for a network small enough to be trained on them."""
    monkeypatch.setitem(PRESETS, "tiny", SSIDKDConfig((4, 4, 4), (1, 1, 1), blocks="mffb"))
    rng = np.random.default_rng(0)
    for folder in ("pairs/rainy", "pairs/clean", "real"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "run.toml").write_text(
        """
        preset = "tiny"
        pairs = "pairs"
        output = "first"
        steps = 2
        batch = 1
        patch = 32
        validation_photos = 1
        samples_every = 0
        workers = 0
        precision = "fp32"
        device = "cpu"
        """
    )
    return tmp_path


def test_two_stages_from_one_file_and_weights_that_build_and_run(cli, data):
    first = cli("train", "ssid-kd", "--config", data / "run.toml")
    assert first.code == 0 and str(data / "first" / "final.safetensors") in first.out, first.err
    assert "Step 2" in first.err and "0 min left" in first.err
    more = ["--stage", "2", "--from", data / "first" / "final.safetensors", "--real", data / "real"]
    again = ["train", "ssid-kd", "--config", data / "run.toml", *more, "-o", data / "second"]
    stopped = cli(*again, "--stop-after", "0")
    assert stopped.code == 0 and "1 of 2" in stopped.out and "--resume" in stopped.err
    assert cli(*again).code == 2
    # The effective settings are a file that the run goes on from.
    effective = data / "second" / "run.toml"
    settings = effective.read_text().splitlines()
    assert {"stage = 2", "learning_rate = 0.0001", "steps = 2", 'precision = "fp32"'} <= set(settings)
    assert cli("train", "ssid-kd", "--config", effective, "--resume").code == 0
    final = data / "second" / "final.safetensors"
    assert load_checkpoint(final).metadata["step"] == "2"
    engine = data / "engine.derain"
    assert cli("build", final, "-o", engine, "--backend", "reference").code == 0
    assert cli("run", data / "real" / "0.png", "-o", data / "clean.png", "-e", engine).code == 0
    assert Image.open(data / "clean.png").size == (48, 32)


def test_options_go_before_the_file(cli, data, monkeypatch):
    from derain_engine.training import ssid_kd

    runs = []

    def train_ssid_kd(run, *, resume, stop_after, report):
        runs.append((run, resume, stop_after))
        return TrainingOutcome(None, None, TrainingProgress(1, 1, math.nan))

    monkeypatch.setattr(ssid_kd, "train_ssid_kd", train_ssid_kd)
    options = {
        "stage": 2,
        "recipe": "paper",
        "photos": data / "photos",
        "out": data / "there",
        "exclude": data / "out.csv",
        "real": data / "real",
        "preset": "sid-lite",
        "from": data / "start.pt",
        "kl-weight": 0.25,
        "kl-reduction": "pixel",
        "epochs": 3,
        "steps": 30,
        "patch": 64,
        "batch": 6,
        "learning-rate": 0.5,
        "accumulate": 2,
        "validation-photos": 4,
        "validate-every": 5,
        "samples-every": 6,
        "seed": 7,
        "precision": "bf16",
        "device": "cpu",
        "workers": 8,
    }
    flags = [each for name, value in options.items() for each in (f"--{name}", value)]
    assert cli("train", "ssid-kd", "--config", data / "run.toml", *flags, "--compile", "--resume").code == 0
    ((run, resume, stop_after),) = runs
    renamed = {"out": "output", "from": "start"}
    given = {renamed.get(name, name.replace("-", "_")): value for name, value in options.items()}
    assert run == SsidKdRun(**given, pairs=data / "pairs", compile=True)
    assert resume and stop_after is None


def test_help_tells_the_recipes_own_defaults(cli):
    shown = " ".join(cli("train", "ssid-kd", "--help").out.split())
    run = SsidKdRun(output=Path())
    for value in (run.stage, run.recipe, run.preset, f"{run.kl_weight:g}", run.kl_reduction):
        assert f"default: ({value})" in shown
    for name in ("epochs", "patch", "batch"):
        first, second = (SSID_KD_DEFAULTS[stage, "official"][name] for stage in (1, 2))
        assert f"default: ({first} or {second})" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stage", "2"], "Stage 2 needs start"),
        (["--stage", "3"], "take one of 1, 2"),
        (["--recipe", "mine"], "mine"),
        (["--kl-reduction", "sum"], "sum"),
        (["--pairs", "gone"], "gone is not there"),
        (["--from", "gone.pt"], "gone.pt"),
        (["--config", "gone.toml"], "gone.toml cannot be read"),
        (["--patch", "16"], "patches at 32"),
        (["--validation-photos", "9"], "too few"),
        (["--resume"], "no training to resume"),
    ],
)
def test_bad_input_is_one_line_and_two(cli, data, options, message):
    done = cli("train", "ssid-kd", "--config", data / "run.toml", *options)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done.err
    assert not (data / "first").exists()


def test_an_unknown_setting_is_named(cli, data):
    with (data / "run.toml").open("a") as file:
        file.write("kl_weigth = 1.0\n")
    done = cli("train", "ssid-kd", "--config", data / "run.toml")
    assert done.code == 2 and "'kl_weigth'" in done.err and "'kl_weight'" in done.err


def test_nothing_is_asked_for_by_name(cli):
    done = cli("train", "ssid-kd")
    assert done.code == 2 and "output is missing" in done.err

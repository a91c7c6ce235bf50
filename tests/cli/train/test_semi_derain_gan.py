from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from derain_engine.models.semi_derain_gan import PRESETS, SemiDerainGANConfig
from derain_engine.training.loop import TrainingOutcome
from derain_engine.training.options import SemiDerainGanRun
from derain_engine.training.semi_derain_gan import recipe
from derain_engine.training.trainer import TrainingProgress


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Make pairs/{rainy,clean}, real/, and a configuration file for networks small enough to be trained on them."""
    monkeypatch.setitem(PRESETS, "tiny", SemiDerainGANConfig(1, 4, 4, 1, residual=True))
    rng = np.random.default_rng(0)
    for folder in ("pairs/rainy", "pairs/clean", "real"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (64, 72, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "run.toml").write_text(
        """
        preset = "tiny"
        pairs = "pairs"
        real = "real"
        output = "first"
        steps = 2
        batch = 1
        patch = 64
        discriminator_width = 2
        validation_photos = 1
        samples_every = 0
        workers = 0
        precision = "fp32"
        device = "cpu"
        """
    )
    return tmp_path


@pytest.mark.slow
def test_one_file_two_pieces_and_weights_that_build_and_run_in_either_domain(cli, data):
    command = ["train", "semi-derain-gan", "--config", data / "run.toml"]
    stopped = cli(*command, "--stop-after", "0")
    assert stopped.code == 0 and "1 of 2" in stopped.out and "--resume" in stopped.err, stopped.err
    assert cli(*command).code == 2
    done = cli(*command, "--resume")
    final = data / "first" / "final.safetensors"
    assert done.code == 0 and str(final) in done.out and "0 min left" in done.err, done.err
    shown = cli("inspect", final).out
    assert "semi-derain-gan" in shown and "domain" in shown and "real" in shown
    pictures = []
    for domain in ("real", "synthetic"):
        engine, clean = data / f"{domain}.derain", data / f"{domain}.png"
        built = cli("build", final, "-o", engine, "--backend", "reference", "--option", f"domain={domain}")
        assert built.code == 0, built.err
        assert cli("run", data / "real" / "0.png", "-o", clean, "-e", engine).code == 0
        pictures.append(np.asarray(Image.open(clean)))
    assert pictures[0].shape == (64, 72, 3) and not np.array_equal(*pictures)


def test_options_go_before_the_file(cli, data, monkeypatch):
    runs = []

    def train(run, *, resume, stop_after, report):
        runs.append((run, resume, stop_after))
        return TrainingOutcome(None, None, TrainingProgress(1, 1, math.nan))

    monkeypatch.setattr(recipe, "train_semi_derain_gan", train)
    options = {
        "photos": data / "photos",
        "real": data / "real",
        "out": data / "there",
        "exclude": data / "out.csv",
        "preset": "semi-derain-gan-small",
        "from": data / "start.safetensors",
        "vgg16": data / "vgg16.pth",
        "epochs": 3,
        "steps": 30,
        "patch": 80,
        "batch": 6,
        "learning-rate": 0.5,
        "unsupervised-learning-rate": 0.25,
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
    given = cli(
        "train", "semi-derain-gan", "--config", data / "run.toml", *flags, "--compile", "--stop-after", "9"
    )
    assert given.code == 0, given.err
    ((run, resume, stop_after),) = runs
    renamed = {"out": "output", "from": "start"}
    values = {renamed.get(name, name.replace("-", "_")): value for name, value in options.items()}
    assert run == SemiDerainGanRun(**values, pairs=data / "pairs", discriminator_width=2, compile=True)
    assert not resume and stop_after == 9


def test_help_tells_the_recipes_own_defaults(cli):
    shown = " ".join(cli("train", "semi-derain-gan", "--help").out.split()).replace("- ", "-")
    run = SemiDerainGanRun(output=Path(), real=Path())
    for name in ("preset", "epochs", "patch", "batch", "learning_rate", "unsupervised_learning_rate"):
        value = getattr(run, name)
        assert f"default: ({value if isinstance(value, str) else f'{value:g}'})" in shown, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--patch", "32"], "patch is 32"),
        (["--preset", "sid"], "take one of semi-derain-gan"),
        (["--real", "gone"], "gone is not a folder"),
        (["--vgg16", "gone.pth"], "gone.pth is missing"),
        (["--from", "gone.pt"], "gone.pt"),
        (["--resume"], "no training to resume"),
    ],
)
def test_bad_input_is_one_line_and_two(cli, data, options, message):
    done = cli("train", "semi-derain-gan", "--config", data / "run.toml", *options)
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done.err
    assert not (data / "first").exists()


def test_real_rain_is_needed(cli):
    done = cli("train", "semi-derain-gan", "--pairs", "pairs", "-o", "out")
    assert done.code == 2 and "needs real" in done.err

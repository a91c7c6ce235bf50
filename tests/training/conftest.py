"""Networks so small, and pictures so few, that trainings of a few steps take no time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from derain_engine.models.ssid_kd import PRESETS, SSIDKDConfig
from derain_engine.training.options import TrainingRun


@pytest.fixture(autouse=True)
def tiny_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", SSIDKDConfig((4, 4, 4), (1, 1, 1), blocks="mffb"))
    monkeypatch.setitem(PRESETS, "other", SSIDKDConfig((4, 4, 8), (1, 1, 1), blocks="mffb"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save five smooth pictures in colour."""
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[:40, :48] / 10
    for i in range(5):
        picture = [127 + 120 * np.sin(y * (1 + i / 5) + x * c + i) for c in (0.5, 1.0, 1.5)]
        Image.fromarray(np.stack(picture, -1).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def pairs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make rainy/ and clean/ of the five, under bright streaks straight down."""
    folder = tmp_path_factory.mktemp("pairs")
    for kind in ("rainy", "clean"):
        (folder / kind).mkdir()
    for path in photos.iterdir():
        clean = np.asarray(Image.open(path))
        rainy = clean.astype(int)
        rainy[:, ::5] += 90
        Image.fromarray(clean).save(folder / "clean" / path.name)
        Image.fromarray(rainy.clip(0, 255).astype(np.uint8)).save(folder / "rainy" / path.name)
    return folder


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save two pictures in rain without a truth."""
    folder = tmp_path_factory.mktemp("real")
    for i in range(2):
        picture = np.random.default_rng(i).integers(90, 250, (44, 40, 3))
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{i}.jpg")
    return folder


def training_state(run: TrainingRun) -> dict[str, torch.Tensor]:
    """Return every number that decides how a run goes on."""
    state = torch.load(run.output / "last.pt", weights_only=True)
    moments = {
        f"{number}.{i}.{k}": torch.as_tensor(v)
        for number, optimiser in enumerate([state["optimiser"], *state["other optimisers"]])
        for i, each in optimiser["state"].items()
        for k, v in each.items()
    }
    average = {f"average.{k}": v for k, v in state["average"].items()}
    return {**state["network"], **state["helpers"], **average, **moments}


def same_states(one: TrainingRun, other: TrainingRun) -> None:
    """Assert that two runs stand at the same, bit for bit."""
    expected, found = training_state(one), training_state(other)
    assert expected.keys() == found.keys() and len(expected) > 100
    for key, tensor in expected.items():
        assert torch.equal(tensor, found[key]), key

"""One small model, one engine file built from it, and a way to run command lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from derain_engine.cli import app
from derain_engine.engine.build import build
from derain_engine.models.checkpoint import save_checkpoint
from derain_engine.models.ssid_kd import SSIDKDConfig

from ..helpers import strong


@dataclass(frozen=True)
class Outcome:
    """The outcome of a command line."""

    code: int
    out: str
    err: str


def save_model(path: Path, seed: int) -> Path:
    """Save a small random network that changes its input visibly."""
    network = strong(SSIDKDConfig((4, 4, 4), (1, 1, 1), blocks="mffb"), seed)
    save_checkpoint(path, network, "ssid-kd", metadata={"made": "for a test"})
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "small.safetensors", 0)


@pytest.fixture(scope="session")
def engine_file(model: Path) -> Path:
    """Build an engine for OpenVINO, so that running it needs no PyTorch. Tests that change it take a copy."""
    path = model.with_name("small.derain")
    build(model, path, precision="fp32")
    return path


@pytest.fixture(scope="session")
def reference_file(model: Path) -> Path:
    """Build an engine for the reference backend, which is quicker."""
    path = model.with_name("small-reference.derain")
    build(model, path, backend="reference")
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "derain-engine"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run ``derain-engine ARGUMENTS`` in this process."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = app.run([str(each) for each in arguments])
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return run

"""An engine file, written."""

from __future__ import annotations

from pathlib import Path

import pytest

from derain_engine.engine.bundle import write_bundle

from ..helpers import a_manifest
from .bundles import PAYLOADS


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "engine.derain"
    write_bundle(path, a_manifest(), PAYLOADS)
    return path

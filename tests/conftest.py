"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Before anything imports torch: the workers of pytest-xdist share the cores instead of fighting for them. Only in the
# workers, which inherit what the process that starts them sets.
if _WORKERS := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))

# Before anything imports triton: where there is no GPU, its kernels run in its interpreter.
import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_finish() -> None:
    """Spare collections of garbage, of which every capture of a CUDA graph makes two, the objects of the imports."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the process end as it would have."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of photographs and rain that lies beside some checkouts and is never part of the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the data sets (../shared/data) are not beside this checkout")
    return folder


@pytest.fixture(scope="session", autouse=True)
def little_examination() -> Iterator[None]:
    """Builds compare and time their engines on one small picture: the usual ones would be most of the work. Tests of
    what builds look at ask for more by :func:`examining`; ``tests/engine/test_examination.py`` counts the pixels."""
    from derain_engine.engine.examination import Examination, examining

    with examining(Examination((32, 64), pictures=1, searched_side=32, timed_side=64)):
        yield

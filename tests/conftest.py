"""What every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable
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


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of photographs and rain that lies beside some checkouts and is never part of the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the data sets (../shared/data) are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def examine_little() -> Callable[[pytest.MonkeyPatch], None]:
    """Has builds compare and time their engines on small pictures, until the given patch is undone: for tests of
    what is built, where the usual pictures would be most of the work."""
    from derain_engine.engine import build
    from derain_engine.samples import photographs

    def examine_little(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(build, "_TIMED_SIDE", 64)
        patch.setattr(photographs, "PICTURE_SIZE", (32, 64))

    return examine_little

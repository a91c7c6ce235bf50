"""The time that a new process takes to its first clean frame, and its memory: measured in processes of their own,
since one that has run before has libraries, compiled code and memory left from that."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..base.errors import DerainError
from .contestants import Opener
from .gpu import gpu_status

_PROCESS_TABLE = Path("/proc/self/status")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Starts:
    """Two starts of an engine.

    cold_ms, warm_ms: from asking for a new Python process to its first clean frame, the imports among it; cold with an
    empty cache folder, warm with what the cold one left there. Files of the libraries may lie in the system's memory
    already.
    peak_host_mb: most resident memory of the cold process, in 10^6 bytes; None where the system does not tell.
    device_mb: what memory in use on the GPU grew by in the cold process, in 10^6 bytes; None without a GPU.
    """

    cold_ms: float
    warm_ms: float
    peak_host_mb: float | None
    device_mb: float | None


def measure_starts(opener: Opener, image: np.ndarray) -> Starts:
    """Start two processes, one after the other.

    Args:
        opener: picklable.
        image: uint8, H x W x 3.

    Raises:
        DerainError: what the process raised, or it died.
    """
    with tempfile.TemporaryDirectory(prefix="derain-engine-bench-") as folder:
        cold, warm = (
            in_new_process("a start", _first_frame, opener, image, folder, time.time()) for _ in range(2)
        )
    return Starts(cold[0], warm[0], cold[1], cold[2])


def in_new_process(what: str, work: Callable[..., Result], *arguments: Any) -> Result:
    """Run ``work`` in a process of its own. what: that is measured, for errors.

    Raises:
        DerainError: the process died.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except BrokenProcessPool as error:
            raise DerainError(
                f"The process that {what} was measured in died; there may not be enough memory for it."
            ) from error


def _first_frame(
    opener: Opener, image: np.ndarray, cache: str, began: float
) -> tuple[float, float | None, float | None]:
    """Clean a frame; return (milliseconds from ``began`` until it was done, memory as of :class:`Starts`)."""
    # Where platformdirs, and torch.compile, put compiled code.
    os.environ["XDG_CACHE_HOME"] = cache
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(cache, "torchinductor")
    before = gpu_status() if opener.on_gpu else None
    with opener("latency", cache=True) as engine:
        engine(image)
        ended = time.time()
        after = gpu_status() if opener.on_gpu else None
    device = None if before is None or after is None else (after.used_mib - before.used_mib) * 2**20 / 1e6
    peak = peak_bytes()
    return 1000 * (ended - began), None if peak is None else peak / 1e6, device


def peak_bytes(read: Callable[[], str] = _PROCESS_TABLE.read_text) -> int | None:
    """Return the most resident memory of this process so far, in bytes; None where the system does not tell."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        # Not getrusage: there a child begins with its parent's peak.
        lines = dict(line.split(":", 1) for line in read().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None

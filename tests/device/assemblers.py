"""Assemblers of PTX that are on this machine."""

from __future__ import annotations

import functools
import importlib.util
import shutil
from pathlib import Path


@functools.cache
def assemblers() -> list[str]:
    """Find ptxas of a CUDA toolkit and of Triton, whose versions differ; those that are here."""
    found = [shutil.which("ptxas", path="/usr/local/cuda/bin") or shutil.which("ptxas")]
    if (triton := importlib.util.find_spec("triton")) and triton.origin:
        folder = Path(triton.origin).parent / "backends" / "nvidia" / "bin"
        found += [str(path) for path in sorted(folder.glob("ptxas*"))]
    return [path for path in found if path]

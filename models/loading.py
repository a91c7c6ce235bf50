"""Finding and reading what a user names as a model: a file, or shipped weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from ..base.progress import Progress, no_progress
from . import onnx_file, weights
from .checkpoint import Checkpoint, load_checkpoint
from .model_file import is_onnx
from .spec import ColourChoice


def find_model(model: str | os.PathLike[str]) -> tuple[Path, str]:
    """Return (weights file, name) of a file, or of shipped weights where no file has that name.

    Raises:
        InputError: there is neither.
    """
    path = Path(model)
    shipped = weights.meant(model)
    if shipped is None:
        if path.exists():
            return path, path.stem or path.name
        raise InputError(
            f"{model} is neither a file nor the name of shipped weights ({', '.join(weights.shipped_names())})."
        )
    return shipped, str(model)


def load_model(
    path: Path,
    *,
    colour_order: ColourChoice = "auto",
    options: Mapping[str, Any] | None = None,
    arch: str | None = None,
    value_range: str | None = None,
    granularity: int | None = None,
    progress: Progress = no_progress,
) -> Checkpoint:
    """Read a network from a file of weights, as :func:`load_checkpoint` does, or from an ONNX model.

    Args:
        value_range, granularity: of an ONNX model, as in :class:`onnx_file.OnnxFacts`; found out where they are None.

    Raises:
        InputError: a setting that only the other kind of file takes; the rest as :func:`load_checkpoint` and
            :func:`onnx_file.read_onnx` say.
    """
    if not is_onnx(path):
        if value_range is not None or granularity is not None:
            raise InputError(
                f"{path} holds weights of a known network, whose value range and granularity are known, too; leave "
                "--range and --granularity out."
            )
        return load_checkpoint(path, colour_order=colour_order, options=options, arch=arch)
    if options or arch is not None:
        raise InputError(f"{path} is an ONNX model, which has no --option and no --arch.")
    order = None if colour_order == "auto" else colour_order
    return onnx_file.read_onnx(path, onnx_file.OnnxFacts(order, value_range, granularity), progress)

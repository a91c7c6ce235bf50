"""What a user names as a model: a file, or shipped weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from . import weights
from .bundle import Manifest
from .checkpoint import Checkpoint, load_checkpoint
from .errors import InputError


def find_model(model: str | os.PathLike[str]) -> tuple[Path, str]:
    """(weights file, name) of a file, or of shipped weights where no file has that name.

    Raises:
        InputError: there is neither.
    """
    path = Path(model)
    if path.exists():
        return path, path.stem or path.name
    shipped = weights.shipped(str(model))
    if shipped is None:
        raise InputError(
            f"{model} is neither a file nor the name of shipped weights ({', '.join(weights.shipped_names())})."
        )
    return shipped, str(model)


def matching_checkpoint(path: Path, manifest: Manifest) -> Checkpoint | None:
    """The model with the engine's configuration, in whichever colour order gives the engine's weights; None where
    its weights are others. Raises as :func:`load_checkpoint` does."""
    orders: tuple[Literal["auto", "rgb", "bgr"], ...] = ("auto", "rgb", "bgr")
    for order in orders:
        checkpoint = load_checkpoint(
            path, colour_order=order, options=manifest.config, arch=manifest.architecture
        )
        if checkpoint.weights_sha256 == manifest.weights_sha256:
            return checkpoint
    return None

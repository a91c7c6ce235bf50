"""The weights that come with derain-engine: ``<name>.safetensors`` with its model card ``<name>.md`` beside it."""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = Path(__file__).parent


def shipped_names() -> list[str]:
    """Return the names of the shipped weights, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def shipped(name: str) -> Path | None:
    """Return the file of shipped weights, or None where there are none of that name."""
    return _FOLDER / f"{name}.safetensors" if name in shipped_names() else None


def meant(model: str | os.PathLike[str]) -> Path | None:
    """Return the file of the shipped weights that a user means, None where it is none: a file of that name goes before
    them, a folder does not, as ``./name`` tells it apart."""
    return None if Path(model).is_file() else shipped(str(model))

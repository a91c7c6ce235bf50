"""What is in a file: an engine, or a trained network."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .builder import find_model
from .bundle import MANIFEST, open_bundle
from .checkpoint import load_checkpoint

# A zip member's name stands this many bytes behind the start of its header.
_NAME_AT = 30


def is_engine(path: str | os.PathLike[str]) -> bool:
    """Whether this is an engine file (by its start, so a damaged one counts), or is at least called like one."""
    path = Path(path)
    if path.suffix == ".derain":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_NAME_AT + len(MANIFEST))
    return head.startswith(b"PK\3\4") and head.endswith(MANIFEST.encode())


def describe(file: str | os.PathLike[str]) -> dict[str, Any]:
    """An engine file's manifest, or what a model is, as values that JSON can hold; ``kind`` tells which.

    file: an engine file, a model file, or the name of shipped weights.

    Raises:
        InputError: there is no such file or name.
        BundleError, CheckpointError: it is damaged or something else.
        BackendUnavailable: PyTorch, which reading a model needs, is not installed.
    """
    if is_engine(file):
        with open_bundle(file) as bundle:
            about = {"kind": "engine", "file": str(bundle.path), "bytes": bundle.path.stat().st_size}
            return about | asdict(bundle.manifest)
    path, name = find_model(file)
    checkpoint = load_checkpoint(path)
    from .models.cost import macs_per_pixel

    about = {"kind": "model", "file": str(path), "bytes": path.stat().st_size, "name": name}
    return about | {
        "format": checkpoint.format,
        "colour_order": checkpoint.colour_order,
        "weights_sha256": checkpoint.weights_sha256,
        "parameters": sum(each.numel() for each in checkpoint.network.parameters()),
        "macs_per_pixel": macs_per_pixel(checkpoint.network, checkpoint.spec),
        **asdict(checkpoint.spec),
        "metadata": dict(checkpoint.metadata),
    }

"""The content of a file: an engine, or a trained network."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from ..base.sizes import padded_side
from ..models.checkpoint import load_checkpoint
from ..models.loading import find_model
from . import backends
from .backends.base import Artefact
from .bundle import MANIFEST, open_bundle
from .manifest import Manifest

# A zip member's name stands this many bytes behind the start of its header.
_NAME_AT = 30


def is_engine(path: str | os.PathLike[str]) -> bool:
    """Tell whether this is an engine file (by its start, so a damaged one counts), or is at least called like one."""
    path = Path(path)
    if path.suffix == ".derain":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_NAME_AT + len(MANIFEST))
    return head.startswith(b"PK\3\4") and head.endswith(MANIFEST.encode())


def describe(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Return an engine file's manifest, or what a model is, as values that JSON can hold; ``kind`` tells which.
    ``unavailable_here`` says what keeps this machine from running an engine for a GPU; nothing of it is loaded.

    Args:
        file: an engine file, a model file, or the name of shipped weights.

    Raises:
        InputError: there is no such file or name.
        BundleError, CheckpointError: it is damaged or something else.
        BackendUnavailable: PyTorch, which reading a model needs, is not installed.
    """
    if is_engine(file):
        with open_bundle(file) as bundle:
            about = {"kind": "engine", "file": str(bundle.path), "bytes": bundle.path.stat().st_size}
            return about | asdict(bundle.manifest) | _here(bundle.manifest)
    path, name = find_model(file)
    checkpoint = load_checkpoint(path)
    from ..models.macs import macs_per_pixel
    from ..models.registry import architecture_of

    architecture = architecture_of(checkpoint.spec.architecture)
    about = {"kind": "model", "file": str(path), "bytes": path.stat().st_size, "name": name}
    return about | {
        "format": checkpoint.format,
        "colour_order": checkpoint.colour_order,
        "weights_sha256": checkpoint.weights_sha256,
        "parameters": sum(each.numel() for each in checkpoint.network.parameters()),
        "macs_per_pixel": macs_per_pixel(checkpoint.network, checkpoint.spec),
        **asdict(checkpoint.spec),
        "published_protocol": asdict(architecture.protocol),
        "tried_with_trained_weights": architecture.trained,
        "metadata": dict(checkpoint.metadata),
    }


def _here(manifest: Manifest) -> dict[str, Any]:
    """Tell of an engine for a GPU why this machine cannot run it, None where nothing is known to stand against that."""
    if manifest.backend not in backends.names():
        return {}
    backend = backends.get(manifest.backend)
    if not backend.on_gpu:
        return {}
    artefact = Artefact(manifest.backend, manifest.backend_version, manifest.precision, {}, manifest.gpus)
    return {"unavailable_here": backend.unavailable(artefact)}


def describe_steps(file: str | os.PathLike[str], height: int, width: int) -> str:
    """Show the launches of an engine of the fused backend, or of the one in fp16 that a model would become, as a table
    with their work, traffic and tiles; none of them is run.

    Args:
        file: as for :func:`describe`.
        height, width: of the picture in pixels, padded up as a frame is.

    Raises:
        InputError: as :func:`describe`, or an engine of another backend.
        BundleError, CheckpointError, BackendUnavailable: as :func:`describe`.
        BuildError: the fused kernels do not know the network.
    """
    from ..plan import describe as words

    if is_engine(file):
        from .backends.fused.payload import read_plan

        with open_bundle(file) as bundle:
            if bundle.manifest.backend != "fused":
                raise InputError(
                    f"{file} is an engine of the {bundle.manifest.backend} backend, which has no launches to show; "
                    "give one of the fused backend, or a model."
                )
            plan = read_plan({name: bundle.read(name) for name in bundle.names})
    else:
        path, _ = find_model(file)
        network = load_checkpoint(path).network
        from ..plan import lower

        plan = lower(network, "fp16")
    height, width = (padded_side(side, plan.granularity) for side in (height, width))
    return words.describe(plan, height, width)

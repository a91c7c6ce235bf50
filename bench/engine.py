"""The speed of engine files, beside PyTorch eager and ONNX Runtime on the same network in the same run.

How they are timed stands in ``race``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..base.errors import BackendUnavailable, InputError, VerificationError
from ..base.progress import Progress, no_progress
from ..engine import backends, environment
from ..engine.build import matching_checkpoint
from ..engine.bundle import open_bundle
from ..engine.manifest import Manifest
from ..engine.shipped import find_engine
from ..models import weights
from ..models.checkpoint import Checkpoint
from ..models.loading import find_model
from . import rivals
from .contestants import Contestant, FromFile
from .race import time_in_turns
from .results import Benchmark


def bench_engines(
    engines: Sequence[str | os.PathLike[str]],
    *,
    sizes: Sequence[tuple[int, int]] = ((512, 512),),
    runs: int = 30,
    threads: int | None = None,
    model: str | os.PathLike[str] | None = None,
    compare: bool = False,
    onnx: Sequence[tuple[str, Path]] = (),
    starts: bool = True,
    trust: str | Sequence[str] = (),
    command: str,
    progress: Progress = no_progress,
) -> Benchmark:
    """Time engine files on random uint8 frames.

    Args:
        engines: engine files, or names of shipped weights for their engines.
        sizes: (height, width) of frames in pixels.
        runs: timed warm frames for each contestant and size.
        threads: CPU threads for every contestant; all that the process may use by default.
        model: the network that the engines were built from; by default the shipped weights they name as their
            source. Without it, or without what the reference needs to run, outputs are not verified.
        compare: also run the network in PyTorch eager and in ONNX Runtime, both fp32.
        onnx: (name, file) of other networks to time in ONNX Runtime in the same run, see
            :func:`.rivals.onnx_file`; their output is not verified.
        starts: also measure cold and warm starts and memory, each in a process of its own.
        trust: as for ``load``.
        command: the command line, for the record.
        progress: told every stage and the fraction done of it.

    Raises:
        InputError: nothing to measure, or ``compare`` without a network.
        VerificationError: ``model`` is not the network of an engine, or NaN came out.
        BundleError, CheckpointError, BackendUnavailable: something cannot be run.
    """
    if not engines or not sizes or runs < 1 or min(min(size) for size in sizes) < 1:
        raise InputError("A benchmark needs an engine, a frame size of at least 1x1 and at least one run.")
    count: int = threads or environment.cores()["threads"] or 1
    paths = [find_engine(engine, progress=progress) for engine in engines]
    progress("Loading", 0.0)
    contestants = [_engine_file(path, model, count, compare, trust) for path in paths]
    if compare:
        contestants += _rivals(contestants, count, progress)
    contestants += [rivals.onnx_file(name, file, count) for name, file in onnx]
    return time_in_turns(
        contestants,
        sizes=sizes,
        runs=runs,
        threads=count,
        starts=starts,
        command=command,
        progress=progress,
    )


def _engine_file(
    path: Path,
    model: str | os.PathLike[str] | None,
    threads: int,
    compare: bool,
    trust: str | Sequence[str],
) -> Contestant:
    with open_bundle(path) as bundle:
        manifest = bundle.manifest
    try:
        reference = _network_of(manifest, path, model)
    except BackendUnavailable:
        if compare or model is not None:
            raise
        reference = None
    return Contestant(
        path.name,
        manifest,
        reference,
        FromFile(path, backends.get(manifest.backend).on_gpu, threads, trust),
    )


def _network_of(manifest: Manifest, engine: Path, model: str | os.PathLike[str] | None) -> Checkpoint | None:
    """Read what the engine was built from: ``model``, or the shipped weights of its source's name if they are it."""
    path = weights.shipped(manifest.source) if model is None else find_model(model)[0]
    if path is None:
        return None
    checkpoint = matching_checkpoint(path, manifest)
    if checkpoint is not None or model is None:
        return checkpoint
    raise VerificationError(f"{engine} was built from other weights than those in {path}.")


def _rivals(engines: Sequence[Contestant], threads: int, progress: Progress) -> list[Contestant]:
    """Make two contestants for each network among the engines."""
    networks = {each.manifest.weights_sha256: each for each in engines}
    found = []
    for each in networks.values():
        if each.reference is None:
            raise InputError(
                f"{each.name} was built from {each.manifest.source}; give that model to compare with."
            )
        for name, make in (("PyTorch eager", rivals.pytorch), ("ONNX Runtime", rivals.onnx_runtime)):
            progress(f"Preparing {name}", 0.0)
            manifest, opener = make(each.reference, each.manifest, threads)
            label = name if len(networks) == 1 else f"{name} ({manifest.source})"
            found.append(Contestant(label, manifest, each.reference, opener))
    return found

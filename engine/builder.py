"""From trained weights to an engine file: load, compile, verify, time, write."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import backends, files, frames, verify, weights
from .backends.base import Artefact, CompileOptions, RunOptions
from .bundle import Manifest, open_bundle, write_bundle
from .checkpoint import Checkpoint, load_checkpoint
from .errors import BackendUnavailable, BundleError, InputError, VerificationError
from .progress import Progress, no_progress
from .trust import record as record_trust
from .trust import require as require_trust
from .version import __version__

if TYPE_CHECKING:
    from .backends.base import Backend, Session

#: Names that --accept takes.
CHECKS = verify.CHECKS
_TIMED_SIDE = 512
_TIMED_RUNS = 5
#: In pixels, of the frames that an engine may be specialised on.
_LARGEST_SIDE = 16384
_SECONDS_TO_TIME = 20.0


@dataclass(frozen=True)
class BuildReport:
    """What a build made.

    path, manifest: the engine file. parameters: distinct numbers in the network's weights.
    size: of the file in bytes. verification: engine against reference. warm_ms: median milliseconds a warm
    frame of ``timed_size`` (height, width) on this machine; None where it cannot run the engine. seconds: the build
    took.
    """

    path: Path
    manifest: Manifest
    parameters: int
    size: int
    verification: verify.Report
    warm_ms: float | None
    timed_size: tuple[int, int]
    seconds: float


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


def build(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    backend: str | None = None,
    precision: str | None = None,
    shape: tuple[int, int] | None = None,
    colour_order: Literal["auto", "rgb", "bgr"] = "auto",
    options: Mapping[str, Any] | None = None,
    gpu: str | None = None,
    accept: Sequence[str] = (),
    progress: Progress = no_progress,
) -> BuildReport:
    """Build an engine file. Nothing is written unless the engine passes its comparison with the reference.

    Args:
        model: a weights file, or the name of shipped weights; an existing file goes first.
        output: the engine file, customarily ``*.derain``.
        backend: a name of ``engine.backends``; by default the fastest for this machine.
        precision: ``fp32``, ``bf16``, ...; by default the fastest that the machine computes in.
        shape: (height, width) in pixels to specialise on, rounded up to what the network takes; the engine then
            takes frames that are padded to this size and no others.
        colour_order, options: as in :func:`load_checkpoint`.
        gpu: the GPUs to build for, for backends that run on one: ``current``, ``all`` or names such as
            ``sm_80,sm_90``; by default this machine's. It need not have one: then what the engine computes is
            compared on the CPU (``verification.rehearsed``).
        accept: checks (``CHECKS``) whose miss does not stop the build.
        progress: told every stage and how much of it is done.

    Raises:
        InputError, CheckpointError, BackendUnavailable, BuildError: no engine can be made of this.
        VerificationError: the engine differs from its reference by more than the bounds of its precision.
    """
    started = time.monotonic()
    output = Path(output)
    unknown = sorted(set(accept) - set(CHECKS))
    if unknown:
        raise InputError(f"There is no check {unknown[0]!r} to accept; checks: {', '.join(CHECKS)}.")
    path, name = find_model(model)
    if output.exists() and output.samefile(path):
        raise InputError(f"{output} is the model itself; choose another name for the engine file.")
    files.require_writable(output)
    chosen = backends.get(backend or backends.default_name())
    if precision is not None and precision not in chosen.precisions:
        raise InputError(
            f"The {chosen.name} backend has no precision {precision!r}; it has {', '.join(chosen.precisions)}."
        )
    if gpu is not None and not chosen.on_gpu:
        raise InputError(
            f"The {chosen.name} backend runs on CPUs; leave --gpu out, or choose another --backend."
        )

    progress("Loading", 0.0)
    checkpoint = load_checkpoint(path, colour_order=colour_order, options=options)
    spec = checkpoint.spec
    if shape is not None:
        if not all(0 < side <= _LARGEST_SIDE for side in shape):
            raise InputError(f"A shape's sides are 1 to {_LARGEST_SIDE} pixels, not {shape[0]}x{shape[1]}.")
        height, width = (frames.padded_side(side, spec.granularity, spec.smallest_side) for side in shape)
        shape = (height, width)
    artefact = chosen.compile(checkpoint.network, spec, CompileOptions(precision, shape, gpu), progress)
    report, warm_ms, timed_size = _examine(chosen, artefact, checkpoint, shape, progress)
    verify.check(report, name, accept)

    progress("Writing", 0.0)
    manifest = write_bundle(output, _manifest(name, checkpoint, artefact, shape, report), artefact.payloads)
    if chosen.on_gpu:
        record_trust(output)
    return BuildReport(
        path=output,
        manifest=manifest,
        parameters=sum(p.numel() for p in checkpoint.network.parameters()),
        size=output.stat().st_size,
        verification=report,
        warm_ms=warm_ms,
        timed_size=timed_size,
        seconds=time.monotonic() - started,
    )


def verify_engine(
    engine: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    *,
    trust: str | Sequence[str] = (),
    progress: Progress = no_progress,
) -> verify.Report:
    """Compare an engine file with the network it was built from, on this machine.

    model: as in :func:`build`; by default the shipped weights that the engine names as its source.
    trust: as in :func:`load`.

    Raises:
        VerificationError: the model's weights are not those that the engine was built from, or NaN came out.
        BundleError, CheckpointError, InputError, BackendUnavailable: they cannot be compared. A missed bound is
        in the report.
    """
    with open_bundle(engine) as bundle:
        manifest = bundle.manifest
        if model is None and weights.shipped(manifest.source) is None:
            raise InputError(f"{engine} was built from {manifest.source}; give that model to compare with.")
        path, _ = find_model(manifest.source if model is None else model)
        progress("Loading", 0.0)
        checkpoint = matching_checkpoint(path, manifest)
        if checkpoint is None:
            raise VerificationError(f"{engine} was built from other weights than those in {path}.")
        artefact = Artefact(
            manifest.backend,
            manifest.backend_version,
            manifest.precision,
            {each: bundle.read(each) for each in bundle.names},
        )
        backend = backends.get(manifest.backend)
        if backend.on_gpu:
            require_trust(bundle, trust)
        session, rehearsed = _open(backend, artefact)
        try:
            report = _verified(session, checkpoint, manifest.precision, _only_size(manifest), progress)
            return replace(report, rehearsed=rehearsed)
        finally:
            session.close()


def _open(backend: Backend, artefact: Artefact) -> tuple[Session, bool]:
    """A session to compare with the reference, and whether it only rehearses what the artefact does elsewhere."""
    try:
        return backend.open(artefact, RunOptions()), False
    except BackendUnavailable:
        rehearsal = backend.rehearse(artefact)
        if rehearsal is None:
            raise
        return rehearsal, True


def _only_size(manifest: Manifest) -> tuple[int, int] | None:
    """(height, width) in pixels of the frames that the engine was specialised on."""
    match manifest.input.get("size"):
        case None:
            return None
        case [int(height), int(width)] if 0 < height <= _LARGEST_SIDE and 0 < width <= _LARGEST_SIDE:
            return height, width
        case other:
            raise BundleError(f"An engine's frame size of {other!r} is not [height, width] in pixels.")


def matching_checkpoint(path: Path, manifest: Manifest) -> Checkpoint | None:
    """The model with the engine's configuration, in whichever colour order gives the engine's weights; None where
    its weights are others. Raises as :func:`load_checkpoint` does."""
    orders: tuple[Literal["auto", "rgb", "bgr"], ...] = ("auto", "rgb", "bgr")
    for order in orders:
        checkpoint = load_checkpoint(path, colour_order=order, options=manifest.config)
        if checkpoint.weights_sha256 == manifest.weights_sha256:
            return checkpoint
    return None


def _verified(
    session: Session,
    checkpoint: Checkpoint,
    precision: str,
    shape: tuple[int, int] | None,
    progress: Progress,
) -> verify.Report:
    return verify.verify(
        session,
        checkpoint.network,
        granularity=checkpoint.spec.granularity,
        smallest_side=checkpoint.spec.smallest_side,
        precision=precision,
        shape=shape,
        progress=progress,
    )


def _examine(
    backend: Backend,
    artefact: Artefact,
    checkpoint: Checkpoint,
    shape: tuple[int, int] | None,
    progress: Progress,
) -> tuple[verify.Report, float | None, tuple[int, int]]:
    """(comparison with the reference, warm milliseconds, size they are for)."""
    session, rehearsed = _open(backend, artefact)
    try:
        report = _verified(session, checkpoint, artefact.precision, shape, progress)
        height, width = shape or (max(_TIMED_SIDE, checkpoint.spec.smallest_side),) * 2
        if rehearsed:
            return replace(report, rehearsed=True), None, (height, width)
        frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        session.run(frame)
        times: list[float] = []
        while len(times) < _TIMED_RUNS and sum(times) < _SECONDS_TO_TIME:
            progress("Timing", len(times) / _TIMED_RUNS)
            start = time.perf_counter()
            session.run(frame)
            times.append(time.perf_counter() - start)
        progress("Timing", 1.0)
        return report, 1000 * statistics.median(times), (height, width)
    finally:
        session.close()


def _manifest(
    name: str,
    checkpoint: Checkpoint,
    artefact: Artefact,
    shape: tuple[int, int] | None,
    report: verify.Report,
) -> Manifest:
    spec = checkpoint.spec
    edge: dict[str, Any] = {
        "layout": "NHWC",
        "colour": "RGB",
        "dtypes": ["uint8", "float32"],
        "range": [0, 1],
    }
    edge["size"] = None if shape is None else list(shape)
    return Manifest(
        architecture=spec.architecture,
        config=dict(spec.config),
        granularity=spec.granularity,
        smallest_side=spec.smallest_side,
        exact_tiling_halo=spec.exact_tiling_halo,
        tile_overlap=spec.tile_overlap,
        bytes_per_pixel=spec.bytes_per_pixel
        if artefact.bytes_per_pixel is None
        else artefact.bytes_per_pixel,
        source=name,
        weights_sha256=checkpoint.weights_sha256,
        backend=artefact.backend,
        backend_version=artefact.backend_version,
        precision=artefact.precision,
        gpus=artefact.gpus,
        input={"name": "rainy", **edge},
        output={"name": "clean", **edge},
        verification=report.to_json(),
        derain_engine=__version__,
    )

"""From trained weights to an engine file: load, compile, verify, time, write."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..base import files
from ..base.errors import BackendUnavailable, InputError, VerificationError
from ..base.progress import Progress, no_progress
from ..base.sizes import FrameSizes, Size, words
from ..base.version import __version__
from ..models import onnx_file, weights
from ..models.checkpoint import Checkpoint, load_checkpoint
from ..models.loading import find_model, load_model
from ..models.model_file import is_onnx
from ..samples import photographs
from . import backends, verify
from .backends.base import Artefact, CompileOptions, Repair, RunOptions
from .bundle import Manifest, open_bundle, write_bundle
from .options import calibration, frame_sizes, padded_size, repairs, require_taken
from .trust import record as record_trust
from .trust import require as require_trust

if TYPE_CHECKING:
    from .backends.base import Backend, Session

#: Names that --accept takes.
CHECKS = verify.CHECKS
#: Values that --hardware-compatibility takes, of TensorRT's own names.
HARDWARE_COMPATIBILITIES = ("none", "ampere_plus", "same_compute_capability")
_TIMED_SIDE = 512
_TIMED_RUNS = 5
_SECONDS_TO_TIME = 20.0


@dataclass(frozen=True)
class BuildReport:
    """What a build made.

    path, manifest: the engine file. parameters: distinct numbers in the network's weights.
    size: of the file in bytes. verification: engine against reference. passed_over: why the machine's fastest precision
    was not taken; None where it was, or another was asked for. warm_ms: median milliseconds a warm
    frame of ``timed_size`` (height, width) on this machine; None where it cannot run the engine. seconds: the build
    took.
    """

    path: Path
    manifest: Manifest
    parameters: int
    size: int
    verification: verify.Report
    passed_over: str | None
    warm_ms: float | None
    timed_size: tuple[int, int]
    seconds: float


def build(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    backend: str | None = None,
    precision: str | None = None,
    shape: tuple[int, int] | None = None,
    colour_order: Literal["auto", "rgb", "bgr"] = "auto",
    options: Mapping[str, Any] | None = None,
    arch: str | None = None,
    value_range: str | None = None,
    granularity: int | None = None,
    gpu: str | None = None,
    min_shape: tuple[int, int] | None = None,
    opt_shapes: Sequence[tuple[int, int]] = (),
    max_shape: tuple[int, int] | None = None,
    repair: Literal["auto", "off"] = "auto",
    workspace: int | None = None,
    hardware_compatibility: str | None = None,
    version_compatible: bool = False,
    plugins: bool = False,
    accept: Sequence[str] = (),
    progress: Progress = no_progress,
) -> BuildReport:
    """Build an engine file. Nothing is written unless the engine passes its comparison with the reference.

    Args:
        model: a weights file, an ONNX model, or the name of shipped weights; an existing file goes first.
        output: the engine file, customarily ``*.derain``.
        backend: a name of ``engine.backends``; by default the fastest for this machine.
        precision: ``fp32``, ``bf16``, ...; by default the fastest that the machine computes in, or fp32 where the
            engine misses its comparison in that.
        shape: (height, width) in pixels to specialise on, rounded up to what the network takes; the engine then
            takes frames that are padded to this size and no others (larger ones in tiles).
        colour_order, options, arch: as in :func:`load_checkpoint`.
        value_range, granularity: of an ONNX model, as in :func:`load_model`.
        gpu: the GPUs to build for, for backends that run on one: ``current``, ``all`` or names such as
            ``sm_80,sm_90``; by default this machine's. It need not have one: then what the engine computes is
            compared on the CPU (``verification.emulated``).
        min_shape, opt_shapes, max_shape: (height, width) in pixels, for backends whose engines take a range of sizes:
            the least frames, those to be fastest for, and the most; by default from the network's smallest side over
            512x512 to 1088x1920. Smaller frames are padded, larger ones run in tiles.
        repair: ``auto`` keeps those parts of the network in fp32 which keep the engine in fp16 from passing the
            comparison, for backends that can, and says which; ``off`` keeps none.
        workspace: most bytes of memory that a layer may take for itself, for TensorRT.
        hardware_compatibility, version_compatible: of TensorRT: ``ampere_plus`` or ``same_compute_capability`` for
            engines that run on other GPUs too, and whether later versions of it may run them.
        plugins: put the fused kernels of MFFBs into the engine, for TensorRT.
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
    require_taken(
        chosen,
        sizes=bool(min_shape or opt_shapes or max_shape),
        workspace=workspace is not None,
        hardware_compatibility=hardware_compatibility is not None,
        version_compatible=version_compatible,
        plugins=plugins,
    )
    if hardware_compatibility not in (None, *HARDWARE_COMPATIBILITIES):
        raise InputError(
            f"There is no hardware compatibility {hardware_compatibility!r}; there is "
            f"{', '.join(HARDWARE_COMPATIBILITIES)}."
        )

    progress("Loading", 0.0)
    checkpoint = load_model(
        path,
        colour_order=colour_order,
        options=options,
        arch=arch,
        value_range=value_range,
        granularity=granularity,
        progress=progress,
    )
    spec = checkpoint.spec
    only = onnx_file.only_size(spec)
    if only is not None:
        if shape not in (None, only) or min_shape or opt_shapes or max_shape:
            raise InputError(f"{path} was made for frames of {words(only)} alone; name no other sizes.")
        shape = only
    if shape is not None:
        shape = padded_size(shape, spec)
    sizes = frame_sizes(spec, shape, min_shape, opt_shapes, max_shape) if "sizes" in chosen.takes else None
    compile_options = CompileOptions(
        precision,
        shape,
        gpu,
        sizes=sizes,
        calibration=calibration(spec) if precision in verify.LOSSY else None,
        workspace=workspace,
        hardware_compatibility=hardware_compatibility or "none",
        version_compatible=version_compatible,
        plugins=plugins,
    )
    judged_on = repairs(spec) if repair == "auto" and "repair" in chosen.takes else iter([None])
    try:
        artefact, report, warm_ms, timed_size = _make(
            chosen, checkpoint, compile_options, judged_on, accept, progress
        )
        verify.check(report, name, accept)
        passed_over = None
    except VerificationError as error:
        if precision is not None or "fp32" not in chosen.precisions:
            raise
        passed_over, exact = str(error), replace(compile_options, precision="fp32")
        try:
            artefact, report, warm_ms, timed_size = _make(
                chosen, checkpoint, exact, iter([None]), accept, progress
            )
            verify.check(report, name, accept)
        except VerificationError as both:
            raise VerificationError(f"{passed_over.partition('. ')[0]}. {both}") from None

    if only is not None:
        artefact = replace(artefact, sizes=FrameSizes.only(only))
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
        passed_over=passed_over,
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
        session, emulated = _open(backend, artefact)
        try:
            size = _compared_size(manifest.only_size, manifest.sizes, emulated)
            report = _verified(session, checkpoint, manifest.precision, size, progress)
            return replace(report, emulated=emulated)
        finally:
            session.close()


def _open(backend: Backend, artefact: Artefact) -> tuple[Session, bool]:
    """A session to compare with the reference, and whether it only emulates what the artefact does elsewhere."""
    try:
        return backend.open(artefact, RunOptions()), False
    except BackendUnavailable:
        emulation = backend.emulate(artefact)
        if emulation is None:
            raise
        return emulation, True


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
        picks_maxima=checkpoint.spec.picks_maxima,
        progress=progress,
    )


def _make(
    backend: Backend,
    checkpoint: Checkpoint,
    options: CompileOptions,
    judged_on: Iterator[Repair | None],
    accept: Sequence[str],
    progress: Progress,
) -> tuple[Artefact, verify.Report, float | None, Size]:
    """The artefact and what :func:`_examine` says of it, once for every repair of them until one passes."""
    repair = next(judged_on)
    while True:
        artefact = backend.compile(
            checkpoint.network, checkpoint.spec, replace(options, repair=repair), progress
        )
        following = next(judged_on, None) if artefact.precision != "fp32" else None
        try:
            examined = _examine(backend, artefact, checkpoint, options, progress)
        except VerificationError:
            if following is None:
                raise
        else:
            if following is None or not verify.refused(examined[0], accept):
                return artefact, *examined
        repair = following


def _compared_size(shape: Size | None, sizes: FrameSizes | None, emulated: bool) -> Size | None:
    """Of the pictures that an engine is compared on; None for the usual ones."""
    if sizes is None:
        return shape
    # What emulates has no plan of one size.
    return None if emulated else sizes.nearest(*photographs.PICTURE_SIZE)


def _examine(
    backend: Backend,
    artefact: Artefact,
    checkpoint: Checkpoint,
    options: CompileOptions,
    progress: Progress,
) -> tuple[verify.Report, float | None, Size]:
    """(comparison with the reference, warm milliseconds, size they are for)."""
    session, emulated = _open(backend, artefact)
    try:
        size = _compared_size(options.shape, artefact.sizes, emulated)
        report = _verified(session, checkpoint, artefact.precision, size, progress)
        height, width = options.shape or (max(_TIMED_SIDE, checkpoint.spec.smallest_side),) * 2
        if artefact.sizes is not None:
            height, width = artefact.sizes.usual[0]
        if emulated:
            return replace(report, emulated=True), None, (height, width)
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
    if artefact.sizes is not None:
        edge["sizes"] = artefact.sizes.to_json()
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
        verification=report.to_json() | dict(artefact.notes),
        derain_engine=__version__,
    )


def matching_checkpoint(path: Path, manifest: Manifest) -> Checkpoint | None:
    """The model with the engine's configuration, in whichever colour order gives the engine's weights; None where
    its weights are others. Raises as :func:`load_model` does."""
    if is_onnx(path):
        config = manifest.config
        told = onnx_file.OnnxFacts(config.get("colour_order"), config.get("range"), config.get("granularity"))
        checkpoint = onnx_file.read_onnx(path, told)
        return checkpoint if checkpoint.weights_sha256 == manifest.weights_sha256 else None
    orders: tuple[Literal["auto", "rgb", "bgr"], ...] = ("auto", "rgb", "bgr")
    for order in orders:
        checkpoint = load_checkpoint(
            path, colour_order=order, options=manifest.config, arch=manifest.architecture
        )
        if checkpoint.weights_sha256 == manifest.weights_sha256:
            return checkpoint
    return None

"""Builds of engine files from trained weights: load, compile, verify, time, write."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from ..base import files
from ..base.errors import BackendUnavailable, InputError, VerificationError
from ..base.options import combined
from ..base.progress import Progress, no_progress
from ..base.sizes import Size
from ..models import onnx_file, weights
from ..models.checkpoint import Checkpoint, load_checkpoint
from ..models.loading import find_model, load_model
from ..models.model_file import is_onnx
from ..models.spec import ColourChoice
from . import backends, verify
from . import examination as examinations
from .backends.base import Artefact, CompileOptions, RepairGoal, RunOptions
from .bundle import open_bundle, write_bundle
from .examination import calibration, repair_goals
from .manifest import Manifest
from .options import BuildOptions
from .trust import record as record_trust
from .trust import require as require_trust

if TYPE_CHECKING:
    from .backends.base import Backend, Session

_TIMED_RUNS = 5
_SECONDS_TO_TIME = 20.0


@dataclass(frozen=True)
class BuildReport:
    """The outcome of a build.

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
    options: BuildOptions | None = None,
    *,
    progress: Progress = no_progress,
    **fields: Any,
) -> BuildReport:
    """Build an engine file. Nothing is written unless the engine passes its comparison with the reference.

    Args:
        model: a weights file, an ONNX model, or the name of shipped weights; an existing file goes first.
        output: the engine file, customarily ``*.derain``.
        options: how to build it.
        progress: told every stage and how much of it is done.
        fields: single fields of BuildOptions, such as ``precision="fp32"``; they go before those of ``options``.

    Raises:
        InputError, CheckpointError, BackendUnavailable, BuildError: no engine can be made of this.
        VerificationError: the engine differs from its reference by more than the bounds of its precision.
    """
    started = time.monotonic()
    options = combined(BuildOptions, options, fields)
    output = Path(output)
    path, name = find_model(model)
    if output.exists() and output.samefile(path):
        raise InputError(f"{output} is the model itself; choose another name for the engine file.")
    files.require_writable(output)

    progress("Loading", 0.0)
    checkpoint = load_model(
        path,
        colour_order=options.colour_order,
        options=options.network_options,
        arch=options.arch,
        value_range=options.value_range,
        granularity=options.granularity,
        progress=progress,
    )
    spec, backend = checkpoint.spec, options.find_backend()
    compile_options = CompileOptions(
        options.precision,
        options.sizes_for(spec, path),
        options.gpu,
        calibration=calibration(spec) if options.precision in verify.LOSSY else None,
        workspace=options.workspace,
        hardware_compatibility=options.hardware_compatibility or "none",
        version_compatible=options.version_compatible,
        plugins=options.plugins,
    )
    goals = repair_goals(spec) if options.repair == "auto" and "repair" in backend.takes else iter([None])
    accept, passed_over = options.accept, None
    try:
        made = _make(backend, checkpoint, compile_options, goals, name, accept, progress)
    except VerificationError as error:
        if options.precision is not None or "fp32" not in backend.precisions:
            raise
        passed_over, exact = str(error), replace(compile_options, precision="fp32")
        try:
            made = _make(backend, checkpoint, exact, iter([None]), name, accept, progress)
        except VerificationError as both:
            raise VerificationError(f"{passed_over.partition('. ')[0]}. {both}") from None

    progress("Writing", 0.0)
    manifest = Manifest.of(
        spec,
        made.artefact,
        source=name,
        weights_sha256=checkpoint.weights_sha256,
        verification=made.report.to_json(),
    )
    manifest = write_bundle(output, manifest, made.artefact.payloads)
    if backend.on_gpu:
        record_trust(output)
    return BuildReport(
        path=output,
        manifest=manifest,
        parameters=sum(p.numel() for p in checkpoint.network.parameters()),
        size=output.stat().st_size,
        verification=made.report,
        passed_over=passed_over,
        warm_ms=made.warm_ms,
        timed_size=made.timed_size,
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

    Args:
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
        artefact = bundle.artefact()
        backend = backends.get(manifest.backend)
        if backend.on_gpu:
            require_trust(bundle, trust)
        session, emulated = _open(backend, artefact)
        with contextlib.closing(session):
            return _verified(session, checkpoint, artefact, emulated, progress)


def _open(backend: Backend, artefact: Artefact) -> tuple[Session, bool]:
    """Open a session to compare with the reference, and tell whether it only emulates what the artefact does
    elsewhere."""
    try:
        return backend.open(artefact, RunOptions()), False
    except BackendUnavailable:
        emulation = backend.emulate(artefact)
        if emulation is None:
            raise
        return emulation, True


def _verified(
    session: Session, checkpoint: Checkpoint, artefact: Artefact, emulated: bool, progress: Progress
) -> verify.Report:
    spec, examination = checkpoint.spec, examinations.current()
    # What emulates the plan of a range of sizes takes what the network does.
    sizes = spec.sizes if emulated and artefact.sizes.most else artefact.sizes
    pictures = examination.pairs(examination.compared_size(sizes))
    report = verify.verify(session, checkpoint.network, spec, artefact.precision, pictures, progress)
    return replace(report, emulated=emulated)


@dataclass(frozen=True)
class _Made:
    """An artefact, its comparison with the reference, and the median milliseconds of a warm frame of ``timed_size``;
    None where this machine cannot run it."""

    artefact: Artefact
    report: verify.Report
    warm_ms: float | None
    timed_size: Size


def _make(
    backend: Backend,
    checkpoint: Checkpoint,
    options: CompileOptions,
    goals: Iterator[RepairGoal | None],
    name: str,
    accept: Sequence[str],
    progress: Progress,
) -> _Made:
    """Compile and examine an artefact, once for every goal of repair until one passes. Raises VerificationError where
    none does."""
    goal = next(goals)
    while True:
        artefact = backend.compile(
            checkpoint.network, checkpoint.spec, replace(options, repair=goal), progress
        )
        following = next(goals, None) if artefact.precision != "fp32" else None
        try:
            made = _examine(backend, artefact, checkpoint, progress)
            verify.check(made.report, name, accept)
            return made
        except VerificationError:
            if following is None:
                raise
        goal = following


def _examine(backend: Backend, artefact: Artefact, checkpoint: Checkpoint, progress: Progress) -> _Made:
    session, emulated = _open(backend, artefact)
    with contextlib.closing(session):
        report = _verified(session, checkpoint, artefact, emulated, progress)
        size = examinations.current().timed_size(artefact.sizes)
        if emulated:
            return _Made(artefact, report, None, size)
        frame = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
        session.run(frame)
        times: list[float] = []
        while len(times) < _TIMED_RUNS and sum(times) < _SECONDS_TO_TIME:
            progress("Timing", len(times) / _TIMED_RUNS)
            start = time.perf_counter()
            session.run(frame)
            times.append(time.perf_counter() - start)
        progress("Timing", 1.0)
        return _Made(artefact, report, 1000 * statistics.median(times), size)


def matching_checkpoint(path: Path, manifest: Manifest) -> Checkpoint | None:
    """Read the model with the engine's configuration, in whichever colour order gives the engine's weights; None where
    its weights are others. Raises as :func:`load_model` does."""
    if is_onnx(path):
        config = manifest.config
        told = onnx_file.OnnxFacts(config.get("colour_order"), config.get("range"), config.get("granularity"))
        checkpoint = onnx_file.read_onnx(path, told)
        return checkpoint if checkpoint.weights_sha256 == manifest.weights_sha256 else None
    for order in get_args(ColourChoice):
        checkpoint = load_checkpoint(
            path, colour_order=order, options=manifest.config, arch=manifest.architecture
        )
        if checkpoint.weights_sha256 == manifest.weights_sha256:
            return checkpoint
    return None

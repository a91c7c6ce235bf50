"""How fast an engine file is, beside PyTorch eager and ONNX Runtime on the same network in the same run.

All contestants take turns frame by frame, so that a machine that slows down slows all of them, and every one's
output is compared with the fp32 reference in the run that times it.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..engine import backends, environment, frames, quality, verify, weights
from ..engine.builder import find_model, matching_checkpoint
from ..engine.bundle import open_bundle
from ..engine.checkpoint import Checkpoint
from ..engine.errors import BackendUnavailable, InputError, VerificationError
from ..engine.manifest import Manifest
from ..engine.progress import Progress, no_progress
from ..engine.runtime import Engine
from ..engine.shipped import find_engine
from . import rivals
from .contestants import Contestant, FromFile
from .gpu import gpu
from .results import Benchmark, Row
from .roofs import Roofs, measure_roofs
from .starts import Starts, measure_starts

#: Frames that take turns as input, so that none is met with its own values still in the caches.
_INPUTS = 4
_WARM_UP = 2
_STREAM_ROUNDS = 3
#: After so many seconds a contestant is warm, and its stream was measured for long enough.
_ENOUGH = 5.0
#: In seconds, before every timed frame: threads of the contestant before go on spinning for a while.
_PAUSE = 0.02


@dataclass(frozen=True)
class _Verified:
    ok: bool | None = None
    psnr_db: float | None = None
    max_abs: float | None = None


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
            :class:`.rivals.OnnxFile`; their output is not verified.
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
    return measure(
        contestants,
        sizes=sizes,
        runs=runs,
        threads=count,
        starts=starts,
        command=command,
        progress=progress,
    )


def measure(
    contestants: Sequence[Contestant],
    *,
    sizes: Sequence[tuple[int, int]],
    runs: int,
    threads: int,
    starts: bool,
    command: str,
    progress: Progress = no_progress,
) -> Benchmark:
    """Time them all at each size, in turns. Arguments as for :func:`bench_engines`."""
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    roofs = measure_roofs(contestants, threads, progress)
    rows = [
        row
        for size in sizes
        for row in _measure(contestants, size, runs, threads, progress, starts=starts, roofs=roofs)
    ]
    return Benchmark(tuple(rows), environment.of_measurement(), command, date)


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
    """What the engine was built from: ``model``, or the shipped weights of its source's name if they are it."""
    path = weights.shipped(manifest.source) if model is None else find_model(model)[0]
    if path is None:
        return None
    checkpoint = matching_checkpoint(path, manifest)
    if checkpoint is not None or model is None:
        return checkpoint
    raise VerificationError(f"{engine} was built from other weights than those in {path}.")


def _rivals(engines: Sequence[Contestant], threads: int, progress: Progress) -> list[Contestant]:
    """Two for each network among the engines."""
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


def _measure(
    contestants: Sequence[Contestant],
    size: tuple[int, int],
    runs: int,
    threads: int,
    progress: Progress,
    *,
    starts: bool = False,
    roofs: Roofs | None = None,
) -> list[Row]:
    label = f"{size[0]}x{size[1]}"
    images = np.random.default_rng(0).integers(0, 256, (_INPUTS, *size, 3), dtype=np.uint8)
    processes: list[Starts | None] = []
    for each in contestants:
        if starts:
            progress(f"{label}: starts", len(processes) / len(contestants))
        processes.append(measure_starts(each.open, images[0]) if starts else None)
    opened: list[Engine] = []
    openings: list[tuple[float, float]] = []
    try:
        for each in contestants:
            progress(f"{label}: opening", len(opened) / len(contestants))
            began = time.perf_counter()
            opened.append(each.open("latency"))
            open_seconds = time.perf_counter() - began
            openings.append((open_seconds, _seconds(opened[-1], images[0])))
        progress(f"{label}: comparing outputs", 0.0)
        verified = _verify_all(contestants, opened, size)
        for engine in opened:
            began = time.perf_counter()
            for image in images[:_WARM_UP]:
                if time.perf_counter() - began < _ENOUGH:
                    engine(image)
        times = np.empty((len(opened), runs))
        for run in range(runs):
            progress(f"{label}: latency", run / runs)
            for i, engine in enumerate(opened):
                time.sleep(_PAUSE)
                times[i, run] = _seconds(engine, images[run % _INPUTS])
    finally:
        for engine in opened:
            engine.close()
    rates = _stream(contestants, images, runs, lambda done: progress(f"{label}: stream", done))
    about = gpu() if any(each.open.on_gpu for each in contestants) else None
    cpu = environment.cpu()["model"]
    rows = []
    measured = zip(contestants, opened, processes, openings, verified, times, rates, strict=True)
    for each, engine, process, opening, check, seconds, rate in measured:
        median, p95, p99 = (float(value) for value in 1000 * np.percentile(seconds, (50, 95, 99)))
        on_gpu = each.open.on_gpu
        work = roofs and roofs.work.get(each.manifest.weights_sha256)
        ceiling = roofs and roofs.ceilings.get((on_gpu, engine.precision))
        rows.append(
            Row(
                name=each.name,
                backend=each.manifest.backend,
                backend_version=each.manifest.backend_version,
                precision=engine.precision,
                height=size[0],
                width=size[1],
                threads=threads,
                device=cpu if not on_gpu else "GPU" if about is None else about.name,
                driver=about.driver if on_gpu and about is not None else None,
                cold_start_ms=process and process.cold_ms,
                warm_start_ms=process and process.warm_ms,
                open_ms=1000 * opening[0],
                first_ms=1000 * opening[1],
                runs=runs,
                median_ms=median,
                p95_ms=p95,
                p99_ms=p99,
                noise=_noise(seconds),
                frames_per_second=rate,
                peak_host_mb=process and process.peak_host_mb,
                device_mb=process and process.device_mb,
                verified=check.ok,
                psnr_db=check.psnr_db,
                max_abs=check.max_abs,
                macs_per_pixel=work and work.macs_per_pixel,
                flop_per_byte=work and work.flop_per_byte(engine.precision, *size),
                matmul_tflop_s=ceiling and ceiling.matmul_tflop_s,
                copy_gb_s=ceiling and ceiling.copy_gb_s,
            )
        )
    return rows


def _noise(seconds: np.ndarray) -> float | None:
    """As of :class:`Row`."""
    if len(seconds) < 4:
        return None
    first, second = (float(np.median(half)) for half in np.array_split(seconds, 2))
    return abs(first - second) / min(first, second)


def _seconds(engine: Engine, image: np.ndarray) -> float:
    began = time.perf_counter()
    engine(image)
    return time.perf_counter() - began


def _stream(
    contestants: Sequence[Contestant], images: np.ndarray, runs: int, progress: Callable[[float], None]
) -> list[float]:
    """Frames a second of each contestant, over rounds in which all take turns, slow ones not in all."""
    count = -(-runs // _STREAM_ROUNDS)
    opened: list[Engine] = []
    seconds, frames_done = np.zeros(len(contestants)), np.zeros(len(contestants))
    try:
        for each in contestants:
            opened.append(each.open("throughput"))
            opened[-1](images[0])
        for round_ in range(_STREAM_ROUNDS):
            progress(round_ / _STREAM_ROUNDS)
            for i, engine in enumerate(opened):
                if seconds[i] > _ENOUGH:
                    continue
                time.sleep(_PAUSE)
                began = time.perf_counter()
                frames_done[i] += sum(1 for _ in engine.stream(images[n % _INPUTS] for n in range(count)))
                seconds[i] += time.perf_counter() - began
    finally:
        for engine in opened:
            engine.close()
    return [float(rate) for rate in frames_done / seconds]


def _verify_all(
    contestants: Sequence[Contestant], opened: Sequence[Engine], size: tuple[int, int]
) -> list[_Verified]:
    """Every engine against its fp32 reference on one rainy picture, mirrored to the size that is timed."""
    references: dict[str, np.ndarray] = {}
    return [_verify(*pair, size, references) for pair in zip(contestants, opened, strict=True)]


def _verify(
    contestant: Contestant, engine: Engine, size: tuple[int, int], references: dict[str, np.ndarray]
) -> _Verified:
    """references: outputs by the network's weights, each computed once."""
    if contestant.reference is None:
        return _Verified()
    name, pair = next(iter(verify.rainy_pairs().items()))
    missing = [(0, max(0, side - have)) for side, have in zip(size, pair[0].shape, strict=False)]
    image, truth = (np.pad(each, [*missing, (0, 0)], mode="symmetric")[: size[0], : size[1]] for each in pair)
    levels = frames.quantise(image, np.uint8)
    spec = contestant.reference.spec
    padded, (height, width) = frames.pad_frame(
        frames.to_float(levels)[None], spec.granularity, spec.smallest_side
    )
    key = contestant.reference.weights_sha256
    if key not in references:
        references[key] = verify.reference_output(contestant.reference.network, padded)
    reference = references[key][0, :height, :width]
    output = engine(frames.to_float(levels))
    comparison = verify.compare(name, output, engine(levels), reference)
    if engine.precision in verify.LOSSY:
        cost = quality.judge(frames.to_float(levels), truth, reference, output)
        comparison = replace(comparison, quality=cost)
    report = verify.Report(engine.precision, (comparison,), picks_maxima=spec.picks_maxima)
    return _Verified(
        ok=not report.missed(),
        psnr_db=comparison.psnr if np.isfinite(comparison.psnr) else None,
        max_abs=comparison.max_abs,
    )

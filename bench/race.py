"""The race of contestants that take turns frame by frame, so that a machine that slows down slows all of them.

Every one's output is compared with the fp32 reference in the run that times it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..base.progress import Progress, no_progress
from ..engine import environment, frames, quality, verify
from ..engine.runtime import Engine
from ..samples import photographs
from .contestants import Contestant, Mode
from .gpu import gpu_status
from .results import Benchmark, EngineTiming, now
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


#: Told the name of a contestant that fails, and why; it is left out, and the others are measured all the same.
LeaveOut = Callable[[str, Exception], None]


@dataclass(frozen=True)
class _Verified:
    ok: bool | None = None
    psnr_db: float | None = None
    max_abs: float | None = None


@dataclass
class _Racer:
    """A contestant at one size, and what was found of it. seconds: of each timed frame. rate: frames a second."""

    contestant: Contestant
    process: Starts | None = None
    engine: Engine | None = None
    precision: str = ""
    open_seconds: float = 0.0
    first_seconds: float = 0.0
    verified: _Verified = field(default_factory=_Verified)
    seconds: list[float] = field(default_factory=list)
    streamed: int = 0
    stream_seconds: float = 0.0

    def open(self, mode: Mode, image: np.ndarray) -> tuple[float, float]:
        """Open it; return the seconds of that, and of its first frame."""
        began = time.perf_counter()
        self.engine = self.contestant.open(mode)
        opened = time.perf_counter() - began
        self.precision = self.engine.precision
        return opened, self.clean(image)

    def clean(self, image: np.ndarray) -> float:
        """Clean a frame; return the seconds of that."""
        assert self.engine is not None
        began = time.perf_counter()
        self.engine(image)
        return time.perf_counter() - began

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
            self.engine = None


@dataclass
class _Race:
    """A race at one frame size. racers: those that are still in it. runs: timed frames of each."""

    racers: list[_Racer]
    size: tuple[int, int]
    runs: int
    threads: int
    leave_out: LeaveOut | None = None
    progress: Progress = no_progress

    @property
    def label(self) -> str:
        """The frame size in words."""
        return f"{self.size[0]}x{self.size[1]}"

    def each(self, work: Callable[[_Racer], None]) -> None:
        for racer in list(self.racers):
            try:
                work(racer)
            except Exception as error:  # a library may fail with anything
                if self.leave_out is None:
                    raise
                self.racers.remove(racer)
                self.leave_out(f"{racer.contestant.name}, {self.label}", error)
                racer.close()

    @contextlib.contextmanager
    def opened(self, work: Callable[[_Racer], None]) -> Iterator[None]:
        """Open all racers by ``work``, and close them in the end."""
        try:
            self.each(work)
            yield
        finally:
            for racer in self.racers:
                racer.close()


def time_in_turns(
    contestants: Sequence[Contestant],
    *,
    sizes: Sequence[tuple[int, int]],
    runs: int,
    threads: int,
    starts: bool,
    command: str,
    leave_out: LeaveOut | None = None,
    progress: Progress = no_progress,
) -> Benchmark:
    """Time them all at each size, in turns. Arguments as for :func:`.engine.bench_engines`; without ``leave_out`` one
    that fails ends it for all."""
    date = now()
    roofs = measure_roofs(contestants, threads, progress)
    rows = [
        row
        for size in sizes
        for row in _run(
            _Race([_Racer(each) for each in contestants], size, runs, threads, leave_out, progress),
            starts=starts,
            roofs=roofs,
        )
    ]
    return Benchmark.here(rows, command, date)


def _run(race: _Race, *, starts: bool, roofs: Roofs) -> list[EngineTiming]:
    label, progress = race.label, race.progress
    images = np.random.default_rng(0).integers(0, 256, (_INPUTS, *race.size, 3), dtype=np.uint8)
    references: dict[str, np.ndarray] = {}

    def start(racer: _Racer) -> None:
        progress(f"{label}: start of {racer.contestant.name}", 0.0)
        racer.process = measure_starts(racer.contestant.open, images[0])

    def open_(racer: _Racer) -> None:
        progress(f"{label}: opening {racer.contestant.name}", 0.0)
        racer.open_seconds, racer.first_seconds = racer.open("latency", images[0])

    def verify_(racer: _Racer) -> None:
        assert racer.engine is not None
        racer.verified = _verify(racer.contestant, racer.engine, race.size, references)

    def warm(racer: _Racer) -> None:
        spent = 0.0
        for image in images[:_WARM_UP]:
            if spent < _ENOUGH:
                spent += racer.clean(image)

    if starts:
        race.each(start)
    with race.opened(open_):
        progress(f"{label}: comparing outputs", 0.0)
        race.each(verify_)
        race.each(warm)
        for run in range(race.runs):
            progress(f"{label}: latency", run / race.runs)
            race.each(lambda racer, image=images[run % _INPUTS]: _time(racer, image))
    _stream(race, images)
    return _rows(race, roofs)


def _time(racer: _Racer, image: np.ndarray) -> None:
    time.sleep(_PAUSE)
    racer.seconds.append(racer.clean(image))


def _rows(race: _Race, roofs: Roofs) -> list[EngineTiming]:
    about = gpu_status() if any(racer.contestant.open.on_gpu for racer in race.racers) else None
    cpu = environment.cpu()["model"]
    rows = []
    for racer in race.racers:
        each, process, check = racer.contestant, racer.process, racer.verified
        seconds = np.array(racer.seconds)
        median, p95, p99 = (float(value) for value in 1000 * np.percentile(seconds, (50, 95, 99)))
        on_gpu = each.open.on_gpu
        work = roofs.work.get(each.manifest.weights_sha256)
        ceiling = roofs.ceilings.get((on_gpu, racer.precision))
        rows.append(
            EngineTiming(
                name=each.name,
                backend=each.manifest.backend,
                backend_version=each.manifest.backend_version,
                precision=racer.precision,
                height=race.size[0],
                width=race.size[1],
                threads=race.threads,
                device=cpu if not on_gpu else "GPU" if about is None else about.name,
                driver=about.driver if on_gpu and about is not None else None,
                cold_start_ms=process and process.cold_ms,
                warm_start_ms=process and process.warm_ms,
                open_ms=1000 * racer.open_seconds,
                first_ms=1000 * racer.first_seconds,
                runs=race.runs,
                median_ms=median,
                p95_ms=p95,
                p99_ms=p99,
                noise=_noise(seconds),
                frames_per_second=racer.streamed / racer.stream_seconds,
                peak_host_mb=process and process.peak_host_mb,
                device_mb=process and process.device_mb,
                verified=check.ok,
                psnr_db=check.psnr_db,
                max_abs=check.max_abs,
                macs_per_pixel=work and work.macs_per_pixel,
                flop_per_byte=work and work.flop_per_byte(racer.precision, *race.size),
                matmul_tflop_s=ceiling and ceiling.matmul_tflop_s,
                copy_gb_s=ceiling and ceiling.copy_gb_s,
            )
        )
    return rows


def _noise(seconds: np.ndarray) -> float | None:
    """Compute the noise, as :class:`EngineTiming` says."""
    if len(seconds) < 4:
        return None
    first, second = (float(np.median(half)) for half in np.array_split(seconds, 2))
    return abs(first - second) / min(first, second)


def _stream(race: _Race, images: np.ndarray) -> None:
    """Stream over rounds in which all take turns, slow ones not in all."""
    count = -(-race.runs // _STREAM_ROUNDS)

    def stream(racer: _Racer) -> None:
        assert racer.engine is not None
        if racer.stream_seconds > _ENOUGH:
            return
        time.sleep(_PAUSE)
        began = time.perf_counter()
        racer.streamed += sum(1 for _ in racer.engine.stream(images[n % _INPUTS] for n in range(count)))
        racer.stream_seconds += time.perf_counter() - began

    def open_(racer: _Racer) -> None:
        racer.open("throughput", images[0])

    with race.opened(open_):
        for round_ in range(_STREAM_ROUNDS):
            race.progress(f"{race.label}: stream", round_ / _STREAM_ROUNDS)
            race.each(stream)


def _verify(
    contestant: Contestant, engine: Engine, size: tuple[int, int], references: dict[str, np.ndarray]
) -> _Verified:
    """Compare an engine with its fp32 reference on one rainy picture, mirrored to the size that is timed.

    Args:
        references: outputs by the network's weights, each computed once.
    """
    if contestant.reference is None:
        return _Verified()
    name, pair = next(iter(photographs.rainy_pairs().items()))
    missing = [(0, max(0, side - have)) for side, have in zip(size, pair[0].shape, strict=False)]
    image, truth = (np.pad(each, [*missing, (0, 0)], mode="symmetric")[: size[0], : size[1]] for each in pair)
    levels = frames.quantise(image, np.uint8)
    spec = contestant.reference.spec
    height, width = size
    padded = frames.pad_to(frames.to_float(levels)[None], spec.sizes.padded(height, width))
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

"""Measurements of how fast video goes through pipes around an engine, and through an engine on a rainy clip."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..base.errors import BackendUnavailable, DerainError, InputError
from ..base.progress import Progress, no_progress
from ..engine import environment
from ..engine.backends.base import Artefact
from ..engine.manifest import Manifest
from ..engine.runtime import Engine, load
from ..media.video.clean import clean_video
from ..media.video.ffmpeg import require_av
from ..media.video.stages import STAGES, Cleaned
from ..models.spec import ModelSpec
from ..samples.rain import Streaks, render_streaks
from . import pipe_ends
from .results import Measurement

#: What is asked of the way around an engine: height, width, milliseconds that the engine takes, frames a second.
_PLUMBING = (("plumbing alone", 720, 1280, 0.0, 120.0), ("engine of 5 ms", 360, 640, 5.0, 180.0))
_PLUMBING_FRAMES = 600
_RATE = 25
#: Two depths of rain: its streaks, and the pixels that they fall in a frame.
_RAIN = (
    (Streaks(length=18, width=1.2, angle=8, density=0.9, brightness=0.35), 23),
    (Streaks(length=34, width=1.9, angle=8, density=0.25, brightness=0.5), 41),
)


@dataclass(frozen=True)
class VideoRow:
    """One video through one engine.

    name: of the engine, or what stands in for one. through: ``pipes`` (YUV4MPEG2 from and to other processes) or
    ``files`` (H.264). backend, precision: of the engine; None where there is none. height, width: in pixels.
    threads: CPU threads of the engine, None where there is none. frames: of the video. runs: of the whole.
    frames_per_second: median of the runs, with the time to the first frame and after the last; slowest: of a run.
    wanted: what it is asked to reach, None for nothing.
    cores: CPU seconds of the process in a second, all stages and the encoder together. busy_ms: milliseconds a frame
    that each stage works; stages overlap, and waiting for other programs at a pipe counts as work. Both of the median
    run.
    """

    name: str
    through: str
    backend: str | None
    precision: str | None
    height: int
    width: int
    threads: int | None
    frames: int
    runs: int
    frames_per_second: float
    slowest: float
    wanted: float | None
    cores: float
    busy_ms: dict[str, float]


class VideoBenchmark(Measurement[VideoRow]):
    """The result of ``bench video``, first the plumbing."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON takes it, with what tells it from other results."""
        return {"kind": "video", **asdict(self)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> VideoBenchmark:
        """Read what :meth:`to_json` gave; raise KeyError or TypeError for anything else."""
        rows = tuple(VideoRow(**row) for row in record["rows"])
        return cls(rows, record["environment"], record["command"], record["date"])


def cells(result: VideoBenchmark) -> list[dict[str, str]]:
    """Return the rows in words, by the columns' heads; stages in milliseconds a frame."""
    return [
        {
            "Engine": row.name,
            "Runs in": f"{row.backend or ''} {row.precision or ''}".strip(),
            "Through": row.through,
            "Frame": f"{row.height}x{row.width}",
            "Frames/s": f"{row.frames_per_second:.1f}",
            "Slowest": f"{row.slowest:.1f}",
            "Wanted": "" if row.wanted is None else f"{row.wanted:g}",
            "Cores": f"{row.cores:.2f}",
            **{stage: f"{row.busy_ms[stage]:.2f}" for stage in STAGES},
        }
        for row in result.rows
    ]


class StandInSession:
    """A session that stands in for an engine: gives frames back as they are, after ``milliseconds`` of sleep."""

    precision = "none"
    parallelism = 1
    available_memory = None

    def __init__(self, milliseconds: float) -> None:
        self._seconds = milliseconds / 1000

    def run(self, batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        if self._seconds:
            time.sleep(self._seconds)
        if out is None:
            return batch.copy()
        np.copyto(out, batch)
        return out

    def close(self) -> None:
        pass


def stand_in(milliseconds: float) -> Engine:
    """Make an engine that takes that long for a frame, whatever the frame, and changes nothing."""
    spec = ModelSpec("none", exact_tiling_halo=0, bytes_per_pixel=1)
    manifest = Manifest.of(spec, Artefact("none", "", "none", {}), source="")
    return Engine(cast(Any, StandInSession(milliseconds)), manifest, tile=0)


def bench_video(
    engine: Path | None = None,
    *,
    name: str = "",
    seconds: float = 10.0,
    size: tuple[int, int] = (360, 640),
    runs: int = 3,
    threads: int | None = None,
    command: str = "",
    progress: Progress = no_progress,
) -> VideoBenchmark:
    """Measure the plumbing, then the engine.

    Args:
        engine: a file; None for the plumbing alone.
        name: of the engine in the result.
        seconds, size: length, and height and width in pixels, of the rainy clip.
        runs: of each; the rate is their median.
        threads: CPU threads of the engine, None for all.
        command: that asked for it, for the result.

    Raises:
        BackendUnavailable: PyAV is not installed, or scikit-image, whose photograph the clip is made of.
        InputError: a size that H.264 cannot hold, or a clip of no frame.
        DerainError: what the engine raises, or a run that ended early.
    """
    require_av()
    if min(size) < 2 or size[0] % 2 or size[1] % 2 or round(seconds * _RATE) < 1:
        raise InputError("The clip needs even sides, and at least one frame.")
    rows = []
    for label, height, width, milliseconds, wanted in _PLUMBING:
        progress(f"{label}, {height}x{width}", 0.0)
        with stand_in(milliseconds) as stands:
            found = [_through_pipes(stands, height, width) for _ in range(runs)]
        rows.append(_row(found, label, "pipes", (height, width), wanted))
    if engine is not None:
        with tempfile.TemporaryDirectory(prefix="derain-engine-bench-") as folder:
            clip = Path(folder, "rainy.mp4")
            make_rainy_clip(clip, size, round(seconds * _RATE))
            count = threads or environment.cores()["threads"]
            with load(engine, mode="throughput", threads=threads) as loaded:
                loaded.warmup(*size)
                found = [_clean(loaded, clip, clip.with_name("clean.mp4"), progress) for _ in range(runs)]
                rows.append(_row(found, name or engine.name, "files", size, engine=loaded, threads=count))
    return VideoBenchmark.here(rows, command)


def make_rainy_clip(path: Path, size: tuple[int, int], frames: int) -> Path:
    """Write a photograph (CC0, of scikit-image) in rain that falls at two depths, as H.264 with 25 frames a second.

    Args:
        size: height and width, even.

    Raises:
        BackendUnavailable: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise BackendUnavailable(
            "The photograph comes with scikit-image, which is not installed: pip install 'derain-engine[build]'."
        ) from error
    import av
    import cv2

    height, width = size
    photo = cv2.resize(data.coffee(), (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    rng = np.random.default_rng(0)
    layers = [(255 * render_streaks(streaks, height, width, rng), fall) for streaks, fall in _RAIN]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=_RATE, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            rain = np.zeros((height, width), np.float32)
            for (layer, fall), (streaks, _) in zip(layers, _RAIN, strict=True):
                aside = round(number * fall * np.tan(np.deg2rad(streaks.angle)))
                rain += np.roll(layer, (number * fall, aside), (0, 1))
            picture = np.clip(photo + rain[..., None], 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, _RATE)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


@dataclass(frozen=True)
class _Run:
    done: Cleaned
    cores: float

    @property
    def rate(self) -> float:
        return self.done.frames / self.done.seconds


def _through_pipes(engine: Engine, height: int, width: int) -> _Run:
    feeding, draining = pipe_ends.start("feed", width, height, _PLUMBING_FRAMES), pipe_ends.start("drain")
    assert feeding.stdout is not None and draining.stdin is not None
    try:
        with feeding.stdout, draining.stdin:
            run = _clean(engine, feeding.stdout, draining.stdin)
    finally:
        for process in (feeding, draining):
            process.wait()
    if run.done.frames != _PLUMBING_FRAMES:
        raise DerainError(
            f"The run did not come to its end: {run.done.frames} of {_PLUMBING_FRAMES} frames came out."
        )
    return run


def _clean(engine: Engine, source: Any, target: Any, progress: Progress = no_progress) -> _Run:
    used = time.process_time()
    done = clean_video(engine, source, target, progress=progress)
    cores = (time.process_time() - used) / done.seconds
    if done.failures:
        raise DerainError(f"The run did not come to its end: {done.failures[0].message}")
    return _Run(done, cores)


def _row(
    found: list[_Run],
    name: str,
    through: str,
    size: tuple[int, int],
    wanted: float | None = None,
    engine: Engine | None = None,
    threads: int | None = None,
) -> VideoRow:
    rates = [run.rate for run in found]
    middle = statistics.median_low(rates)
    run = found[rates.index(middle)]
    return VideoRow(
        name=name,
        through=through,
        backend=None if engine is None else engine.manifest.backend,
        precision=None if engine is None else engine.precision,
        height=size[0],
        width=size[1],
        threads=threads,
        frames=run.done.frames,
        runs=len(found),
        frames_per_second=middle,
        slowest=min(rates),
        wanted=wanted,
        cores=run.cores,
        busy_ms={stage: 1000 * spent / run.done.frames for stage, spent in run.done.busy.items()},
    )

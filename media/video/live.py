"""Live video: the newest frame, always; what comes too late is left out, and how late the rest was is told."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ...base.errors import DerainError, InputError, MediaError
from ...base.files import atomic_write, require_writable
from ...base.options import combined
from ...engine.runtime import Engine
from .colour import Scratch
from .ffmpeg import require_av
from .live_source import LiveSource, require_live
from .options import KINDS, LiveOptions, VideoOptions
from .pipes import PipeWriter
from .pixel_formats import convert
from .working_format import WorkingFormat
from .writer import VideoWriter

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

#: Seconds to wait for a frame before looking whether to stop, and for the first one.
_LOOK, _FIRST_FRAME = 0.2, 15.0
#: Seconds after which a frame is written however late it is: a clock may drift, and something has to be seen.
_STARVED = 1.0
#: Ticks of a second in what is written, and the seconds that frames are apart at least: Matroska tells no finer.
_TICKS, _APART = 90_000, Fraction(1, 1000)
#: Frames whose latencies are kept: a camera may run for weeks.
_REMEMBERED = 10_000

#: A frame, and when it would have come without delay.
_Taken = tuple["VideoFrame", float]


@dataclass
class LiveReport:
    """An account of how it went, and while it goes on of how it goes.

    frames: written. received: decoded. replaced: left out for a newer one while the engine was at work. late: left out
    as they were over the budget already, or at a time that the file cannot tell from the frame's before. reconnections:
    that worked. seconds: since the first frame. latencies: of the last 10 000 frames written, in seconds, from when a
    frame would have come without delay until it was handed to the encoder and its packets to the file. failure: why it
    ended by itself, if it did.
    """

    frames: int = 0
    received: int = 0
    replaced: int = 0
    late: int = 0
    reconnections: int = 0
    seconds: float = 0.0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED), repr=False)
    failure: str | None = None

    def percentiles(self) -> tuple[float, float, float]:
        """Return the latency in seconds that 50, 95 and 99 % of the frames did not exceed; 0 where there are none."""
        if not self.latencies:
            return 0.0, 0.0, 0.0
        p50, p95, p99 = np.percentile(self.latencies, (50, 95, 99))
        return float(p50), float(p95), float(p99)

    def line(self) -> str:
        """Put it into words."""
        p50, p95, p99 = (round(1000 * each) for each in self.percentiles())
        rate = self.frames / self.seconds if self.seconds else 0.0
        return (
            f"{self.frames} frames, {rate:.3g} fps, {self.replaced + self.late} dropped ({self.late} late), latency "
            f"p50 {p50} p95 {p95} p99 {p99} ms, {self.reconnections} reconnections"
        )


def clean_live(
    engine: Engine,
    source: str,
    target: str | Path | BinaryIO,
    options: LiveOptions | None = None,
    *,
    stop: threading.Event | None = None,
    status: Callable[[LiveReport], None] = lambda _: None,
    **fields: Any,
) -> LiveReport:
    """Clean a camera or a URL as it comes, until ``stop`` is set, the source ends or it stays away.

    While the engine works on a frame, newer ones take each other's place. A lost connection is tried again, after
    pauses that grow. Timestamps are those of the source, with its gaps. Only the picture is written.

    What fails later ends it with what was written until then, and is the report's ``failure``; stopped before the first
    frame it writes nothing.

    Args:
        source: a URL (``rtsp://``, ``http://``, ``tcp://``, ...), or a camera as FFmpeg names it, such as
            ``/dev/video0``.
        target: as for ``clean_video``; whole once this returns.
        options: by default those of ``LiveOptions()``.
        stop: set it from anywhere to end, with the file whole.
        status: told after each frame.
        fields: of the options, by their names, in place of what ``options`` has.

    Raises:
        InputError: options that do not fit, a file as the source, or interlaced frames.
        MediaError: the source cannot be opened, gives no frame, or nothing can be written.
        BackendUnavailable: PyAV is not installed.
    """
    require_av()
    options = combined(LiveOptions, options, fields)
    require_live(source)
    stop = stop or threading.Event()
    if isinstance(target, str | Path):
        target = Path(target)
        require_writable(target)
    elif options.codec is not None or options.crf is not None:
        raise InputError("Frames are not encoded for a pipe: codec and crf are for files.")
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(LiveSource(source, give_up=options.give_up))
        taken = _first(live, stop)
        if taken is None:
            return LiveReport()
        first, came = taken
        reader, form = live.reader, WorkingFormat.choose(first, live.reader, options)
        if isinstance(target, Path):
            path = stack.enter_context(atomic_write(target))
            sink = VideoWriter(
                path, target, reader, form, VideoOptions(options.codec, options.crf, drop=KINDS)
            )
        else:
            sink = PipeWriter(target, options.pipe_format, convert(form.first, form.piped), reader)
        stack.callback(sink.close)
        live.release()
        report = _Loop(engine, live, sink, form, options.latency).run((form.first, came), stop, status)
        if report.failure and not report.frames:
            raise MediaError(report.failure)
        try:
            sink.finish()
        except MediaError as error:
            # Most of hours of video can be played also where the disk was full at their end.
            report.failure = report.failure or str(error)
    report.failure = report.failure or live.failure
    return report


class _Loop:
    """The work on one frame after the other, in the caller's thread."""

    def __init__(
        self,
        engine: Engine,
        live: LiveSource,
        sink: VideoWriter | PipeWriter,
        form: WorkingFormat,
        latency: float,
    ) -> None:
        self._engine, self._live, self._sink, self._form = engine, live, sink, form
        self._base = Fraction(form.first.time_base or Fraction(1, _TICKS))
        self._latency, self._report, self._scratch = latency, LiveReport(), Scratch()
        self._apart = max(math.ceil(_APART / self._base), 1)
        self._last_ticks = -self._apart

    def run(self, first: _Taken, stop: threading.Event, status: Callable[[LiveReport], None]) -> LiveReport:
        report, live = self._report, self._live
        taken: _Taken | None = first
        began, wrote = first[1], 0.0
        while not stop.is_set() and not (taken is None and live.ended):
            if taken is not None:
                frame, came = taken
                now = time.monotonic()
                if now - came > self._latency and now - wrote < _STARVED:
                    report.late += 1
                elif self._written(frame, came - began):
                    wrote = time.monotonic()
                    report.latencies.append(wrote - came)
                    report.frames += 1
                elif report.failure:
                    break
                else:
                    report.late += 1
                report.received, report.replaced = live.received, live.replaced
                report.reconnections, report.seconds = live.reconnections, time.monotonic() - began
                status(report)
            taken = live.take(_LOOK)
        return report

    def _written(self, frame: VideoFrame, seconds: float) -> bool:
        """Write as :meth:`_write` does; what fails is told in the report, so that hours of video before it stay."""
        try:
            return self._write(frame, seconds)
        except (DerainError, MemoryError) as error:
            self._report.failure = f"{self._live.name} at {seconds:.2f} s: {error or 'not enough memory'}"
            return False

    def _write(self, frame: VideoFrame, seconds: float) -> bool:
        """Clean and write a frame, but where its time, as a file tells it, is that of the frame before; say whether."""
        if (frame.width, frame.height) != self._form.size:
            sizes = "from {}x{} to {}x{}".format(*self._form.size, frame.width, frame.height)
            self._report.failure = f"{self._live.name} has changed {sizes}; the file ends there."
            return False
        ticks = round(Fraction(seconds) / self._base)
        if ticks - self._last_ticks < self._apart:
            return False
        frame = convert(frame, self._form.pix_fmt)
        rainy = self._form.to_rgb(frame, None, self._scratch)
        self._form.change(frame, rainy, self._engine(rainy), self._scratch)
        frame.pts, frame.time_base, self._last_ticks = ticks, self._base, ticks
        self._sink.write(frame)
        return True


def _first(live: LiveSource, stop: threading.Event) -> _Taken | None:
    """Return the first frame and when it came; None where it is stopped before."""
    until = time.monotonic() + _FIRST_FRAME
    while time.monotonic() < until and not stop.is_set() and not live.ended:
        taken = live.take(_LOOK)
        if taken is not None:
            return taken
    if stop.is_set():
        return None
    raise MediaError(live.failure or f"{live.name} gave no frame that can be decoded.")

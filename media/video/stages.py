"""A video through an engine: one thread decodes, the engine works, one thread encodes; in order, in bounded memory.

Where the frames come from and where they go is up to the two ends, :class:`Source` and :class:`Sink`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...base.errors import DerainError, MediaError
from ...base.files import disk_full
from ...base.progress import Progress
from ...engine.runtime import Engine
from .colour import Scratch
from .options import OnError
from .pixel_formats import convert
from .reader import DecodedFrame
from .stage_queue import QueueClosed, StageQueue
from .working_format import WorkingFormat

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

#: What is timed: reading and decoding, conversion to RGB, the engine, conversion of its difference, encoding and
#: writing.
STAGES = ("decode", "to RGB", "engine", "difference", "encode")


class Source(Protocol):
    """The place that frames come from.

    name: for messages. frames: how many there are, or about so; 0 where that is not known.
    """

    @property
    def name(self) -> str: ...

    @property
    def frames(self) -> int: ...

    def read(self) -> Iterator[DecodedFrame | Packet]:
        """Yield frames with their timestamps, which rise, and between them packets that the sink may copy.

        It is drawn in a thread of its own, a few frames ahead of the engine.
        """
        ...


class Sink(Protocol):
    """The place that frames go to; ``frames`` of them are in the result."""

    frames: int

    def write(self, frame: VideoFrame) -> None:
        """Write the next frame, which nobody changes any more; raise MediaError where that cannot be done."""

    def copy(self, packet: Packet) -> None:
        """Take a packet of another stream of the source, or leave it out."""

    def finish(self) -> None:
        """Finish after the last frame; raise MediaError where not all of them are in the result."""

    def close(self) -> None:
        """Let go of everything, finished or not; may be called twice."""


@dataclass(frozen=True)
class FrameFailure:
    """A frame that is not clean in the result, or not in it. seconds: its timestamp. message: with file and time."""

    seconds: float
    message: str


@dataclass(frozen=True)
class Cleaned:
    """The outcome for a video.

    frames: in the result. seconds: that the work took. failures: in the order of time. busy: seconds that each of
    STAGES worked, not counting what it waited for the others; they overlap. halted: whether it ended at a frame that
    failed. dry: frames that were not given to the engine, as there is no rain in them.
    """

    frames: int
    seconds: float
    failures: tuple[FrameFailure, ...]
    busy: Mapping[str, float] = field(default_factory=dict)
    halted: bool = False
    dry: int = 0

    @property
    def saved(self) -> float:
        """Seconds of the engine and around it that dry frames would have taken, as long as the others took; 0 where
        all are dry."""
        others = self.frames - self.dry
        worked = sum(self.busy.get(stage, 0.0) for stage in ("to RGB", "engine", "difference"))
        return worked / others * self.dry if others > 0 else 0.0


@dataclass
class _Work:
    """A frame on its way. rainy: what the engine is given; None for a frame that is written as it is."""

    decoded: DecodedFrame
    rainy: np.ndarray | None = None
    clean: np.ndarray | None = None
    damage: str = ""


class Stages:
    """The three stages of one video, to be run once."""

    def __init__(
        self,
        engine: Engine,
        source: Source,
        sink: Sink,
        form: WorkingFormat,
        *,
        on_error: OnError,
        progress: Progress,
        already: int = 0,
    ) -> None:
        """Prepare the stages.

        Args:
            form: of the frames that are worked on; others are converted, and fail where their size is another.
            already: frames of the source that were done before.
        """
        self._engine, self._source, self._sink, self._form = engine, source, sink, form
        self._on_error, self._progress, self._already = on_error, progress, already
        self._decoded, self._cleaned = StageQueue(), StageQueue()
        self._failures: list[FrameFailure] = []
        self._broken_stage: Exception | None = None
        self._write_failure: tuple[float, DerainError] | None = None
        self._halted = False
        self._done, self._dry, self._began = 0, 0, time.perf_counter()
        self._busy: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._waited = 0.0  # of the caller's thread
        self._spare: deque[np.ndarray] = deque()  # pictures that are done with
        self._scratch_to_rgb, self._scratch_difference = Scratch(), Scratch()

    @property
    def failures(self) -> Sequence[FrameFailure]:
        """The failures up to now."""
        return self._failures

    @property
    def halted(self) -> bool:
        """True where a frame that failed ended it."""
        return self._halted

    def run(self, items: Iterator[DecodedFrame | Packet]) -> Cleaned:
        """Clean ``items``, which is what the source reads, or the rest of it where some was read already."""
        decoding = threading.Thread(
            target=self._guarded, args=(self._decode, items), name="derain-engine-decode"
        )
        encoding = threading.Thread(target=self._guarded, args=(self._encode,), name="derain-engine-encode")
        try:
            decoding.start()
            encoding.start()
            try:
                self._progress("Cleaning", 0.0)
                began = time.perf_counter()
                self._clean()
                self._busy["engine"] = time.perf_counter() - began - self._waited
                if self._halted:
                    self._decoded.closed.set()
                decoding.join()
                self._cleaned.put(None)
                encoding.join()
            except QueueClosed:  # why is told below
                pass
        finally:
            self._decoded.closed.set()
            self._cleaned.closed.set()
            for thread in (decoding, encoding):
                if thread.ident is not None:
                    thread.join()
        if self._broken_stage is not None:
            raise self._broken_stage
        self._finish()
        seconds = time.perf_counter() - self._began
        return Cleaned(self._sink.frames, seconds, tuple(self._failures), self._busy, self._halted, self._dry)

    def _guarded(self, stage: Any, *arguments: Any) -> None:
        """Run a stage; what it does not foresee ends all of them and is raised in the caller's thread."""
        try:
            stage(*arguments)
        except QueueClosed:
            pass
        except Exception as error:
            self._broken_stage = error
            self._decoded.closed.set()
            self._cleaned.closed.set()

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._busy[stage] += time.perf_counter() - began

    # -- in the decoding thread

    def _decode(self, items: Iterator[DecodedFrame | Packet]) -> None:
        last: int | None = None
        while True:
            with self._timed("decode"):
                item = next(items, None)
            if item is None:
                break
            if self._decoded.closed.is_set():
                return
            if not isinstance(item, DecodedFrame):
                self._cleaned.put(item)
                continue
            work = self._prepare(item, last)
            if work.decoded.frame is not None:
                last = work.decoded.frame.pts
            self._decoded.put(work)
        self._decoded.put(None)

    def _prepare(self, decoded: DecodedFrame, last: int | None) -> _Work:
        frame = decoded.frame
        if frame is None:
            return _Work(decoded, damage=decoded.damage)
        frame = convert(frame, self._form.pix_fmt)
        if (frame.width, frame.height) != self._form.size:
            sizes = "{}x{} instead of {}x{}".format(frame.width, frame.height, *self._form.size)
            return _Work(DecodedFrame(None, decoded.seconds), damage=f"it has another size, {sizes}")
        if last is not None and frame.pts is not None and frame.pts <= last:
            why = "its timestamp is not after that of the frame before"
            return _Work(DecodedFrame(None, decoded.seconds), damage=why)
        decoded = DecodedFrame(frame, decoded.seconds, decoded.damage, decoded.dry)
        if decoded.damage or decoded.dry:
            return _Work(decoded, damage=decoded.damage)
        with self._timed("to RGB"):
            out = self._spare.popleft() if self._spare else None
            return _Work(decoded, self._form.to_rgb(frame, out, self._scratch_to_rgb))

    # -- in the caller's thread

    def _clean(self) -> None:
        drawn: deque[_Work] = deque()
        waiting: Iterator[_Work] = self._checked()
        while True:
            try:
                with contextlib.closing(self._engine.stream(self._draw(waiting, drawn))) as results:
                    for clean in results:
                        work = drawn.popleft()
                        work.clean = clean
                        self._hand_on(work)
                        self._hand_on_unclean(drawn)
                return
            except (DerainError, MemoryError) as error:
                # A stream ends with the first frame that the engine cannot work on, which is the oldest one drawn.
                if not drawn:
                    raise
                work = drawn.popleft()
                memory = isinstance(error, MemoryError)
                why = "there is not enough memory; use smaller tiles" if memory else str(error).rstrip(".")
                if not self._goes_on(work, f"cannot be cleaned: {why}"):
                    return
                if self._on_error == "passthrough":
                    work.rainy = None
                    self._hand_on(work)
                waiting = chain(list(drawn), waiting)
                drawn.clear()

    def _checked(self) -> Iterator[_Work]:
        """Yield what was decoded; broken frames are noted, and left out or end it as ``on_error`` says."""
        while True:
            began = time.perf_counter()
            work = self._decoded.get()
            self._waited += time.perf_counter() - began
            if work is None:
                return
            if work.damage and not self._goes_on(work, f"is broken: {work.damage}"):
                return
            if not work.damage or (self._on_error == "passthrough" and work.decoded.frame is not None):
                yield work

    def _draw(self, waiting: Iterator[_Work], drawn: deque[_Work]) -> Iterator[np.ndarray]:
        """Yield what the engine is given, one frame at a time.

        No backend says that it gains from batches, as a frame of video is enough work for all threads or the GPU, and
        what is left a session fills with several frames at once (``Session.parallelism``).
        """
        for work in waiting:
            drawn.append(work)
            self._hand_on_unclean(drawn)
            if work.rainy is not None:
                yield work.rainy

    def _hand_on_unclean(self, drawn: deque[_Work]) -> None:
        """Hand on frames that the engine is not asked for, which wait only for those before them."""
        while drawn and drawn[0].rainy is None:
            self._hand_on(drawn.popleft())

    def _hand_on(self, work: _Work) -> None:
        began = time.perf_counter()
        self._cleaned.put(work)
        self._waited += time.perf_counter() - began
        if self._cleaned.closed.is_set():
            raise QueueClosed
        self._done += 1
        self._dry += work.decoded.dry
        rate = self._done / max(time.perf_counter() - self._began, 1e-9)
        done, total = self._done + self._already, self._source.frames
        share = min(done / total, 1.0) if total else 0.0
        of_total = f" of {total}" if total else ""
        self._progress(f"{done}{of_total} frames, {rate:.3g} fps", share)

    def _goes_on(self, work: _Work, what: str) -> bool:
        seconds = work.decoded.seconds
        self._failures.append(
            FrameFailure(seconds, f"{self._source.name}: the frame at {timestamp(seconds)} {what}.")
        )
        self._halted = self._on_error == "stop"
        return not self._halted

    def _finish(self) -> None:
        if self._write_failure is None:
            try:
                self._sink.finish()
            except MediaError as error:
                self._write_failure = (0.0, error)
        if self._write_failure is not None:
            seconds, error = self._write_failure
            self._sink.close()
            if disk_full(error) or not self._sink.frames:
                raise error
            self._failures.append(
                FrameFailure(seconds, f"{str(error).rstrip('.')}, at {timestamp(seconds)}.")
            )
        elif not self._sink.frames:
            raise MediaError(self._failures[0].message)

    # -- in the encoding thread

    def _encode(self) -> None:
        seconds = 0.0
        try:
            while (item := self._cleaned.get()) is not None:
                if not isinstance(item, _Work):
                    self._sink.copy(item)
                    continue
                frame = item.decoded.frame
                assert frame is not None
                seconds = item.decoded.seconds
                with self._timed("difference"):
                    self._change(frame, item)
                with self._timed("encode"):
                    self._sink.write(frame)
        except DerainError as error:
            self._write_failure = (seconds, error)
            self._decoded.closed.set()
            self._cleaned.closed.set()

    def _change(self, frame: VideoFrame, work: _Work) -> None:
        if work.rainy is None or work.clean is None:
            return
        self._form.change(frame, work.rainy, work.clean, self._scratch_difference)
        self._spare.append(work.rainy)


def timestamp(seconds: float) -> str:
    """Write a time like ``1:02:03.450``."""
    minutes, rest = divmod(max(seconds, 0.0), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:06.3f}"

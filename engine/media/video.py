"""A video through an engine: one thread decodes, the engine works, one thread encodes; in order, in bounded memory."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import DerainError, InputError, MediaError
from ..files import require_writable, whole_file
from ..progress import Progress, no_progress
from ..runtime import Engine
from .pipe import Pipe, Stopped
from .video_codecs import CODECS
from .video_colour import Coding, add_difference, coding_of, to_rgb
from .video_reader import KINDS, Shot, VideoReader, convert, planar_form, planes, require_av
from .video_writer import VideoWriter

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

#: What to do with a frame that is broken or cannot be cleaned: end the video before it, leave it out, or write it
#: unclean (and leave it out where nothing of it can be decoded).
OnError = Literal["stop", "skip", "passthrough"]


@dataclass(frozen=True)
class FrameFailure:
    """A frame that is not clean in the result, or not in it. seconds: its timestamp. message: with file and time."""

    seconds: float
    message: str


@dataclass(frozen=True)
class Cleaned:
    """What became of a video. frames: in the result. seconds: that the work took. failures: in the order of time."""

    frames: int
    seconds: float
    failures: tuple[FrameFailure, ...]


@dataclass
class _Work:
    """A frame on its way. rainy: what the engine is given; None for a frame that is written as it is."""

    shot: Shot
    rainy: np.ndarray | None = None
    clean: np.ndarray | None = None
    damage: str = ""


def clean_video(
    engine: Engine,
    source: str | Path,
    target: str | Path,
    *,
    codec: str | None = None,
    crf: int | None = None,
    pix_fmt: str | None = None,
    on_error: OnError = "stop",
    drop: Collection[str] = (),
    progress: Progress = no_progress,
) -> Cleaned:
    """Clean the first video stream of ``source``; all other streams go into ``target`` packet for packet.

    Timestamps, chapters, metadata, rotation, aspect ratio and colour properties are kept. A written frame is the
    source's code values plus the engine's difference, so what the engine leaves alone reaches the encoder unchanged.

    Args:
        target: its ending says the container.
        codec: one of ``CODECS``; by default what suits the container and the frames.
        crf: of the codec, smaller is better; by default the codec's own.
        pix_fmt: FFmpeg's name of a planar format that frames are converted to first; by default the source's.
        on_error: what to do with frames that fail.
        drop: kinds of streams to leave out: ``audio``, ``subtitle``, ``data``, ``attachment``.
        progress: told the frames that are done and their rate, with the share of the video.

    Returns what became of it. With failures, ``target`` holds the frames up to the first (``stop``) or without them,
    and can be played.

    Raises:
        InputError: before the work: options that do not fit, a stream or codec that the container cannot hold, an
            output that is the input, interlaced frames.
        MediaError: no frame could be written; nothing is then left under ``target``. Or the disk is full.
        BackendUnavailable: PyAV is not installed.
    """
    source, target = Path(source), Path(target)
    _check(source, target, codec, drop)
    with VideoReader(source) as reader:
        items = reader.read()
        held, first = _first(items, source)
        pix_fmt = pix_fmt or planar_form(first.format.name)
        if first.interlaced_frame:
            raise InputError(
                f"{source} is interlaced; deinterlace it first, for example with ffmpeg -vf bwdif."
            )
        first = convert(first, pix_fmt)
        coding = coding_of(
            first.format.name,
            matrix=int(first.colorspace),
            colour_range=int(first.color_range),
            width=first.width,
            height=first.height,
            siting=getattr(first, "chroma_location", 0),
        )
        with whole_file(target) as temporary:
            writer = VideoWriter(
                *(temporary, target, reader, first),
                bits=coding.bits,
                rgb=coding.rgb,
                codec=codec,
                crf=crf,
                drop=drop,
            )
            try:
                run = _Run(engine, reader, writer, coding, pix_fmt, on_error, progress)
                return run.run(chain(held, items))
            finally:
                writer.close()


def _check(source: Path, target: Path, codec: str | None, drop: Collection[str]) -> None:
    require_av()
    if codec is not None and codec not in CODECS:
        raise InputError(f"codec is one of {', '.join(CODECS)}, not {codec!r}.")
    unknown = sorted(set(drop) - set(KINDS))
    if unknown:
        raise InputError(f"drop takes {', '.join(KINDS)}, not {unknown[0]!r}.")
    if not source.exists():
        raise InputError(f"{source} does not exist.")
    require_writable(target)
    if target.exists() and target.samefile(source):
        raise InputError(f"{target} is the input; write to another name.")


def _first(items: Iterator[Shot | Packet], source: Path) -> tuple[list[Shot | Packet], VideoFrame]:
    """What is read up to the first frame, and that frame, by which the output is set up."""
    held: list[Shot | Packet] = []
    for item in items:
        held.append(item)
        if isinstance(item, Shot) and item.frame is not None:
            return held, item.frame
    broken = next((item.damage for item in held if isinstance(item, Shot)), "")
    raise MediaError(f"{source} has no frame that can be decoded{': ' * bool(broken)}{broken}.")


class _Run:
    """The three stages of one video."""

    def __init__(
        self,
        engine: Engine,
        reader: VideoReader,
        writer: VideoWriter,
        coding: Coding,
        pix_fmt: str,
        on_error: OnError,
        progress: Progress,
    ) -> None:
        self._engine, self._reader, self._writer = engine, reader, writer
        self._coding, self._pix_fmt, self._on_error = coding, pix_fmt, on_error
        self._progress = progress
        self._decoded, self._cleaned = Pipe(), Pipe()
        self._failures: list[FrameFailure] = []
        self._broken_stage: Exception | None = None
        self._write_failure: tuple[float, DerainError] | None = None
        self._halted = False
        self._done, self._began = 0, time.perf_counter()

    def run(self, items: Iterator[Shot | Packet]) -> Cleaned:
        decoding = threading.Thread(
            target=self._guarded, args=(self._decode, items), name="derain-engine-decode"
        )
        encoding = threading.Thread(target=self._guarded, args=(self._encode,), name="derain-engine-encode")
        try:
            decoding.start()
            encoding.start()
            try:
                self._progress("Cleaning", 0.0)
                self._clean()
                if self._halted:
                    self._decoded.closed.set()
                decoding.join()
                self._cleaned.put(None)
                encoding.join()
            except Stopped:  # why is told below
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
        return Cleaned(self._writer.frames, time.perf_counter() - self._began, tuple(self._failures))

    def _guarded(self, stage: Any, *arguments: Any) -> None:
        """Runs a stage; what it does not foresee ends all of them and is raised in the caller's thread."""
        try:
            stage(*arguments)
        except Stopped:
            pass
        except Exception as error:
            self._broken_stage = error
            self._decoded.closed.set()
            self._cleaned.closed.set()

    # -- in the decoding thread

    def _decode(self, items: Iterator[Shot | Packet]) -> None:
        last: int | None = None
        for item in items:
            if self._decoded.closed.is_set():
                return
            if not isinstance(item, Shot):
                self._cleaned.put(item)
                continue
            work = self._prepare(item, last)
            if work.shot.frame is not None:
                last = work.shot.frame.pts
            self._decoded.put(work)
        self._decoded.put(None)

    def _prepare(self, shot: Shot, last: int | None) -> _Work:
        frame, coding, first = shot.frame, self._coding, self._writer
        if frame is None:
            return _Work(shot, damage=shot.damage)
        frame = convert(frame, self._pix_fmt)
        if (frame.width, frame.height) != (first.width, first.height):
            return _Work(
                Shot(None, shot.seconds),
                damage=f"it has another size, {frame.width}x{frame.height} instead of {first.width}x{first.height}",
            )
        if last is not None and frame.pts is not None and frame.pts <= last:
            return _Work(
                Shot(None, shot.seconds), damage="its timestamp is not after that of the frame before"
            )
        shot = Shot(frame, shot.seconds, shot.damage)
        if shot.damage:
            return _Work(shot, damage=shot.damage)
        return _Work(shot, to_rgb(planes(frame, coding.sample), coding))

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
                told = (
                    "there is not enough memory; use smaller tiles"
                    if isinstance(error, MemoryError)
                    else error
                )
                if not self._goes_on(work, f"cannot be cleaned: {str(told).rstrip('.')}"):
                    return
                if self._on_error == "passthrough":
                    work.rainy = None
                    self._hand_on(work)
                waiting = chain(list(drawn), waiting)
                drawn.clear()

    def _checked(self) -> Iterator[_Work]:
        """What was decoded; broken frames are noted, and left out or end it as ``on_error`` says."""
        while (work := self._decoded.get()) is not None:
            if work.damage and not self._goes_on(work, f"is broken: {work.damage}"):
                return
            if not work.damage or (self._on_error == "passthrough" and work.shot.frame is not None):
                yield work

    def _draw(self, waiting: Iterator[_Work], drawn: deque[_Work]) -> Iterator[np.ndarray]:
        for work in waiting:
            drawn.append(work)
            self._hand_on_unclean(drawn)
            if work.rainy is not None:
                yield work.rainy

    def _hand_on_unclean(self, drawn: deque[_Work]) -> None:
        """Frames that the engine is not asked for wait only for those before them."""
        while drawn and drawn[0].rainy is None:
            self._hand_on(drawn.popleft())

    def _hand_on(self, work: _Work) -> None:
        self._cleaned.put(work)
        if self._cleaned.closed.is_set():
            raise Stopped
        self._done += 1
        rate = self._done / max(time.perf_counter() - self._began, 1e-9)
        total = self._reader.frames
        share = min(self._done / total, 1.0) if total else 0.0
        of_total = f" of {total}" if total else ""
        self._progress(f"{self._done}{of_total} frames, {rate:.3g} fps", share)

    def _goes_on(self, work: _Work, what: str) -> bool:
        seconds = work.shot.seconds
        self._failures.append(
            FrameFailure(seconds, f"{self._reader.path}: the frame at {timestamp(seconds)} {what}.")
        )
        self._halted = self._on_error == "stop"
        return not self._halted

    def _finish(self) -> None:
        if self._write_failure is None:
            try:
                self._writer.finish()
            except MediaError as error:
                self._write_failure = (0.0, error)
        if self._write_failure is not None:
            seconds, error = self._write_failure
            self._writer.close()
            if _disk_full(error) or not self._writer.frames:
                raise error
            self._failures.append(
                FrameFailure(seconds, f"{str(error).rstrip('.')}, at {timestamp(seconds)}.")
            )
        elif not self._writer.frames:
            raise MediaError(self._failures[0].message)

    # -- in the encoding thread

    def _encode(self) -> None:
        seconds = 0.0
        try:
            while (item := self._cleaned.get()) is not None:
                if not isinstance(item, _Work):
                    self._writer.copy(item)
                    continue
                frame = item.shot.frame
                assert frame is not None
                seconds = item.shot.seconds
                if item.rainy is not None and item.clean is not None:
                    # The decoder may still refer to the frame; a copy is made where it does.
                    frame.make_writable()
                    add_difference(planes(frame, self._coding.sample), item.rainy, item.clean, self._coding)
                self._writer.write(frame)
        except DerainError as error:
            self._write_failure = (seconds, error)
            self._decoded.closed.set()
            self._cleaned.closed.set()


def timestamp(seconds: float) -> str:
    """``1:02:03.450``."""
    minutes, rest = divmod(max(seconds, 0.0), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:06.3f}"


def _disk_full(error: BaseException) -> bool:
    cause = error.__cause__
    return getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)

"""A part of a video, from one time to another, as a source of its own that begins at 0."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from .reader import DecodedFrame, VideoReader, exact_seconds

if TYPE_CHECKING:
    from av.container.core import Chapter
    from av.packet import Packet

#: Seconds of a file in which packets of one time may lie apart.
_INTERLEAVED = 1


class Trim:
    """The part of a video from ``start`` on and before ``end``, in seconds from its beginning; None for all.

    All timestamps are moved so that the first frame is shown at 0, unless the video is cut from its beginning.
    """

    def __init__(self, reader: VideoReader, start: Fraction | None, end: Fraction | None) -> None:
        self.reader = reader
        zero = self._zero
        self._start = None if not start else start + zero
        self._end = math.inf if end is None else end + zero
        self.shift = Fraction(0)

    @property
    def _zero(self) -> Fraction:
        """The file's own time of its beginning."""
        return Fraction(self.reader.container.start_time or 0, 1_000_000)

    def of(self, reader: VideoReader) -> Trim:
        """Return the same part of the same video, opened anew."""
        other = Trim(reader, None, None)
        other._start, other._end, other.shift = self._start, self._end, self.shift
        return other

    @property
    def name(self) -> str:
        return self.reader.name

    @property
    def frames(self) -> int:
        """About how many there are, 0 where that is not known."""
        total = self.reader.frames
        if not total:
            return 0
        zero = self._zero
        end = min(self._end - zero, Fraction(total) / self.reader.rate)
        return max(round((end - (self._start - zero if self._start else 0)) * self.reader.rate), 1)

    def chapters(self) -> list[Chapter]:
        """Return those that reach into the part, cut to it; to be asked after the first frame."""
        kept = []
        for chapter in self.reader.container.chapters():
            base = Fraction(chapter["time_base"] or 1)
            start, end = (chapter[side] * base for side in ("start", "end"))
            if start >= self._end or (self._start is not None and end <= self._start):
                continue
            end = min(end, self._end)
            ticks = {
                "start": max(round((start - self.shift) / base), 0),
                "end": round((end - self.shift) / base),
            }
            kept.append({**chapter, **ticks})
        return kept

    def read(self) -> Iterator[DecodedFrame | Packet]:
        """Yield the part as the reader yields the whole."""
        if self._start is None and self._end == math.inf:
            yield from self.reader.read()
            return
        if self._start is not None:
            self.reader.seek(self._start)
        early: list[Packet] | None = [] if self._start is not None else None
        for item in self.reader.read():
            at = exact_seconds(item)
            if isinstance(item, DecodedFrame):
                if self._start is not None and at < self._start:
                    continue
                if at >= self._end:
                    if at >= self._end + _INTERLEAVED:
                        return
                    continue
                if early is not None and item.frame is not None:
                    self.shift = at
                    yield from (self._moved(each) for each in early if at <= exact_seconds(each) < self._end)
                    early = None
                yield self._moved(item)
            elif early is not None:
                early.append(item)
            elif (self._start is None or at >= self.shift) and at < self._end:
                yield self._moved(item)

    def packets(self) -> Iterator[Packet]:
        """Yield those of the streams that are copied, as :meth:`read` gives them, once that has given a frame."""
        if self._start is not None:
            self.reader.seek(self._start)
        for packet in self.reader.packets():
            at = exact_seconds(packet)
            if self._start is not None and at < self.shift:
                continue
            if at < self._end:
                yield self._moved(packet)
            elif at >= self._end + _INTERLEAVED:
                return

    def _moved(self, item: Any) -> Any:
        if not self.shift:
            return item
        if isinstance(item, DecodedFrame):
            frame = item.frame
            if frame is not None and frame.pts is not None:
                frame.pts -= round(self.shift / (frame.time_base or 1))
            return item
        ticks = round(self.shift / item.time_base)
        if item.pts is not None:
            item.pts -= ticks
        if item.dts is not None:
            item.dts -= ticks
        return item

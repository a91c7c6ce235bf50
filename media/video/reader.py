"""A video file as decoded frames and as packets to copy, with what is broken in it said at its place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...base.errors import MediaError
from .container_size import missing_bytes
from .ffmpeg import ffmpeg_errors, reason, require_av
from .ffv1_checksums import Ffv1Checksums

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_ATTACHED_PICTURE = 0x400


@dataclass(frozen=True)
class DecodedFrame:
    """A frame of the video, in the order of presentation.

    frame: None where nothing could be decoded. seconds: when it is shown, from the file's time zero; of a frame that
    could not be decoded, about when. damage: what is wrong with it, or "". dry: whether it needs no cleaning.
    """

    frame: VideoFrame | None
    seconds: float
    damage: str = ""
    dry: bool = False


class VideoReader:
    """Reads one video. A context manager.

    name: for messages. video: the stream that is decoded, the first that is no cover picture. copied: all the others.
    """

    def __init__(self, source: Any, name: str = "", options: Mapping[str, Any] | None = None) -> None:
        """Open the video.

        Args:
            source: a path, or what PyAV reads from; then with a name.
            options: for PyAV's ``open``.

        Raises:
            MediaError: the file is missing or no video.
        """
        require_av()
        import av

        self.path = source if isinstance(source, Path) else None
        self.name = name or str(source)
        # From PyAV 19 on, text that is no UTF-8 never raises.
        strict = int(av.__version__.partition(".")[0]) < 19
        tolerant: Any = {"metadata_errors": "replace"} if strict else {}
        # What stands before a colon in a relative name would be a protocol to FFmpeg.
        opened = os.path.abspath(self.path) if self.path is not None else source
        with ffmpeg_errors(MediaError, f"{self.name} cannot be read as video"):
            self.container: InputContainer = av.open(opened, **tolerant, **(options or {}))
        videos = [s for s in self.container.streams.video if not int(s.disposition) & _ATTACHED_PICTURE]
        if not videos or videos[0].codec_context is None:
            self.container.close()
            raise MediaError(f"{self.name} has no video in it that can be decoded.")
        self._from_beginning = True
        self.video: VideoStream = videos[0]
        self.video.codec_context.thread_type = "AUTO"
        is_ffv1 = self.video.codec_context.name == "ffv1"
        self._checksums = Ffv1Checksums() if is_ffv1 else None
        self.copied: list[Stream] = [
            s for s in self.container.streams if s is not self.video and not self._holds_chapters(s)
        ]

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    @property
    def frames(self) -> int:
        """The number that the video is said to have, or about so by its length; 0 where neither is known."""
        return self.video.frames or round(self.seconds * (self.video.average_rate or 0))

    @property
    def seconds(self) -> float:
        """The length that the file's header says; 0 where it says none."""
        return (self.container.duration or 0) / 1_000_000

    @property
    def rate(self) -> Fraction:
        """Frames a second, on average."""
        return Fraction(self.video.average_rate or self.video.guessed_rate or 25)

    def siting(self, frame: VideoFrame) -> int:
        """Return where the frame's chroma samples lie, as libavutil counts; 0 where nobody says."""
        return int(getattr(frame, "chroma_location", 0))

    def read(self) -> Iterator[DecodedFrame | Packet]:
        """Yield frames, and the packets of all other streams as they lie between them.

        A frame that is broken is given with its damage, and so is the end of a file that ends too early.
        """
        from av.error import FFmpegError

        count, last = 0, 0.0
        broken: dict[int, float] = {}
        try:
            for packet in self._packets():
                flush = packet.size == 0 and packet.dts is None
                if packet.stream is not self.video:  # by stream, as the index of flushing packets is 0
                    if not flush:
                        yield packet
                    continue
                count += not flush
                if packet.pts is not None and self._is_damaged(packet):
                    broken[packet.pts] = _seconds(packet.pts, packet.time_base)
                try:
                    frames = cast("list[VideoFrame]", packet.decode())
                except FFmpegError as error:
                    at = last if packet.pts is None else _seconds(packet.pts, packet.time_base)
                    yield DecodedFrame(None, at, f"it cannot be decoded ({reason(error)})")
                    broken.pop(packet.pts or 0, None)
                    continue
                for frame in frames:
                    decoded = self._checked(frame, broken)
                    last = decoded.seconds
                    yield decoded
        except FFmpegError as error:
            yield DecodedFrame(None, last, f"the file cannot be read any further ({reason(error)})")
            return
        for at in broken.values():
            yield DecodedFrame(None, at, "its data are cut off or damaged")
        missing = self._missing(count)
        if missing:
            yield DecodedFrame(None, last, missing)

    def seek(self, seconds: Fraction) -> None:
        """Go to where a frame of that time can be decoded from, or to the beginning where nobody knows.

        Raises:
            MediaError: the file cannot be read there.
        """
        self._from_beginning = False
        with ffmpeg_errors(MediaError, f"{self.name} cannot be read from {float(seconds):g} s on"):
            self.container.seek(int(seconds * 1_000_000))

    def packets(self) -> Iterator[Packet]:
        """Yield the packets of all streams but the video; what cannot be read ends them."""
        from av.error import FFmpegError

        with contextlib.suppress(FFmpegError):
            if self.copied:
                for packet in self.container.demux(self.copied):
                    if packet.size or packet.dts is not None:
                        yield packet

    def _packets(self) -> Iterator[Packet]:
        return self.container.demux()

    def _is_damaged(self, packet: Packet) -> bool:
        if self._checksums is None or not packet.size:
            return packet.is_corrupt
        return self._checksums.damaged(bytes(packet), packet.is_keyframe) or packet.is_corrupt

    def _holds_chapters(self, stream: Stream) -> bool:
        """Say whether it is MP4's track of text with chapters, which whoever writes the chapters makes anew."""
        mp4 = "mp4" in self.container.format.name
        return mp4 and stream.type == "data" and stream.name == "bin_data" and bool(self.container.chapters())

    def _checked(self, frame: VideoFrame, broken: dict[int, float]) -> DecodedFrame:
        if frame.pts is None:
            frame.pts = frame.dts
        at = 0.0 if frame.pts is None else _seconds(frame.pts, frame.time_base)
        cut = frame.pts is not None and broken.pop(frame.pts, None) is not None
        if frame.pts is None:
            return DecodedFrame(None, at, "it has no timestamp")
        return DecodedFrame(frame, at, "its data are damaged" if cut or frame.is_corrupt else "")

    def _missing(self, packets: int) -> str:
        """Return what the file lacks of what its header promises, or ""."""
        if packets < self.video.frames and self._from_beginning:
            return f"the file ends too early, after {packets} of {self.video.frames} frames"
        cut = 0 if self.path is None else missing_bytes(self.path)
        if cut:
            return f"the file ends too early, {cut} bytes before the end that it says it has"
        return ""


def exact_seconds(item: DecodedFrame | VideoFrame | Packet, *, decoded: bool = False) -> Fraction:
    """Return when a frame or packet is shown, or a packet decoded, exactly where there is a timestamp."""
    if isinstance(item, DecodedFrame):
        return Fraction(item.seconds) if item.frame is None else exact_seconds(item.frame)
    first, second = (item.dts, item.pts) if decoded else (item.pts, item.dts)
    return Fraction((second if first is None else first) or 0) * Fraction(item.time_base or 0)


def _seconds(ticks: int, time_base: Fraction | None) -> float:
    return float(ticks * (time_base or 0))

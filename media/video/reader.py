"""A video file as decoded frames and as packets to copy, with what is broken in it said at its place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ...base.errors import BackendUnavailable, InputError, MediaError
from .container_size import missing_bytes
from .ffv1_checksums import Ffv1Checksums

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

#: Kinds of streams that are copied.
KINDS = ("audio", "subtitle", "data", "attachment")
#: Chroma sample locations that are known here, as libavutil counts.
_SITINGS = {1: "left", 2: "center", 3: "topleft", 4: "top"}
_ATTACHED_PICTURE = 0x400
#: Formats whose planes are only woven together, and the planar ones that hold the same codes.
_PLANAR = {
    **dict.fromkeys(("rgb24", "bgr24", "rgb0", "bgr0", "0rgb", "0bgr"), "gbrp"),
    "nv12": "yuv420p",
    "nv21": "yuv420p",
    "nv16": "yuv422p",
    "p010le": "yuv420p10le",
}


def require_av() -> None:
    """Raises BackendUnavailable where PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise BackendUnavailable(
            "Video needs PyAV, which is not installed: pip install 'derain-engine[video]'."
        ) from error


@dataclass(frozen=True)
class Shot:
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
        """source: a path, or what PyAV reads from; then with a name. options: for PyAV's ``open``.

        Raises MediaError: the file is missing or no video.
        """
        require_av()
        import av
        from av.error import FFmpegError

        self.path = source if isinstance(source, Path) else None
        self.name = name or str(source)
        try:
            # From PyAV 19 on, text that is no UTF-8 never raises.
            strict = int(av.__version__.partition(".")[0]) < 19
            tolerant: Any = {"metadata_errors": "replace"} if strict else {}
            # What stands before a colon in a relative name would be a protocol to FFmpeg.
            opened = os.path.abspath(self.path) if self.path is not None else source
            self.container: InputContainer = av.open(opened, **tolerant, **(options or {}))
        except (FFmpegError, OSError) as error:
            raise MediaError(f"{self.name} cannot be read as video: {reason(error)}.") from error
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
        """How many the video is said to have, or about so by its length; 0 where neither is known."""
        if self.video.frames:
            return self.video.frames
        length = self.seconds
        return round(length * (self.video.average_rate or 0)) if length else 0

    @property
    def seconds(self) -> float:
        """The length that the file's header says; 0 where it says none."""
        return (self.container.duration or 0) / 1_000_000

    @property
    def rate(self) -> Fraction:
        """Frames a second, on average."""
        return Fraction(self.video.average_rate or self.video.guessed_rate or 25)

    def siting(self, frame: VideoFrame) -> int:
        """Where the frame's chroma samples lie, as libavutil counts; 0 where nobody says."""
        return int(getattr(frame, "chroma_location", 0))

    def read(self) -> Iterator[Shot | Packet]:
        """Frames, and the packets of all other streams as they lie between them.

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
                    yield Shot(None, at, f"it cannot be decoded ({reason(error)})")
                    broken.pop(packet.pts or 0, None)
                    continue
                for frame in frames:
                    shot = self._shot(frame, broken)
                    last = shot.seconds
                    yield shot
        except FFmpegError as error:
            yield Shot(None, last, f"the file cannot be read any further ({reason(error)})")
            return
        for at in broken.values():
            yield Shot(None, at, "its data are cut off or damaged")
        missing = self._missing(count)
        if missing:
            yield Shot(None, last, missing)

    def seek(self, seconds: Fraction) -> None:
        """Go to where a frame of that time can be decoded from, or to the beginning where nobody knows.

        Raises MediaError: the file cannot be read there.
        """
        from av.error import FFmpegError

        self._from_beginning = False
        try:
            self.container.seek(int(seconds * 1_000_000))
        except (FFmpegError, OSError, ValueError) as error:
            raise MediaError(
                f"{self.name} cannot be read from {float(seconds):g} s on: {reason(error)}."
            ) from error

    def packets(self) -> Iterator[Packet]:
        """The packets of all streams but the video; what cannot be read ends them."""
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
        """MP4 has chapters in a track of text, which whoever writes the chapters makes anew."""
        mp4 = "mp4" in self.container.format.name
        return mp4 and stream.type == "data" and stream.name == "bin_data" and bool(self.container.chapters())

    def _shot(self, frame: VideoFrame, broken: dict[int, float]) -> Shot:
        if frame.pts is None:
            frame.pts = frame.dts
        at = 0.0 if frame.pts is None else _seconds(frame.pts, frame.time_base)
        cut = frame.pts is not None and broken.pop(frame.pts, None) is not None
        if frame.pts is None:
            return Shot(None, at, "it has no timestamp")
        return Shot(frame, at, "its data are damaged" if cut or frame.is_corrupt else "")

    def _missing(self, packets: int) -> str:
        """What the file lacks of what its header promises, or ""."""
        if packets < self.video.frames and self._from_beginning:
            return f"the file ends too early, after {packets} of {self.video.frames} frames"
        cut = 0 if self.path is None else missing_bytes(self.path)
        if cut:
            return f"the file ends too early, {cut} bytes before the end that it says it has"
        return ""


def convert(frame: VideoFrame, pix_fmt: str) -> VideoFrame:
    """The same frame, its codes in another pixel format, in the same range and matrix.

    Raises:
        InputError: there is no such format.
    """
    import av

    if frame.format.name == pix_fmt:
        return frame
    try:
        av.VideoFormat(pix_fmt)
    except ValueError as error:
        raise InputError(
            f"{pix_fmt} is not a pixel format; name one such as yuv420p or yuv422p10le."
        ) from error
    full = frame.format.name.startswith("yuvj") or frame.color_range == 2
    if frame.format.is_rgb or pix_fmt.startswith("gbr"):
        return frame.reformat(format=pix_fmt)
    converted = frame.reformat(
        format=pix_fmt, src_color_range=2 if full else 1, dst_color_range=2 if full else 1
    )
    if frame.width % 2 and {frame.format.name, pix_fmt} == {"p010le", "yuv420p10le"}:
        _rewrite_p010(frame, converted)
    return converted


def _rewrite_p010(frame: VideoFrame, converted: VideoFrame) -> None:
    """Write the codes of P010, or of what it came from, anew: at odd widths swscale leaves out the last column of
    chroma and, now and then, gets whole lines of luma wrong."""
    woven, apart = (frame, converted) if frame.format.name == "p010le" else (converted, frame)
    lines = [np.frombuffer(cast(Any, plane), np.uint16).reshape(plane.height, -1) for plane in woven.planes]
    luma, *chroma = planes(apart, np.uint16)
    height, width = chroma[0].shape
    pairs = lines[1][:height, : 2 * width]
    for upper, lower in [
        (lines[0][:, : woven.width], luma),
        (pairs[:, ::2], chroma[0]),
        (pairs[:, 1::2], chroma[1]),
    ]:
        if woven is frame:
            np.right_shift(upper, 6, out=lower)  # codes are the upper 10 bits
        else:
            np.left_shift(lower, 6, out=upper)


def side_data(frame: VideoFrame, kind: str) -> bytes:
    """What lies beside the frame under this name of ``av.sidedata.sidedata.Type``; empty where nothing does."""
    try:
        return bytes(cast(Any, frame.side_data)[kind])
    except KeyError:
        return b""


def chroma_siting(frame: VideoFrame) -> str:
    """FFmpeg's name of where the frame's chroma samples lie; empty where nobody says."""
    return _SITINGS.get(getattr(frame, "chroma_location", 0), "")


def planar_form(pix_fmt: str) -> str:
    """The planar pixel format that holds the same codes as this one: itself where there is none or no need."""
    return _PLANAR.get(pix_fmt, pix_fmt)


def planes(frame: VideoFrame, sample: type[np.unsignedinteger]) -> list[np.ndarray]:
    """Views of the frame's planes, without the bytes between their lines."""
    size = np.dtype(sample).itemsize
    return [
        np.frombuffer(cast(Any, plane), sample).reshape(plane.height, plane.line_size // size)[
            :, : plane.width
        ]
        for plane in frame.planes
    ]


def reason(error: Exception) -> str:
    """What FFmpeg or the system say, without the file's name, which messages already have."""
    text: Any = getattr(error, "strerror", None)
    return str(text or error).strip().rstrip(".") or type(error).__name__


def _seconds(ticks: int, time_base: Fraction | None) -> float:
    return float(ticks * (time_base or 0))

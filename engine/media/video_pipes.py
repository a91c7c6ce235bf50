"""Video through pipes: frames with a header (YUV4MPEG2), or nothing but frames, to and from other programs."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from ..errors import InputError, MediaError
from .video_reader import VideoReader, chroma_siting, reason

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

#: How frames can be written into a pipe.
PipeFormat = Literal["y4m", "rawvideo"]
_FFMPEGS = {"y4m": "yuv4mpegpipe", "rawvideo": "rawvideo"}
#: Bytes that a pipe is asked to hold (Linux's largest without privileges), and those that are read at a time: few
#: enough for memory that the process has already.
_PIPE_BYTES, _READ_BYTES = 1 << 20, 1 << 17
_F_SETPIPE_SZ = 1031


@dataclass(frozen=True)
class RawFrames:
    """What a pipe of nothing but frames does not say: width and height in pixels, frames a second, FFmpeg's name of
    the pixel format."""

    width: int
    height: int
    fps: Fraction
    pix_fmt: str

    def __post_init__(self) -> None:
        import av

        if self.width < 1 or self.height < 1 or self.fps <= 0:
            raise InputError("Raw frames need a width, a height and a rate above 0.")
        try:
            av.VideoFormat(self.pix_fmt)
        except ValueError as error:
            raise InputError(
                f"{self.pix_fmt} is not a pixel format; name one such as yuv420p or yuv422p10le."
            ) from error

    @property
    def options(self) -> dict[str, str]:
        """For FFmpeg's demuxer."""
        size = f"{self.width}x{self.height}"
        return {"video_size": size, "framerate": str(self.fps), "pixel_format": self.pix_fmt}


class Incoming:
    """A pipe that is read from, with the bytes counted. stream: binary, with ``fileno`` or only with ``read``."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._number = _file_number(stream)
        self.count = 0

    def read(self, size: int) -> bytes:
        """At most so many bytes, what is there; empty at the end."""
        size = min(size, _READ_BYTES)
        data = self._stream.read(size) if self._number is None else os.read(self._number, size)
        self.count += len(data)
        return data


class _Outgoing:
    """A pipe that is written to. gone: whether its reader has closed it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._number = _file_number(stream)
        self.gone = False

    def write(self, data: bytes) -> int:
        try:
            if self._number is None:
                self._stream.write(data)
            else:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(self._number, rest) :]
        except BrokenPipeError:
            self.gone = True
            raise
        return len(data)


def _file_number(stream: BinaryIO) -> int | None:
    """Of the system, with a pipe behind it made as large as it gets."""
    try:
        number = stream.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return None
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.fcntl(number, _F_SETPIPE_SZ, _PIPE_BYTES)
    return number


class PipeReader(VideoReader):
    """Reads one video from a pipe: in any container that can be read from front to back, or raw frames."""

    def __init__(self, stream: BinaryIO, raw: RawFrames | None = None) -> None:
        """raw: None where the pipe begins with a header. Raises MediaError: there is no video in it."""
        self._incoming = Incoming(stream)
        options: dict[str, Any] = {} if raw is None else {"format": "rawvideo", "options": raw.options}
        super().__init__(self._incoming, "Standard input", options)
        self._end = 0

    def _packets(self) -> Iterator[Packet]:
        for packet in super()._packets():
            if packet.size and packet.pos is not None:
                self._end = packet.pos + packet.size
            yield packet

    def _missing(self, packets: int) -> str:
        # FFmpeg's reader of YUV4MPEG2 leaves out a last frame that is not whole.
        cut = self._incoming.count - self._end
        if self.container.format.name == _FFMPEGS["y4m"] and cut:
            return f"the input ends in the middle of a frame, of which there are {cut} bytes"
        return ""


class PipeWriter:
    """Writes frames into a pipe. Other streams of the source are left out, as pipes have no room for them."""

    def __init__(
        self,
        stream: BinaryIO,
        pipe_format: PipeFormat,
        first: VideoFrame,
        rate: Fraction,
        aspect: Fraction | None,
    ) -> None:
        """first: a frame of the video, with the pixel format, size and colours of all.

        Raises:
            InputError: the format cannot hold such frames.
        """
        import av
        from av.error import FFmpegError

        self.frames = 0
        self._outgoing = _Outgoing(stream)
        # Depths that y4m has gained since it was written down are named there as not official.
        self._container = av.open(
            self._outgoing,
            "w",
            format=_FFMPEGS[pipe_format],
            options={"strict": "-1"},
            buffer_size=_PIPE_BYTES,
        )
        stream_: Any = self._container.add_stream("rawvideo", rate=rate)
        context = stream_.codec_context
        context.width, context.height, context.pix_fmt = first.width, first.height, first.format.name
        context.color_range, context.colorspace = first.color_range, first.colorspace
        if aspect:
            context.sample_aspect_ratio = aspect
        siting = chroma_siting(first)
        if siting:
            context.options = {"chroma_sample_location": siting}
        self._stream = stream_
        try:
            self._container.start_encoding()
        except (FFmpegError, OSError, ValueError) as error:
            self.close()
            if self._outgoing.gone:
                raise MediaError("Standard output was closed before the first frame.") from error
            raise InputError(
                f"{pipe_format} cannot hold {first.format.name}; use --format rawvideo, or name a --pix-fmt that it "
                "holds, such as yuv444p."
            ) from error

    def write(self, frame: VideoFrame) -> None:
        """The next frame. Raises MediaError where it cannot be written."""
        from av.error import FFmpegError

        # A pipe has no timestamps: frames follow each other.
        frame.pts, frame.time_base = self.frames, self._stream.codec_context.time_base
        try:
            self._container.mux(self._stream.encode(frame))
        except (FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from error
        self.frames += 1

    def copy(self, packet: Packet) -> None:
        """Nothing: there is no room for it."""

    def finish(self) -> None:
        """Hand on what is still held back. Raises MediaError where it cannot be written."""
        from av.error import FFmpegError

        try:
            self._container.close()
        except (FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """Let go of the pipe, which stays open."""
        from av.error import FFmpegError

        with contextlib.suppress(FFmpegError, OSError, ValueError):
            self._container.close()

    def _failure(self, error: Exception) -> MediaError:
        if self._outgoing.gone:
            return MediaError("Standard output was closed by the program that read it.")
        return MediaError(f"Standard output cannot be written: {reason(error)}.")

"""Video through pipes: frames with a header (YUV4MPEG2), or nothing but frames, to and from other programs."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

from ...base.errors import InputError, MediaError
from .ffmpeg import reason
from .options import PipeFormat, RawFrames
from .pixel_formats import convert
from .reader import VideoReader

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

#: Bytes that a pipe is asked to hold (Linux's largest without privileges), and those that are read at a time: few
#: enough for memory that the process has already.
_PIPE_BYTES, _READ_BYTES = 1 << 20, 1 << 17
_F_SETPIPE_SZ = 1031
#: Bytes in which the first line of y4m ends.
_HEAD_BYTES = 256
_FRAME = b"FRAME\n"
#: Chroma sample location, as libavutil counts -> what follows 420 in the tag of the colour space.
_SITING_TAGS = {1: "mpeg2", 2: "jpeg", 3: "paldv"}


class Incoming:
    """A pipe that is read from, binary, with ``fileno`` or only with ``read``. count: bytes read. head: the first."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._number = _file_number(stream)
        self.count, self.head = 0, b""

    def read(self, size: int) -> bytes:
        """Read what is there, at most so many bytes; empty at the end."""
        size = min(size, _READ_BYTES)
        data = self._stream.read(size) if self._number is None else os.read(self._number, size)
        self.count += len(data)
        if len(self.head) < _HEAD_BYTES:
            self.head += data[:_HEAD_BYTES]
        return data


class Outgoing:
    """A pipe that is written to, binary, with ``fileno`` or only with ``write``."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._number = _file_number(stream)

    def write(self, data: Any) -> None:
        """Write all of it, at once."""
        if self._number is None:
            self._stream.write(data)
            return
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[os.write(self._number, rest) :]


def _file_number(stream: BinaryIO) -> int | None:
    """Return the system's number of a file, and make a pipe behind it as large as it gets."""
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
        """Open the pipe, which begins with a header where ``raw`` is None.

        Raises:
            MediaError: there is no video in it.
        """
        self._incoming = Incoming(stream)
        options: dict[str, Any] = {} if raw is None else {"format": "rawvideo", "options": raw.options}
        super().__init__(self._incoming, "Standard input", options)
        self._end = 0

    def siting(self, frame: VideoFrame) -> int:
        """Return a frame's siting; of y4m what its header says, which PyAV older than 19 does not tell."""
        tag = re.match(rb"YUV4MPEG2 [^\n]*\bC420(\w+)", self._incoming.head)
        tags = {name.encode(): number for number, name in _SITING_TAGS.items()}
        return super().siting(frame) or (tags.get(tag[1], 0) if tag else 0)

    def seek(self, seconds: Fraction) -> None:
        """Do nothing: a pipe is read from its beginning."""

    def _packets(self) -> Iterator[Packet]:
        for packet in super()._packets():
            if packet.size and packet.pos is not None:
                self._end = packet.pos + packet.size
            yield packet

    def _missing(self, packets: int) -> str:
        # FFmpeg's reader of YUV4MPEG2 leaves out a last frame that is not whole.
        cut = self._incoming.count - self._end
        if self.container.format.name == "yuv4mpegpipe" and cut:
            return f"the input ends in the middle of a frame, of which there are {cut} bytes"
        return ""


class PipeWriter:
    """Writes frames into a pipe. Other streams of the source are left out, as pipes have no room for them."""

    def __init__(
        self, stream: BinaryIO, pipe_format: PipeFormat, first: VideoFrame, reader: VideoReader
    ) -> None:
        """Begin with the header, where the format has one.

        Args:
            first: a frame of the video, with the pixel format, size and colours of all.
            reader: with rate and aspect.

        Raises:
            InputError: the format cannot hold such frames.
            MediaError: nothing can be written.
        """
        import av

        self.frames = 0
        self._pix_fmt = first.format.name
        self._outgoing = Outgoing(stream)
        self._frame_bytes = 0  # not known before the first
        self._mark = _FRAME if pipe_format == "y4m" else b""
        # It lays planes side by side without the gaps between their lines.
        self._encoder: Any = av.CodecContext.create("rawvideo", "w")
        self._encoder.width, self._encoder.height = first.width, first.height
        self._encoder.pix_fmt, self._encoder.time_base = self._pix_fmt, 1 / reader.rate
        if pipe_format == "y4m":
            self._put(_header(first, reader))

    def write(self, frame: VideoFrame) -> None:
        """Write the next frame; raise MediaError where that cannot be done."""
        frame = convert(frame, self._pix_fmt)
        self._put(self._mark)
        if sum(plane.buffer_size for plane in frame.planes) == self._frame_bytes:
            # There are no gaps between lines, as in frames that came out of a pipe.
            for plane in frame.planes:
                self._put(plane)
        else:
            # A pipe has no timestamps: frames follow each other.
            frame.pts, frame.time_base = self.frames, self._encoder.time_base
            for packet in self._encoder.encode(frame):
                self._put(packet)
                self._frame_bytes = packet.size
        self.frames += 1

    def copy(self, packet: Packet) -> None:
        """Do nothing: there is no room for it."""

    def finish(self) -> None:
        """Hand on what is still held back; raise MediaError where that cannot be done."""
        self._put(b"")

    def close(self) -> None:
        """Do nothing: the pipe stays open, and nothing is held."""

    def _put(self, data: Any) -> None:
        try:
            self._outgoing.write(data)
        except BrokenPipeError as error:
            raise MediaError("Standard output was closed by the program that read it.") from error
        except OSError as error:
            raise MediaError(f"Standard output cannot be written: {reason(error)}.") from error


def _header(first: VideoFrame, reader: VideoReader) -> bytes:
    """Return the first line of YUV4MPEG2, with the depths and the range in the way of FFmpeg.

    Source: man page yuv4mpeg(5) of the MJPEG tools.

    Raises:
        InputError: frames that it cannot say.
    """
    name = first.format.name
    found = re.fullmatch(r"yuvj?(420|422|444)p(?:(9|10|12|14|16)le)?", name)
    if found is None:
        raise InputError(
            f"y4m cannot hold {name}; use --format rawvideo, or a --pix-fmt that it holds, such as yuv444p."
        )
    layout, bits = found.groups()
    tag = f"{layout}p{bits}" if bits else layout
    if tag == "420":
        tag += _SITING_TAGS.get(reader.siting(first), "mpeg2")
    aspect = reader.video.sample_aspect_ratio or Fraction(0)
    shape = f"{aspect.numerator}:{aspect.denominator if aspect else 0}"
    rate = f"{reader.rate.numerator}:{reader.rate.denominator}"
    full = name.startswith("yuvj") or first.color_range == 2
    known = full or first.color_range == 1
    colours = f" XCOLORRANGE={'FULL' if full else 'LIMITED'}" if known else ""
    return f"YUV4MPEG2 W{first.width} H{first.height} F{rate} Ip A{shape} C{tag}{colours}\n".encode()

"""A clean video file: one encoded stream, and everything else of the source as it was."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...base.errors import InputError, MediaError
from .codecs import choose_encoding, holds_hdr
from .ffmpeg import close_quietly, ffmpeg_errors
from .options import VideoOptions
from .pixel_formats import side_data
from .reader import VideoReader
from .working_format import WorkingFormat

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.container.core import Chapter
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame

_log = logging.getLogger(__name__)

#: What FFmpeg writes anew into every file, and what holds of the old encoding only.
_OF_THE_FILE = {"encoder", "major_brand", "minor_version", "compatible_brands"}
_OF_THE_ENCODING = {"encoder", "vendor_id", "duration", "bps", "handler_name"}
_OF_THE_ENCODING_PREFIXES = ("bps-", "duration-", "number_of_", "_statistics")
#: Keys that the MP4 family writes in the way that players read; others need the way that keeps all keys.
_MP4_KEYS = set(
    "title artist album album_artist composer comment genre date year copyright description synopsis show episode_id "
    "network lyrics grouping track disc creation_time timecode location language keywords media_type hd_video "
    "compilation".split()
)
_MP4_FAMILY = {"mp4", "mov", "ipod", "3gp", "3g2", "f4v"}
_MATROSKA, _HOLD_ASPECT = {"matroska", "webm"}, {"h264", "h265"}
_HDR_KINDS = ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}


class VideoWriter:
    """Writes one video file after the pattern of ``reader``. A context manager that closes, and does not finish.

    Opening it writes the header, so what the file cannot hold is refused before the work.
    """

    def __init__(
        self,
        path: Path,
        target: Path,
        reader: VideoReader,
        form: WorkingFormat,
        options: VideoOptions,
        frames: int = 0,
        chapters: Sequence[Chapter] = (),
    ) -> None:
        """Write the header.

        Args:
            path: written to.
            target: its name later, for messages.
            form: of the frames.
            frames: how many there are, 0 if that is not known.

        Raises:
            InputError: a container that is not known, or cannot hold the codec or one of the streams; a crf out of
                range; a codec that cannot hold the frames.
            MediaError: the header cannot be written.
        """
        import av

        self._target = target
        self.frames = 0
        self._sent = 0
        metadata = {k: v for k, v in reader.container.metadata.items() if k.lower() not in _OF_THE_FILE}
        flags = _container_options(target, metadata)
        unknown = f"{target}: no kind of video file has that ending; use .mp4, .mkv, .mov or .webm."
        with ffmpeg_errors(InputError, unknown):
            self._container: OutputContainer = av.open(os.path.abspath(path), "w", container_options=flags)
        try:
            _require_timestamps(self._container, target)
            self._container.metadata.update(metadata)
            self.encoding = choose_encoding(self._container.format.name, reader, form, options, frames)
            self._add_video(reader, form.first)
            copied = [stream for stream in reader.copied if stream.type not in options.drop]
            self._copies: dict[int, Stream] = {stream.index: self._add_copy(stream) for stream in copied}
            if chapters:
                self._container.set_chapters(list(chapters))
            advice = (
                " If one of the streams that are copied does not fit into it, write .mkv or .mov, or leave that kind "
                "of stream out with --drop."
            )
            with ffmpeg_errors(MediaError, f"{target} cannot be begun", advice):
                self._container.start_encoding()
        except BaseException:
            self.close()
            raise

    def _add_video(self, reader: VideoReader, first: VideoFrame) -> None:
        name, source = self.encoding.name, reader.video
        refused = f"{self._target} cannot hold {name}; name another --codec, or write .mkv."
        with ffmpeg_errors(InputError, refused):
            stream = self.encoding.add_to(self._container, reader, first)
        if name == "h265" and self._container.format.name in _MP4_FAMILY:
            stream.codec_context.codec_tag = "hvc1"  # which Apple's players insist on
        matrix = side_data(first, "DISPLAYMATRIX")
        if matrix:
            stream.set_display_matrix(struct.unpack_from("=9i", matrix))
        stream.metadata.update(_of_the_stream(source.metadata))
        stream.disposition = source.disposition
        self._stream = stream
        self._warn_of_aspect(source.sample_aspect_ratio, name)
        _warn_of_hdr(first, name)

    def _warn_of_aspect(self, ratio: Fraction | None, codec: str) -> None:
        # Matroska's own field for it is out of PyAV's reach, so it has to be in the codec's headers.
        held = self._container.format.name not in _MATROSKA or codec in _HOLD_ASPECT
        if not held and ratio not in (None, 0, 1):
            _log.warning(
                "%s is written without the source's sample aspect ratio of %s; .mp4 or --codec h264 keeps it.",
                self._target,
                ratio,
            )

    def _add_copy(self, stream: Stream) -> Stream:
        with ffmpeg_errors(
            InputError,
            f"{self._target} cannot hold stream {stream.index} of the source, which is {stream.type} "
            f"({getattr(stream, 'name', None) or 'unknown'}); write .mkv or .mov, or leave it out with --drop "
            f"{stream.type}.",
        ):
            copy = self._container.add_stream_from_template(stream, opaque=True)
        copy.metadata.update(stream.metadata)
        copy.disposition = stream.disposition  # pyright: ignore[reportAttributeAccessIssue]
        return copy

    def write(self, frame: VideoFrame) -> None:
        """Write the next frame, with its timestamp; raise MediaError where it cannot be encoded or written."""
        frame = self.encoding.prepare(frame)
        self._sent += 1
        self._mux_video(frame)

    @property
    def header(self) -> bytes:
        """The bytes that decoders of the video need beside its packets."""
        return bytes(self._stream.codec_context.extradata or b"")

    def join(self, packet: Packet) -> None:
        """Write a packet of the video that was encoded before, in the same way and with the same header."""
        packet.stream = self._stream
        self._sent += 1
        self.frames += 1
        self._mux([packet])

    def copy(self, packet: Packet) -> None:
        """Write a packet of another stream of the source, unless that is dropped."""
        copy = self._copies.get(packet.stream_index)
        if copy is not None:
            packet.stream = copy
            if copy.type == "data" and not packet.duration:
                packet.duration = 1  # MP4 ends with its last packet's end, and hides one that takes no time
            self._mux([packet])

    def finish(self) -> None:
        """Write what the encoder still holds, and the file's end.

        Raises:
            MediaError: that cannot be done, or the file has not as many frames as were written.
        """
        self._mux_video(None)
        with ffmpeg_errors(MediaError, f"{self._target} cannot be finished"):
            self._container.close()
        if self.frames != self._sent:
            raise MediaError(
                f"{self._target} is not what it should be: of {self._sent} frames the encoder wrote {self.frames}."
            )

    def close(self) -> None:
        """Let go of the file, finished or not."""
        close_quietly(self._container)

    def _mux_video(self, frame: VideoFrame | None) -> None:
        with ffmpeg_errors(MediaError, f"{self._target}: the encoder failed"):
            packets = self._stream.encode(frame)
        self.frames += len(packets)
        self._mux(packets)

    def _mux(self, packets: list[Packet]) -> None:
        with ffmpeg_errors(MediaError, f"{self._target} cannot be written"):
            self._container.mux(packets)


def _require_timestamps(container: OutputContainer, target: Path) -> None:
    from av.format import Flags

    name = container.format.name
    if name not in _MP4_FAMILY and not container.format.flags & cast(Any, Flags.variable_fps).value:
        raise InputError(
            f"{name} files hold no timestamps of frames: write {target.with_suffix('.mkv')} or .mp4."
        )


def _container_options(target: Path, metadata: dict[str, str]) -> dict[str, str]:
    family = target.suffix.lower().lstrip(".") in {*_MP4_FAMILY, "m4v"}
    return {"movflags": "+use_metadata_tags"} if family and not metadata.keys() <= _MP4_KEYS else {}


def _of_the_stream(metadata: dict[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in metadata.items()
        if key.lower() not in _OF_THE_ENCODING and not key.lower().startswith(_OF_THE_ENCODING_PREFIXES)
    }


def _warn_of_hdr(frame: VideoFrame, codec: str) -> None:
    transfer = _HDR_TRANSFERS.get(int(frame.color_trc))
    if transfer:
        _log.warning(
            "The video is HDR (%s); networks are trained on SDR pictures, so look at the result closely.",
            transfer,
        )
    if not holds_hdr(codec) and any(side_data(frame, kind) for kind in _HDR_KINDS):
        _log.warning("%s is written without the source's HDR mastering data; --codec h265 keeps them.", codec)

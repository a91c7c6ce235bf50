"""The choice of the encoder that writes a clean video, and of its quality."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...base.errors import InputError
from .options import VideoOptions
from .pixel_formats import chroma_siting, convert, side_data
from .reader import VideoReader
from .working_format import WorkingFormat

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.frame import VideoFrame

_H265_BITS = 12
#: x265 takes the decoding times of reordered frames from the first few, and with fewer makes them up.
_FEW_FRAMES = 8
#: AVMasteringDisplayMetadata: red, green, blue (x, y), white (x, y), least, largest luminance as fractions; 2 flags.
_MASTERING = struct.Struct("=22i")
_OWN_NAMES = {"hevc": "h265"}
#: Names of ProRes' kinds in files -> of FFmpeg's encoder.
_PRORES = {"apco": "proxy", "apcs": "lt", "apcn": "standard", "apch": "hq", "ap4h": "4444", "ap4x": "4444xq"}
_H264_PROFILES = {"Baseline": "baseline", "Constrained Baseline": "baseline", "Main": "main", "High": "high"}
_CHROMATICITY, _LUMINANCE = 50_000, 10_000


@dataclass(frozen=True)
class Codec:
    """One of the codecs that can be named.

    encoder: FFmpeg's name. crf: the quality taken unless another is named; None where there is nothing to choose.
    worst_crf: the largest. options: of the encoder, always.
    """

    encoder: str
    crf: int | None = None
    worst_crf: int = 0
    options: dict[str, str] = field(default_factory=dict)


CODECS = {
    "h264": Codec("libx264", 16, 51),
    "h265": Codec("libx265", 16, 51),
    "av1": Codec("libsvtav1", 20, 63),
    # Without a rate of 0 its crf is only a limit.
    "vp9": Codec("libvpx-vp9", 20, 63, {"b": "0", "row-mt": "1"}),
    "prores": Codec("prores_ks"),
    "ffv1": Codec("ffv1", options={"level": "3", "slicecrc": "1"}),
}


@dataclass(frozen=True)
class Encoding:
    """The way in which frames are encoded: a name of ``CODECS``, their pixel format, and options of the encoder."""

    name: str
    pix_fmt: str
    options: Mapping[str, str]

    def add_to(self, container: OutputContainer, reader: VideoReader, first: VideoFrame) -> Any:
        """Add a stream of such frames, for a video like that of ``reader``, of which ``first`` is one.

        Raises:
            FFmpegError, ValueError: the container cannot hold it.
        """
        from av.codec.context import Flags

        source = reader.video
        stream: Any = container.add_stream(
            CODECS[self.name].encoder,
            rate=source.average_rate or source.guessed_rate,
            options=dict(self.options),
        )
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = first.width, first.height, self.pix_fmt
        # The source's own ticks, so that no timestamp is rounded; frame_duration keeps the last frame's.
        context.time_base = stream.time_base = source.time_base
        context.flags |= Flags.frame_duration
        context.thread_type = "AUTO"
        if source.sample_aspect_ratio:
            context.sample_aspect_ratio = source.sample_aspect_ratio
        full = first.format.name.startswith("yuvj")
        context.color_range = 2 if full else first.color_range
        context.colorspace, context.color_primaries = first.colorspace, first.color_primaries
        context.color_trc = first.color_trc
        return stream

    def prepare(self, frame: VideoFrame) -> VideoFrame:
        """Return a frame as the encoder takes it, which chooses its key frames itself."""
        from av.video.frame import PictureType

        frame = convert(frame, self.pix_fmt)
        frame.pict_type = PictureType.NONE
        return frame


def choose_encoding(
    container: str, reader: VideoReader, form: WorkingFormat, options: VideoOptions, frames: int
) -> Encoding:
    """Choose what suits a container (FFmpeg's name), frames of a form and the options.

    Args:
        frames: how many there are, 0 if that is not known.

    Raises:
        InputError: the codec cannot hold such frames, or a crf that it does not have.
    """
    suits = choose_codec(container, form.coding.bits, form.coding.rgb)
    name = options.codec or (options.like_input and _codec_of(reader)) or suits
    pix_fmt = find_pixel_format(name, form.pix_fmt)
    require_size(name, pix_fmt, *form.size)
    encoder = encoder_options(name, options.crf, form.first, frames)
    if options.like_input:
        encoder |= _profile_of(reader, name)
        rate = _bit_rate_of(reader)
        if rate and CODECS[name].crf is not None:
            encoder.pop("crf", None)
            encoder["b"] = str(rate)
    if options.resume and name == "h264":
        # Each segment's encoder has to give the same in another process, but what x264's macroblock tree decides
        # depends on what encoders before it left in memory.
        _put(encoder, "x264-params", [*filter(None, [encoder.get("x264-params")]), "mbtree=0"])
    return Encoding(name, pix_fmt, encoder)


def _codec_of(reader: VideoReader) -> str | None:
    """Return the codec of the source, where it is one that is written here; of another that loses nothing, FFV1."""
    codec = reader.video.codec_context.codec
    name = _OWN_NAMES.get(codec.canonical_name, codec.canonical_name)
    if name in CODECS:
        return name
    return "ffv1" if codec.lossless and not codec.lossy else None


def _profile_of(reader: VideoReader, name: str) -> dict[str, str]:
    """Return the encoder's option for the source's profile; none where the pixel format alone decides."""
    if name != _codec_of(reader):
        return {}
    context = reader.video.codec_context
    found = _PRORES.get(context.codec_tag) if name == "prores" else _H264_PROFILES.get(context.profile or "")
    return {"profile": found} if found and name in ("prores", "h264") else {}


def _bit_rate_of(reader: VideoReader) -> int:
    """Return bits a second, the container's without the other streams where the video says none; 0 where that is not
    known."""
    if reader.video.bit_rate:
        return reader.video.bit_rate
    others = sum(getattr(stream, "bit_rate", None) or 0 for stream in reader.copied)
    return max((reader.container.bit_rate or 0) - others, 0)


def choose_codec(container: str, bits: int, rgb: bool) -> str:
    """Return the name of the codec for a container (FFmpeg's name) and what the frames hold."""
    if container == "webm":
        return "vp9" if bits == 8 else "av1"
    if rgb or bits > _H265_BITS:
        return "ffv1"
    return "h264" if bits == 8 else "h265"


def find_pixel_format(name: str, pix_fmt: str) -> str:
    """Return the format that the codec of that name takes frames of ``pix_fmt`` in without loss.

    That is ``pix_fmt`` itself; for full range its plain form, where the range is said beside the frames; for planar RGB
    the packed one.

    Raises:
        InputError: there is none.
    """
    import av

    formats = [each.name for each in av.Codec(CODECS[name].encoder, "w").video_formats or ()]
    packed = "bgr0" if pix_fmt == "gbrp" else pix_fmt
    for candidate in (pix_fmt, pix_fmt.replace("yuvj", "yuv"), packed):
        if candidate in formats or not formats:
            return candidate
    raise InputError(
        f"{name} cannot hold {pix_fmt}; name another --codec, or a --pix-fmt that it holds: {', '.join(formats)}."
    )


def require_size(name: str, pix_fmt: str, width: int, height: int) -> None:
    """Raise InputError where x264 or x265, which take no odd side of halved chroma, would give up without a word."""
    odd = (width % 2 and ("420" in pix_fmt or "422" in pix_fmt)) or (height % 2 and "420" in pix_fmt)
    if odd and name in ("h264", "h265"):
        raise InputError(
            f"{name} takes no frames of {width}x{height} in {pix_fmt}, as a side is odd; add --pix-fmt "
            f"{pix_fmt.replace('420', '444').replace('422', '444')}, or name --codec ffv1."
        )


def encoder_options(name: str, crf: int | None, frame: VideoFrame, frames: int) -> dict[str, str]:
    """Return options of the encoder for a video that begins with ``frame``.

    Args:
        frames: how many it has, 0 if that is not known.

    Raises:
        InputError: a crf out of range, or for a codec that has none.
    """
    codec = CODECS[name]
    if crf is not None and codec.crf is None:
        raise InputError(f"{name} has no crf; leave it out.")
    if crf is not None and not 0 <= crf <= codec.worst_crf:
        raise InputError(f"A crf of {crf} is outside of 0 to {codec.worst_crf}, which {name} takes.")
    options = dict(codec.options)
    if codec.crf is not None:
        options["crf"] = str(codec.crf if crf is None else crf)
    if name == "h265":
        order = ["bframes=0"] if 0 < frames < _FEW_FRAMES else []
        options["x265-params"] = ":".join(
            ["log-level=error", *order, *_hdr(frame, "master-display", "max-cll")]
        )
    elif name == "h264":
        _put(options, "x264-params", _hdr(frame, "mastering-display", "cll"))
    elif name == "av1":
        _put(options, "svtav1-params", _hdr(frame, "mastering-display", "content-light", fractions=True))
    siting = chroma_siting(frame)
    if siting:
        options["chroma_sample_location"] = siting
    return options


def holds_hdr(name: str) -> bool:
    """Say whether mastering data of HDR can be said in the headers of a codec."""
    return name in ("h265", "h264", "av1")


def _put(options: dict[str, str], name: str, words: list[str]) -> None:
    if words:
        options[name] = ":".join(words)


def _hdr(frame: VideoFrame, mastering: str, light: str, fractions: bool = False) -> list[str]:
    """Return what the frame says of the display it was graded on and of its brightest light, in an encoder's words.

    Args:
        mastering, light: what the encoder calls the two.
        fractions: does it count in 1 and cd/m2, or in the units of SMPTE ST 2086?
    """
    words = []
    data = side_data(frame, "MASTERING_DISPLAY_METADATA")
    if len(data) >= _MASTERING.size:
        numbers = _MASTERING.unpack_from(data)
        pairs = list(zip(numbers[:20:2], numbers[1:20:2], strict=True))
        if all(numbers[20:]) and all(below for _, below in pairs):
            units = [_CHROMATICITY] * 8 + [_LUMINANCE] * 2
            rx, ry, gx, gy, bx, by, wx, wy, least, most = (
                f"{above / below:.7g}" if fractions else str(round(above * unit / below))
                for (above, below), unit in zip(pairs, units, strict=True)
            )
            words.append(f"{mastering}=G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({most},{least})")
    data = side_data(frame, "CONTENT_LIGHT_LEVEL")
    if len(data) >= 8:
        words.append("{}={},{}".format(light, *struct.unpack_from("=2I", data)))
    return words

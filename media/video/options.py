"""Options of video: which part is cleaned, what becomes of frames that fail, and how the result is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from ...base.errors import InputError
from ...base.options import option, require_valid
from .ffmpeg import require_pixel_format

#: The codecs that can be named.
CodecName = Literal["h264", "h265", "av1", "vp9", "prores", "ffv1"]
#: How frames can be written into a pipe.
PipeFormat = Literal["y4m", "rawvideo"]
#: What to do with a frame that is broken or cannot be cleaned: end the video before it, leave it out, or write it
#: unclean (and leave it out where nothing of it can be decoded).
OnError = Literal["stop", "skip", "passthrough"]
#: Kinds of streams that are copied.
KINDS = ("audio", "subtitle", "data", "attachment")


@dataclass(frozen=True)
class RawFrames:
    """The form of the frames in a pipe that has no header: sides in pixels, frames a second, and FFmpeg's name of the
    pixel format; InputError where there are no such frames."""

    width: int
    height: int
    fps: Fraction
    pix_fmt: str

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or self.fps <= 0:
            raise InputError("Raw frames need a width, a height and a rate above 0.")
        require_pixel_format(self.pix_fmt)

    @property
    def options(self) -> dict[str, str]:
        """The options of FFmpeg's demuxer."""
        size = f"{self.width}x{self.height}"
        return {"video_size": size, "framerate": str(self.fps), "pixel_format": self.pix_fmt}


def parse_moment(text: str) -> Fraction:
    """Return the seconds of ``90``, ``1:30`` or ``0:01:30.5``; raise ValueError for anything else."""
    if not re.fullmatch(r"(?:(?:[0-9]+:)?[0-9]+:)?[0-9]+(?:\.[0-9]+)?", text):
        raise ValueError(f"{text!r} is no time; write seconds, or h:mm:ss such as 0:01:30.5.")
    return sum(
        (60**place * Fraction(part) for place, part in enumerate(reversed(text.split(":")))), Fraction()
    )


def _parse_milliseconds(text: str) -> float:
    """Return milliseconds, 1 or more, as seconds; raise ValueError for anything else."""
    if not re.fullmatch(r"[0-9]+(?:\.[0-9]*)?", text) or float(text) < 1:
        raise ValueError(f"{text!r} is not a number of milliseconds from 1 on.")
    return float(text) / 1000


@dataclass(frozen=True)
class OutputOptions:
    """Options of what is written, from files as well as live. InputError for a codec that is none of these.

    pix_fmt: of formats with interleaved planes (``nv12``, ``p010le``, ``rgb24``) the planar one of the same codes is
    meant, but in a pipe of raw frames.
    """

    codec: CodecName | None = option(
        None,
        help="By default h264 for 8 bits and h265 for more, vp9 or av1 in .webm, ffv1 for RGB. ffv1 is lossless.",
    )
    crf: int | None = option(
        None, help="Quality, smaller is better: 16 for h264 and h265, 20 for av1 and vp9 unless given."
    )
    pix_fmt: str | None = option(
        None,
        help="Convert frames to this pixel format first, such as yuv422p10le; else they keep theirs. Raw frames on "
        "standard output are written in it, nv12 and p010le included. Of raw frames on standard input: the format "
        "that they have.",
    )
    pipe_format: PipeFormat = option(
        "y4m",
        flags=("--format",),
        help="What is written to standard output: frames with a header, or nothing but frames.",
    )

    def __post_init__(self) -> None:
        require_valid(self)


@dataclass(frozen=True)
class VideoOptions(OutputOptions):
    """Options of :func:`clean_video`. InputError for those that do not fit together, or are out of range.

    like_input: of a source whose codec loses nothing and is not written here, FFV1 is taken. start, end: in seconds
    from the beginning of the video. resume: the folder of segments lies beside the target. A run that was killed and
    resumed gives the same frames as one that was not, if both are resumable: the encoder begins anew with each segment.
    segment_seconds: length of a segment. raw: of a source that is a binary stream of frames without any header.
    """

    like_input: bool = option(
        False,
        flags=("--like-input",),
        help="Encode with the input's codec, profile and, on average, bit rate; of codecs that are not written here, "
        "the bit rate alone.",
    )
    on_error: OnError = option(
        "stop",
        help="At a broken frame, or one that cannot be cleaned: end the output before it, leave it out, or write it "
        "unclean.",
    )
    drop: tuple[str, ...] = option(
        (), metavar="|".join(KINDS), help="Leave these streams out; may be repeated."
    )
    start: Fraction | None = option(
        None,
        parse=parse_moment,
        metavar="TIME",
        help="Begin there, in seconds or h:mm:ss; the output begins at 0.",
    )
    end: Fraction | None = option(
        None, parse=parse_moment, metavar="TIME", help="End before that time of the input."
    )
    resume: bool = option(
        False,
        flags=("--resume",),
        help="Work in segments of 10 s, kept in OUT.segments until OUT is whole; after an interruption, even a kill, "
        "the same command goes on after the last finished one, and gives the same frames as an uninterrupted run with "
        "--resume, which cuts the same segments.",
    )
    skip_dry: bool = option(
        False,
        flags=("--skip-dry",),
        help="Frames in which a cheap detector sees no rain are left as they are, which saves the network's work. It "
        "would rather clean a dry frame than leave a rainy one.",
    )
    segment_seconds: float = 10.0  # as often as encoders put a key frame by themselves
    raw: RawFrames | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = sorted(set(self.drop) - set(KINDS))
        if unknown:
            raise InputError(f"drop takes {', '.join(KINDS)}, not {unknown[0]!r}.")
        if self.like_input and self.crf is not None:
            raise InputError(
                "A crf is a quality of its own, and like_input takes the source's; leave out one of them."
            )
        if (self.start is not None and self.start < 0) or (
            self.end is not None and self.end <= (self.start or 0)
        ):
            raise InputError("A part of a video ends after it starts, and starts at 0 or later.")
        if self.segment_seconds <= 0:
            raise InputError("Segments are longer than 0 seconds.")


@dataclass(frozen=True)
class LiveOptions(OutputOptions):
    """Options of :func:`clean_live`. InputError for a budget that is not above 0, or a time below 0.

    latency: the budget in seconds. give_up: seconds for which a lost source is tried.
    """

    latency: float = option(
        0.5,
        flags=("--latency-ms",),
        parse=_parse_milliseconds,
        metavar="FLOAT",
        shown="500",
        help="Live: frames that are later than this before the engine is asked are left out.",
    )
    give_up: float = option(
        60,
        flags=("--reconnect",),
        metavar="SECONDS",
        least=0,
        help="Live: try for so long to get a lost source back.",
    )

    def __post_init__(self) -> None:
        if self.latency <= 0 or self.give_up < 0:
            raise InputError("A budget of latency is above 0, and the time to give up after not below.")
        super().__post_init__()

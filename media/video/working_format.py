"""The form in which the frames of one video are worked on, which its first frame decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...base.errors import InputError
from .colour import Coding, Scratch, add_difference, coding_of_frame, differ, to_rgb
from .options import OutputOptions
from .pixel_formats import convert, planar_form, planes

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from .reader import VideoReader


@dataclass(frozen=True)
class WorkingFormat:
    """Planes of one pixel format, size and coding.

    first: a frame of the video in this form. coding: how its planes stand for colours. piped: FFmpeg's name of the
    pixel format that frames have in a pipe.
    """

    first: VideoFrame
    coding: Coding
    piped: str

    @classmethod
    def choose(cls, first: VideoFrame, reader: VideoReader, options: OutputOptions) -> WorkingFormat:
        """Choose the form for the video that begins with ``first``.

        Interleaved frames are worked on as planes, and leave a pipe without a header as they came or as was asked for.

        Raises:
            InputError: the video is interlaced, or its frames cannot be worked on.
        """
        if first.interlaced_frame:
            raise InputError(
                f"{reader.name} is interlaced; deinterlace it first, for example with ffmpeg -vf bwdif."
            )
        asked = options.pix_fmt or first.format.name
        first = convert(first, planar_form(asked))
        coding = coding_of_frame(first, reader.siting(first))
        return cls(first, coding, asked if options.pipe_format == "rawvideo" else first.format.name)

    @property
    def pix_fmt(self) -> str:
        """FFmpeg's name of the pixel format."""
        return self.first.format.name

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.first.width, self.first.height

    def luma(self, frame: VideoFrame) -> np.ndarray:
        """Return a frame's first plane, green where there is no luma, as H x W uint8."""
        luma = planes(frame, self.coding.sample)[0]
        return luma if self.coding.bits == 8 else (luma >> (self.coding.bits - 8)).astype(np.uint8)

    def to_rgb(self, frame: VideoFrame, out: np.ndarray | None, scratch: Scratch) -> np.ndarray:
        """Return a frame in RGB, as :func:`colour.to_rgb` says."""
        return to_rgb(planes(frame, self.coding.sample), self.coding, out, scratch)

    def change(self, frame: VideoFrame, rainy: np.ndarray, clean: np.ndarray, scratch: Scratch) -> None:
        """Change a frame by what the engine made of it, as :func:`colour.add_difference` says."""
        if differ(rainy, clean):
            # The decoder may still refer to the frame; a copy is made where it does.
            frame.make_writable()
            add_difference(planes(frame, self.coding.sample), rainy, clean, self.coding, scratch)

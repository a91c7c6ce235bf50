"""Pixel formats of frames: conversion without loss, planes as arrays, and what frames say beside their codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .ffmpeg import require_pixel_format

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

#: Chroma sample locations that are known here, as libavutil counts, and FFmpeg's names of them.
_SITINGS = {1: "left", 2: "center", 3: "topleft", 4: "top"}
#: Formats whose planes are only interleaved, and the planar ones that hold the same codes.
_PLANAR = {
    **dict.fromkeys(("rgb24", "bgr24", "rgb0", "bgr0", "0rgb", "0bgr"), "gbrp"),
    "nv12": "yuv420p",
    "nv21": "yuv420p",
    "nv16": "yuv422p",
    "p010le": "yuv420p10le",
}


def convert(frame: VideoFrame, pix_fmt: str) -> VideoFrame:
    """Return the same frame with its codes in another pixel format, in the same range and matrix.

    Raises:
        InputError: there is no such format.
    """
    if frame.format.name == pix_fmt:
        return frame
    require_pixel_format(pix_fmt)
    if frame.format.is_rgb or pix_fmt.startswith("gbr"):
        return frame.reformat(format=pix_fmt)
    kept = 2 if frame.format.name.startswith("yuvj") or frame.color_range == 2 else 1
    converted = frame.reformat(format=pix_fmt, src_color_range=kept, dst_color_range=kept)
    if frame.width % 2 and {frame.format.name, pix_fmt} == {"p010le", "yuv420p10le"}:
        _rewrite_p010(frame, converted)
    return converted


def _rewrite_p010(frame: VideoFrame, converted: VideoFrame) -> None:
    """Write the codes of P010, or of what it came from, anew.

    At odd widths swscale leaves out the last column of chroma and, now and then, gets whole lines of luma wrong.
    """
    packed, planar = (frame, converted) if frame.format.name == "p010le" else (converted, frame)
    lines = [_lines(plane, np.uint16) for plane in packed.planes]
    luma, *chroma = planes(planar, np.uint16)
    height, width = chroma[0].shape
    pairs = lines[1][:height, : 2 * width]
    for upper, lower in [
        (lines[0][:, : packed.width], luma),
        (pairs[:, ::2], chroma[0]),
        (pairs[:, 1::2], chroma[1]),
    ]:
        if packed is frame:
            np.right_shift(upper, 6, out=lower)  # codes are the upper 10 bits
        else:
            np.left_shift(lower, 6, out=upper)


def planar_form(pix_fmt: str) -> str:
    """Return the planar pixel format that holds the same codes as this one: itself where there is none or no need."""
    return _PLANAR.get(pix_fmt, pix_fmt)


def planes(frame: VideoFrame, sample: type[np.unsignedinteger]) -> list[np.ndarray]:
    """Return views of the frame's planes, without the bytes between their lines."""
    return [_lines(plane, sample)[:, : plane.width] for plane in frame.planes]


def _lines(plane: Any, sample: type[np.unsignedinteger]) -> np.ndarray:
    return np.frombuffer(plane, sample).reshape(plane.height, -1)


def side_data(frame: VideoFrame, kind: str) -> bytes:
    """Return what lies beside the frame under this name of ``av.sidedata.sidedata.Type``; empty for nothing."""
    try:
        return bytes(cast(Any, frame.side_data)[kind])
    except KeyError:
        return b""


def chroma_siting(frame: VideoFrame) -> str:
    """Return FFmpeg's name of where the frame's chroma samples lie; empty where nobody says."""
    return _SITINGS.get(getattr(frame, "chroma_location", 0), "")

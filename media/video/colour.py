"""The planes of a video frame as RGB for a network, and the network's difference put back onto those planes.

A frame that goes from YUV to RGB and back is off by a few codes even where nothing was changed: colours are clipped,
chroma is filtered twice and everything is rounded twice. So the written frame is the source's own code values plus
the *difference* that the engine made, which alone is converted: where the engine changed nothing, nothing changes.

Formulae: Rec. ITU-T H.273, 8.3, matrix coefficients: E'Y = Kr E'R + (1 - Kr - Kb) E'G + Kb E'B,
E'PB = (E'B - E'Y) / (2 (1 - Kb)), E'PR = (E'R - E'Y) / (2 (1 - Kr)), and the scaling of these to limited and full
range.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...base.errors import InputError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

#: MatrixCoefficients of H.273, table 4 -> (Kr, Kb): BT.709, FCC, BT.470BG and BT.601 (5 and 6), SMPTE 240M, BT.2020.
_MATRICES = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
_BT709, _UNSPECIFIED, _BT601, _BT2020 = 1, 2, 5, 9
#: A frame that says nothing of its matrix is taken for HD above this many lines or columns, as players do.
_SD_LINES, _SD_COLUMNS = 576, 1279
_FULL = 2
#: Chroma sample location, as libavutil counts -> does a chroma sample lie on a luma column, on a luma row?
_SITINGS = {1: (True, False), 2: (False, False), 3: (True, True), 4: (False, True)}
#: Values of a picture that are converted at a time, 1 MB as floats: few enough for the caches, enough to make the
#: cost of the calls small.
_BAND_VALUES = 1 << 18
_PIXEL_FORMAT = re.compile(
    r"(?:yuv(?P<full>j?)(?P<layout>420|422|444)|(?P<rgb>gb)r)p(?:(?P<bits>9|1[0246])le)?"
)


@dataclass(frozen=True)
class Coding:
    """The way in which the planes of a frame stand for colours.

    Attributes:
        bits: of a sample, 8 to 16; samples of more than 8 bits are uint16.
        rgb: the planes are G, B, R; else Y, Cb, Cr.
        halved: is chroma half as wide, half as high?
        cosited: where it is, does a chroma sample lie on a luma column, on a luma row, or between two?
        kr, kb: the weights of red and blue in luma.
        full: codes reach from 0 to 2^bits - 1; else luma from 16 and chroma around 128, times 2^(bits - 8).
    """

    bits: int
    rgb: bool
    halved: tuple[bool, bool] = (False, False)
    cosited: tuple[bool, bool] = (True, False)
    kr: float = 0.2126
    kb: float = 0.0722
    full: bool = False

    @property
    def peak(self) -> int:
        return (1 << self.bits) - 1

    @property
    def sample(self) -> type[np.unsignedinteger]:
        return np.uint8 if self.bits == 8 else np.uint16


def coding_of(
    pix_fmt: str,
    *,
    matrix: int,
    colour_range: int,
    width: int,
    height: int,
    siting: int = 0,
) -> Coding:
    """Return the coding of a frame that says this of itself.

    Args:
        pix_fmt: FFmpeg's name of a planar format: ``yuv420p``, ``yuv422p10le``, ``yuvj444p``, ``gbrp``, ...
        matrix: MatrixCoefficients of H.273; 2, unspecified, is BT.709 for frames larger than 1279 x 576, else BT.601.
        colour_range: 2 is full, 1 is limited, 0 (unspecified) is limited.
        siting: of chroma, as libavutil counts; 0, unspecified, is what H.264 and H.265 say: on the left column,
            between the rows; for BT.2020 on the top row.

    Raises:
        InputError: a format, matrix or siting that is none of these.
    """
    found = _PIXEL_FORMAT.fullmatch(pix_fmt)
    if found is None:
        raise InputError(
            f"Frames of the pixel format {pix_fmt} cannot be worked on as they are; name a planar one that has room "
            "for them, such as --pix-fmt yuv444p, yuv422p10le or gbrp."
        )
    bits = int(found["bits"] or 8)
    if found["rgb"]:
        return Coding(bits, rgb=True, full=True)
    if matrix == _UNSPECIFIED:
        matrix = _BT709 if width > _SD_COLUMNS or height > _SD_LINES else _BT601
    if matrix not in _MATRICES:
        raise InputError(
            f"The colour matrix {matrix} (MatrixCoefficients of H.273) is not known here, only "
            f"{', '.join(map(str, _MATRICES))}; convert the video to BT.709 first."
        )
    if siting not in (0, *_SITINGS):
        raise InputError(
            f"Chroma samples at libavutil's location {siting}, a bottom row, are not known here."
        )
    kr, kb = _MATRICES[matrix]
    return Coding(
        bits,
        rgb=False,
        halved=(found["layout"] != "444", found["layout"] == "420"),
        cosited=_SITINGS[siting or (3 if matrix == _BT2020 else 1)],
        kr=kr,
        kb=kb,
        full=bool(found["full"]) or colour_range == _FULL,
    )


def coding_of_frame(frame: VideoFrame, siting: int) -> Coding:
    """Return the coding of a frame, whose chroma has that siting, as :func:`coding_of` says."""
    return coding_of(
        frame.format.name,
        matrix=int(frame.colorspace),
        colour_range=int(frame.color_range),
        width=frame.width,
        height=frame.height,
        siting=siting,
    )


def rgb_from_yuv(coding: Coding) -> np.ndarray:
    """Return a 3 x 4 float64 matrix: [Y, Cb, Cr, 1] in codes -> [R, G, B] in [0, 1]."""
    y_scale, c_scale, y_zero, c_zero = _scales(coding)
    kr, kb = coding.kr, coding.kb
    kg = 1 - kr - kb
    signal = np.array(
        [
            [1, 0, 2 * (1 - kr)],
            [1, -2 * kb * (1 - kb) / kg, -2 * kr * (1 - kr) / kg],
            [1, 2 * (1 - kb), 0],
        ]
    )
    linear = signal / [y_scale, c_scale, c_scale]
    return np.column_stack([linear, -linear @ [y_zero, c_zero, c_zero]])


def yuv_from_rgb(coding: Coding) -> np.ndarray:
    """Return a 3 x 3 float64 matrix: a difference of [R, G, B] in [0, 1] -> of [Y, Cb, Cr] in codes."""
    y_scale, c_scale, *_ = _scales(coding)
    kr, kb = coding.kr, coding.kb
    luma = np.array([kr, 1 - kr - kb, kb])
    blue, red = (np.array([0, 0, 1]) - luma) / (2 * (1 - kb)), (np.array([1, 0, 0]) - luma) / (2 * (1 - kr))
    return np.stack([y_scale * luma, c_scale * blue, c_scale * red])


def _scales(coding: Coding) -> tuple[float, float, float, float]:
    """Return the codes of (luma, chroma) for a signal of 1, and of (luma, chroma) for 0."""
    if coding.full:
        return coding.peak, coding.peak, 0, 1 << (coding.bits - 1)
    unit = 1 << (coding.bits - 8)
    return 219 * unit, 224 * unit, 16 * unit, 128 * unit


class Scratch:
    """Arrays that one thread works in again and again.

    Fresh ones of a frame's size cost more than the work in them, as the system hands out their pages one by one.
    """

    def __init__(self) -> None:
        self._kept: dict[str, np.ndarray] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
        """Return the array of that name, with whatever it held last; a new one where shape or dtype are others."""
        kept = self._kept.get(name)
        if kept is None or kept.shape != shape or kept.dtype != dtype:
            kept = self._kept[name] = np.empty(shape, dtype)
        return kept


def to_rgb(
    planes: Sequence[np.ndarray],
    coding: Coding,
    out: np.ndarray | None = None,
    scratch: Scratch | None = None,
) -> np.ndarray:
    """Return H x W x 3 RGB of a frame: uint8 for 8-bit codings, else float32; colours outside of [0, 1] are clipped.

    Args:
        planes: H x W, and those of chroma as the coding says (rounded up), of ``coding.sample``. They are not changed.
        out: written to and returned.
        scratch: of the calling thread.
    """
    import cv2

    scratch = scratch or Scratch()
    height, width = planes[0].shape
    shape = height, width, 3
    if out is None:
        out = np.empty(shape, np.uint8 if coding.bits == 8 else np.float32)
    if coding.rgb:
        channels = [planes[2], planes[0], planes[1]]
    else:
        chroma = (
            _upsample(plane, coding, name, scratch)
            for plane, name in zip(planes[1:], ("cb", "cr"), strict=True)
        )
        channels = [planes[0], *(plane[:height, :width] for plane in chroma)]
    for rows in _bands(height, width):
        lines = [channel[rows] for channel in channels]
        part = out[rows]
        if coding.rgb and coding.bits == 8:
            cv2.merge(lines, part)
            continue
        codes = cv2.merge(lines, scratch("codes", part.shape, coding.sample))
        if coding.rgb:
            np.divide(codes, np.float32(coding.peak), out=part, dtype=np.float32)
        elif coding.bits == 8:
            cv2.transform(codes, rgb_from_yuv(coding) * 255, part)
        else:
            floats = scratch("floats", part.shape, np.float32)
            np.copyto(floats, codes)
            cv2.transform(floats, rgb_from_yuv(coding), part)
            np.clip(part, 0, 1, out=part)
    return out


def differ(rainy: np.ndarray, clean: np.ndarray) -> bool:
    """Say whether two pictures of one shape and dtype are not the same."""
    import cv2

    return cv2.norm(rainy, clean, cv2.NORM_INF) != 0


def add_difference(
    planes: Sequence[np.ndarray],
    rainy: np.ndarray,
    clean: np.ndarray,
    coding: Coding,
    scratch: Scratch | None = None,
) -> bool:
    """Change ``planes`` in place by what the engine changed; return False if that is nothing.

    Args:
        planes: as for :func:`to_rgb`, writable.
        rainy, clean: H x W x 3 RGB, uint8 or float32, what the engine was given (of :func:`to_rgb`) and what it made
            of it.
        scratch: of the calling thread.
    """
    import cv2

    scratch = scratch or Scratch()
    scale = 1 / 255 if rainy.dtype == np.uint8 else 1.0
    # A plane for each row of the matrix: G, B, R, or Y, Cb, Cr.
    matrix = scale * (np.eye(3)[[1, 2, 0]] * coding.peak if coding.rgb else yuv_from_rgb(coding))
    depth = cv2.CV_8U if coding.bits == 8 else cv2.CV_16U
    height, width, _ = rainy.shape
    changed = False
    # Of each plane of chroma, the line before the band; None where it is 0.
    above: list[np.ndarray] | None = None
    for rows in _bands(height, width):
        before, after = rainy[rows], clean[rows]
        if rainy.dtype != np.uint8:
            after = np.clip(after, 0, 1, out=scratch("clipped", after.shape, np.float32))
        same = not differ(before, after)
        if same and above is None:
            continue
        changed = changed or not same
        shape = before.shape
        difference = cv2.subtract(after, before, scratch("difference", shape, np.float32), dtype=cv2.CV_32F)
        difference = cv2.transform(difference, matrix, scratch("coded", shape, np.float32))
        changes = [scratch(f"change {number}", shape[:2], np.float32) for number in range(3)]
        cv2.split(difference, changes)
        last = None if same else [change[-1].copy() for change in changes[1:]]
        for number, (plane, change) in enumerate(zip(planes, changes, strict=True)):
            lines = rows
            if number:
                change = _downsample(
                    change, coding, None if above is None else above[number - 1], rows.start, scratch
                )
                lines = slice(rows.start >> coding.halved[1], (rows.start >> coding.halved[1]) + len(change))
            part = plane[lines]
            cv2.add(part, change, part, dtype=depth)
            if 8 < coding.bits < 16:
                np.minimum(part, part.dtype.type(coding.peak), out=part)
        above = last
    return changed


def _bands(height: int, width: int) -> list[slice]:
    """Return the rows of a picture in parts that fit into the cache, each but the last of even height."""
    rows = max(_BAND_VALUES // (3 * width) // 2 * 2, 2)
    return [slice(start, min(start + rows, height)) for start in range(0, height, rows)]


def _upsample(plane: np.ndarray, coding: Coding, name: str, scratch: Scratch) -> np.ndarray:
    """Return chroma at the luma's resolution, linearly, by its siting; a row or column too many where luma is odd."""
    import cv2

    kind = plane.dtype.type
    between = [halved and not on for halved, on in zip(coding.halved, coding.cosited, strict=True)]
    if any(between):
        height, width = plane.shape
        across, down = (2 if double else 1 for double in between)
        size = width * across, height * down
        plane = cv2.resize(
            plane, size, scratch(f"{name} between", size[::-1], kind), interpolation=cv2.INTER_LINEAR
        )
    for axis, (halved, on) in enumerate(zip(coding.halved, coding.cosited, strict=True)):
        if not (halved and on):
            continue
        height, width = plane.shape
        middle = scratch(f"{name} middle {axis}", (height, width), kind)
        if axis == 0:  # of the coding, which is across
            middle[:, -1] = plane[:, -1]
            if width > 1:
                mean = scratch(f"{name} mean", (height, width - 1), kind)
                middle[:, :-1] = cv2.addWeighted(plane[:, :-1], 0.5, plane[:, 1:], 0.5, 0, mean)
            # Two channels side by side are every other column: OpenCV interleaves them by whole registers.
            interleaved = scratch(f"{name} across", (height, width, 2), kind)
            plane = cv2.merge([plane, middle], interleaved).reshape(height, 2 * width)
        else:
            middle[-1] = plane[-1]
            if height > 1:
                cv2.addWeighted(plane[:-1], 0.5, plane[1:], 0.5, 0, middle[:-1])
            doubled = scratch(f"{name} down", (height, 2, width), kind)
            doubled[:, 0], doubled[:, 1] = plane, middle
            plane = doubled.reshape(2 * height, width)
    return plane


def _downsample(
    change: np.ndarray, coding: Coding, above: np.ndarray | None, row: int, scratch: Scratch
) -> np.ndarray:
    """Bring a band of a change of chroma from the luma's resolution to its own.

    That is the mean of two where a sample lies between them, 1/4, 1/2, 1/4 where it lies on one. Edges are repeated.

    Args:
        above: the line before the band, None for zeros.
        row: where it begins.
    """
    import cv2

    if coding.halved[1]:
        if len(change) % 2:
            change = np.concatenate([change, change[-1:]])
        even, odd = change[::2], change[1::2]
        half = scratch("half down", even.shape, np.float32)
        before = even[0] if not row else 0.0 if above is None else above
        change = _meet(even, odd, half, before if coding.cosited[1] else None)
    if coding.halved[0]:
        if change.shape[1] % 2:
            change = np.concatenate([change, change[:, -1:]], 1)
        height, width = change.shape[0], change.shape[1] // 2
        even, odd = (scratch(name, (height, width), np.float32) for name in ("even", "odd"))
        cv2.split(change.reshape(height, width, 2), [even, odd])
        half = scratch("half across", even.shape, np.float32)
        change = _meet(even.T, odd.T, half.T, even[:, 0] if coding.cosited[0] else None).T
    return change


def _meet(
    even: np.ndarray, odd: np.ndarray, half: np.ndarray, before: np.ndarray | float | None
) -> np.ndarray:
    """Fill ``half`` with the means of an even line and the odd one after it; or, with the odd line ``before`` the
    first, with those of an even line and its two neighbours, as much of it as of them."""
    if before is None:
        np.add(even, odd, out=half)
    else:
        half[1:] = odd[:-1]
        half[0] = before
        half += odd
        half *= 0.5
        half += even
    half *= 0.5
    return half

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

import numpy as np

from ..errors import InputError

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
_PIXEL_FORMAT = re.compile(
    r"(?:yuv(?P<full>j?)(?P<layout>420|422|444)|(?P<rgb>gb)r)p(?:(?P<bits>9|1[0246])le)?"
)


@dataclass(frozen=True)
class Coding:
    """How the planes of a frame stand for colours.

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
    """The coding of a frame that says this of itself.

    pix_fmt: FFmpeg's name of a planar format: ``yuv420p``, ``yuv422p10le``, ``yuvj444p``, ``gbrp``, ...
    matrix: MatrixCoefficients of H.273; 2, unspecified, is BT.709 for frames larger than 1279 x 576, else BT.601.
    colour_range: 2 is full, 1 is limited, 0 (unspecified) is limited.
    siting: of chroma, as libavutil counts; 0, unspecified, is what H.264 and H.265 say: on the left column, between
        the rows; for BT.2020 on the top row.

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


def rgb_from_yuv(coding: Coding) -> np.ndarray:
    """3 x 4 float64: [Y, Cb, Cr, 1] in codes -> [R, G, B] in [0, 1]."""
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
    """3 x 3 float64: a difference of [R, G, B] in [0, 1] -> of [Y, Cb, Cr] in codes."""
    y_scale, c_scale, *_ = _scales(coding)
    kr, kb = coding.kr, coding.kb
    luma = np.array([kr, 1 - kr - kb, kb])
    blue, red = (np.array([0, 0, 1]) - luma) / (2 * (1 - kb)), (np.array([1, 0, 0]) - luma) / (2 * (1 - kr))
    return np.stack([y_scale * luma, c_scale * blue, c_scale * red])


def _scales(coding: Coding) -> tuple[float, float, float, float]:
    """(luma, chroma) codes for a signal of 1, (luma, chroma) codes of 0."""
    if coding.full:
        return coding.peak, coding.peak, 0, 1 << (coding.bits - 1)
    unit = 1 << (coding.bits - 8)
    return 219 * unit, 224 * unit, 16 * unit, 128 * unit


def to_rgb(planes: Sequence[np.ndarray], coding: Coding) -> np.ndarray:
    """H x W x 3 RGB of a frame: uint8 for 8-bit codings, else float32; colours outside of [0, 1] are clipped.

    planes: H x W, and those of chroma as the coding says (rounded up), of ``coding.sample``. They are not changed.
    """
    import cv2

    if coding.rgb:
        green, blue, red = planes
        codes = cv2.merge([red, green, blue])
        return codes if coding.bits == 8 else codes.astype(np.float32) / np.float32(coding.peak)
    luma = planes[0]
    height, width = luma.shape
    codes = cv2.merge([luma, *(_upsample(plane, coding)[:height, :width] for plane in planes[1:])])
    matrix = rgb_from_yuv(coding)
    if coding.bits == 8:
        return cv2.transform(codes, matrix * 255)
    return np.clip(cv2.transform(codes.astype(np.float32), matrix), 0, 1)


def add_difference(
    planes: Sequence[np.ndarray], rainy: np.ndarray, clean: np.ndarray, coding: Coding
) -> bool:
    """Change ``planes`` in place by what the engine changed; False if that is nothing.

    planes: as for :func:`to_rgb`, writable. rainy, clean: H x W x 3 RGB, uint8 or float32, what the engine was given
    (of :func:`to_rgb`) and what it made of it.
    """
    import cv2

    if rainy.dtype != np.uint8:
        clean = np.clip(clean, 0, 1)
    if np.array_equal(rainy, clean):
        return False
    difference = cv2.subtract(clean, rainy, dtype=cv2.CV_32F)
    scale = 1 / 255 if rainy.dtype == np.uint8 else 1.0
    if coding.rgb:
        red, green, blue = cv2.split(difference * np.float32(scale * coding.peak))
        changes = [green, blue, red]
    else:
        luma, *chroma = cv2.split(cv2.transform(difference, yuv_from_rgb(coding) * scale))
        changes = [luma, *(_downsample(plane, coding) for plane in chroma)]
    for plane, change in zip(planes, changes, strict=True):
        depth = cv2.CV_8U if coding.bits == 8 else cv2.CV_16U
        plane[...] = np.minimum(cv2.add(plane, change, dtype=depth), coding.peak)
    return True


def _upsample(plane: np.ndarray, coding: Coding) -> np.ndarray:
    """Chroma at the luma's resolution, linearly, by its siting; a row or column too many where luma is odd."""
    import cv2

    between = [halved and not on for halved, on in zip(coding.halved, coding.cosited, strict=True)]
    if any(between):
        across, down = (2 if double else 1 for double in between)
        plane = cv2.resize(plane, None, fx=across, fy=down, interpolation=cv2.INTER_LINEAR)
    for axis, (halved, on) in enumerate(zip(coding.halved, coding.cosited, strict=True)):
        if not (halved and on):
            continue
        # Axis 0 of the coding is across, which is the last one of an array.
        lines = plane if axis else plane.T
        following = np.concatenate([lines[1:], lines[-1:]])
        doubled = np.empty((2 * len(lines), lines.shape[1]), plane.dtype)
        doubled[::2] = lines
        doubled[1::2] = cv2.addWeighted(np.ascontiguousarray(lines), 0.5, following, 0.5, 0)
        plane = doubled if axis else doubled.T
    return np.ascontiguousarray(plane)


def _downsample(difference: np.ndarray, coding: Coding) -> np.ndarray:
    """A difference of chroma at the luma's resolution -> at its own: the mean of two where a sample lies between
    them, 1/4, 1/2, 1/4 where it lies on one. Edges are repeated."""
    for axis in (1, 0):
        across = axis == 0
        if not coding.halved[axis]:
            continue
        lines = difference.T if across else difference
        if len(lines) % 2:
            lines = np.concatenate([lines, lines[-1:]])
        even, odd = lines[::2], lines[1::2]
        if coding.cosited[axis]:
            before = np.concatenate([even[:1], odd[:-1]])
            lines = (before + odd) * np.float32(0.25) + even * np.float32(0.5)
        else:
            lines = (even + odd) * np.float32(0.5)
        difference = lines.T if across else lines
    return np.ascontiguousarray(difference)

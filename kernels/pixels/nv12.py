"""Frames of video as decoders on a GPU give them, NV12 and P010, to the network's padded maps and back.

    nv12_in     luma h x w, chroma h/2 x w/2 x 2  ->  map H x W x 4, RGB in [0, 1], the fourth channel 0
    nv12_out    luma, chroma, rain layer H x W x 3  ->  luma and chroma, the source's codes plus the difference

Samples are uint8, or for P010 uint16 whose upper 10 bits are the code; h/2 and w/2 are rounded up. Lines may lie any
distance apart. The matrix is that of Rec. ITU-T H.273, 8.3, by its weights KR of red and KB of blue: BT.601 0.299 and
0.114, BT.709 0.2126 and 0.0722, BT.2020 0.2627 and 0.0593. Chroma is interpolated linearly by its siting, its edges
repeated; colours outside of [0, 1] are clipped, and the map is padded as by ``pixels.frame_in``.

The picture's own difference, clip(rgb - rain) - clip(rgb) (eq. 1), goes through the matrix, chroma's then through the
mean of the two luma columns or rows that a sample lies between, or 1/4, 1/2, 1/4 where it lies on one; it is added
to the codes that came in and rounded. So what has no rain keeps its code, whatever RGB can hold. All in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...base.errors import InputError
from ..gemm import tile_pixels
from ..launch import Call, LaunchConfig, check_maps
from ..record import Kernel
from . import MAP_CHANNELS, PIXELS_CONFIG, padded


@dataclass(frozen=True)
class Nv12:
    """The way in which codes stand for colours.

    kr, kb: weights of red and blue in luma. full: codes from 0 on; else luma from 16 and chroma around 128, times 4
    with 10 bits. bits: 8 for NV12, 10 for P010. across, down: whether a chroma sample lies on a luma column, on a luma
    row, or between two. By default BT.709 in limited range as H.264 has it.
    """

    kr: float = 0.2126
    kb: float = 0.0722
    full: bool = False
    bits: int = 8
    across: bool = True
    down: bool = False

    def constants(self) -> dict[str, int | float | bool]:
        sides = {"ACROSS": self.across, "DOWN": self.down}
        return {"KR": self.kr, "KB": self.kb, "FULL": self.full, "BITS": self.bits, **sides}


@triton.jit
def _scales(FULL: tl.constexpr, BITS: tl.constexpr):
    """Codes for a signal of 1, of luma and chroma, and the code of black."""
    unit: tl.constexpr = 2.0 ** (BITS - 8)
    if FULL:
        return 256.0 * unit - 1, 256.0 * unit - 1, 0.0
    else:
        return 219.0 * unit, 224.0 * unit, 16.0 * unit


@triton.jit
def _codes(pointer, mask, BITS: tl.constexpr):
    code = tl.load(pointer, mask=mask, other=0).to(tl.int32)
    if BITS > 8:
        code = code >> 6
    return code.to(tl.float32)


@triton.jit
def _chroma_at(at, size, ON: tl.constexpr):
    """Return (sample before, sample after, weight of the latter) for a luma row or column among ``size`` of chroma."""
    if ON:
        first = at // 2
        return first, tl.minimum(first + 1, size - 1), (at % 2) * 0.5
    else:
        first = (at + 1) // 2 - 1
        return tl.maximum(first, 0), tl.minimum(first + 1, size - 1), tl.where(at % 2 == 0, 0.75, 0.25)


@triton.jit
def _rgb(
    luma, chroma, y, column, inside, H, W, LUMA_LINE, CHROMA_LINE,
    KR: tl.constexpr, KB: tl.constexpr, FULL: tl.constexpr, BITS: tl.constexpr,
    ACROSS: tl.constexpr, DOWN: tl.constexpr,
):  # fmt: skip
    """Return the three colours of pixels of the picture, clipped."""
    y_scale, c_scale, black = _scales(FULL, BITS)
    brightness = (_codes(luma + y * LUMA_LINE + column, inside, BITS) - black) / y_scale
    y0, y1, below = _chroma_at(y, (H + 1) // 2, DOWN)
    x0, x1, right = _chroma_at(column, (W + 1) // 2, ACROSS)
    blue = _mean(chroma, y0, y1, below, x0, x1, right, inside, CHROMA_LINE, BITS)
    red = _mean(chroma + 1, y0, y1, below, x0, x1, right, inside, CHROMA_LINE, BITS)
    middle: tl.constexpr = 2.0 ** (BITS - 1)
    blue, red = (blue - middle) / c_scale, (red - middle) / c_scale
    r = brightness + 2 * (1 - KR) * red
    b = brightness + 2 * (1 - KB) * blue
    g = brightness - (2 * KB * (1 - KB) / (1 - KR - KB)) * blue - (2 * KR * (1 - KR) / (1 - KR - KB)) * red
    return _clip(r), _clip(g), _clip(b)


@triton.jit
def _mean(chroma, y0, y1, below, x0, x1, right, inside, CHROMA_LINE, BITS: tl.constexpr):
    upper = _codes(chroma + y0 * CHROMA_LINE + 2 * x0, inside, BITS) * (1 - right)
    upper += _codes(chroma + y0 * CHROMA_LINE + 2 * x1, inside, BITS) * right
    lower = _codes(chroma + y1 * CHROMA_LINE + 2 * x0, inside, BITS) * (1 - right)
    lower += _codes(chroma + y1 * CHROMA_LINE + 2 * x1, inside, BITS) * right
    return upper * (1 - below) + lower * below


@triton.jit
def _clip(value):
    """NaN is 0."""
    return tl.where(value == value, tl.minimum(tl.maximum(value, 0.0), 1.0), 0.0)


@triton.jit
def _changed(pointer, change, mask, BITS: tl.constexpr):
    """Codes plus a change, as the words that hold them."""
    peak: tl.constexpr = 2.0**BITS - 1
    code = tl.floor(_codes(pointer, mask, BITS) + change + 0.5)
    word = tl.minimum(tl.maximum(code, 0.0), peak).to(tl.int32)
    if BITS > 8:
        word = word << 6
    return word


@triton.jit(do_not_specialize=["H", "W", "FRAME_H", "FRAME_W", "LUMA_LINE", "CHROMA_LINE"])
def nv12_in_kernel(
    luma, chroma, out, H, W, FRAME_H, FRAME_W, LUMA_LINE, CHROMA_LINE,
    KR: tl.constexpr, KB: tl.constexpr, FULL: tl.constexpr, BITS: tl.constexpr,
    ACROSS: tl.constexpr, DOWN: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    y, column = tile_pixels(W, TILE_H, TILE_W)
    inside = (y < H) & (column < W)
    r, g, b = _rgb(
        luma, chroma, padded(y, FRAME_H, H), padded(column, FRAME_W, W), inside, FRAME_H, FRAME_W,
        LUMA_LINE, CHROMA_LINE, KR, KB, FULL, BITS, ACROSS, DOWN,
    )  # fmt: skip
    colour = tl.arange(0, BLOCK_K)[None, :]
    value = tl.where(colour == 0, r[:, None], tl.where(colour == 1, g[:, None], b[:, None]))
    value = tl.where(colour < 3, value, 0.0).to(out.dtype.element_ty)
    tl.store(out + (y * W + column)[:, None] * BLOCK_K + colour, value, mask=inside[:, None])


@triton.jit(
    do_not_specialize=["CHROMA_H", "CHROMA_W", "H", "W", "RAIN_W", "LUMA_LINE", "CHROMA_LINE", "OUT_LINE"]
)
def nv12_out_kernel(
    luma, chroma, rain, out_luma, out_chroma, CHROMA_H, CHROMA_W, H, W, RAIN_W, LUMA_LINE, CHROMA_LINE, OUT_LINE,
    KR: tl.constexpr, KB: tl.constexpr, FULL: tl.constexpr, BITS: tl.constexpr,
    ACROSS: tl.constexpr, DOWN: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # A program has a tile of chroma samples, and the luma around them: four pixels of its own each, and neighbours.
    y, column = tile_pixels(CHROMA_W, TILE_H, TILE_W)
    live = (y < CHROMA_H) & (column < CHROMA_W)
    y_scale, c_scale, _ = _scales(FULL, BITS)
    blue = tl.zeros([TILE_H * TILE_W], tl.float32)
    red = tl.zeros([TILE_H * TILE_W], tl.float32)
    # The jit has no tuples of constants to walk over: a side of three, of which one may have no weight.
    for dy in tl.static_range(-1, 2):  # pyright: ignore[reportGeneralTypeIssues]
        for dx in tl.static_range(-1, 2):  # pyright: ignore[reportGeneralTypeIssues]
            if (DOWN or dy >= 0) and (ACROSS or dx >= 0):
                row, at = 2 * y + dy, 2 * column + dx
                own = live & (row < H) & (at < W) & (dy >= 0) & (dx >= 0)
                row = tl.minimum(tl.maximum(row, 0), H - 1)
                at = tl.minimum(tl.maximum(at, 0), W - 1)
                r, g, b = _rgb(
                    luma, chroma, row, at, live, H, W, LUMA_LINE, CHROMA_LINE, KR, KB, FULL, BITS, ACROSS, DOWN,
                )  # fmt: skip
                layer = rain + (row * RAIN_W + at) * 3
                r = _clip(r - tl.load(layer, mask=live, other=0.0).to(tl.float32)) - r
                g = _clip(g - tl.load(layer + 1, mask=live, other=0.0).to(tl.float32)) - g
                b = _clip(b - tl.load(layer + 2, mask=live, other=0.0).to(tl.float32)) - b
                change = KR * r + (1 - KR - KB) * g + KB * b
                weight = _weight(dy, DOWN) * _weight(dx, ACROSS)
                blue += weight * (b - change) / (2 * (1 - KB))
                red += weight * (r - change) / (2 * (1 - KR))
                word = _changed(luma + row * LUMA_LINE + at, change * y_scale, live, BITS)
                tl.store(out_luma + row * OUT_LINE + at, word.to(out_luma.dtype.element_ty), mask=own)
    source, target = chroma + y * CHROMA_LINE + 2 * column, out_chroma + y * (2 * CHROMA_W) + 2 * column
    kind = out_chroma.dtype.element_ty
    tl.store(target, _changed(source, blue * c_scale, live, BITS).to(kind), mask=live)
    tl.store(target + 1, _changed(source + 1, red * c_scale, live, BITS).to(kind), mask=live)


@triton.jit
def _weight(step: tl.constexpr, ON: tl.constexpr):
    if ON:
        return 0.5 if step == 0 else 0.25
    else:
        return 0.5


def _word_type(constants: Mapping[str, Any]) -> str:
    return "u8" if constants["BITS"] == 8 else "u16"


NV12_IN = Kernel(
    "pixels_nv12.nv12_in", nv12_in_kernel, reads="luma chroma", writes="out", frames="luma chroma",
    sizes="H W FRAME_H FRAME_W LUMA_LINE CHROMA_LINE", constants="KR KB FULL BITS ACROSS DOWN", plain=None,
    frame_type=_word_type, config=lambda channels: PIXELS_CONFIG, multiplies=False,
)  # fmt: skip
NV12_OUT = Kernel(
    "pixels_nv12.nv12_out", nv12_out_kernel, reads="luma chroma rain", writes="out_luma out_chroma",
    frames="luma chroma out_luma out_chroma", sizes="CHROMA_H CHROMA_W H W RAIN_W LUMA_LINE CHROMA_LINE OUT_LINE",
    constants="KR KB FULL BITS ACROSS DOWN", plain=None, frame_type=_word_type,
    config=lambda channels: PIXELS_CONFIG, multiplies=False,
)  # fmt: skip


def nv12_in_call(kind: Nv12, config: LaunchConfig) -> Call:
    """Return a launch over the map."""
    return Call(NV12_IN.name, kind.constants(), config)


def nv12_out_call(kind: Nv12, config: LaunchConfig) -> Call:
    """Return a launch over the chroma samples; ``out_chroma`` has no gaps between lines."""
    return Call(NV12_OUT.name, kind.constants(), config)


def _frame_size(luma: Tensor, chroma: Tensor, kind: Nv12) -> tuple[int, int]:
    if kind.bits not in (8, 10):
        raise InputError(f"NV12 has 8 bits and P010 has 10, not {kind.bits}.")
    dtype = torch.uint8 if kind.bits == 8 else torch.uint16
    if luma.ndim != 2 or not luma.numel() or luma.stride(1) != 1:
        raise InputError("Luma must be height x width, its lines without gaps between pixels.")
    height, width = luma.shape
    half = -(-height // 2), -(-width // 2), 2
    if tuple(chroma.shape) != half or chroma.stride()[1:] != (2, 1):
        raise InputError(
            f"Chroma of {height}x{width} must be {half[0]} x {half[1]} x 2, lines without gaps between pixels."
        )
    if luma.dtype != dtype or chroma.dtype != dtype or luma.device != chroma.device:
        raise InputError(f"Planes of {kind.bits} bits must both be {dtype}, on one device.")
    return height, width


def nv12_in(
    luma: Tensor,
    chroma: Tensor,
    height: int,
    width: int,
    dtype: torch.dtype,
    kind: Nv12 | None = None,
    *,
    config: LaunchConfig | None = None,
) -> Tensor:
    """Return the frame as a map of height x width x 4 in ``dtype``.

    Args:
        luma: h x w, uint8, or uint16 for 10 bits.
        chroma: h/2 x w/2 x 2, rounded up, Cb first, of the same type.

    Raises:
        InputError: not such planes, or larger than height x width.
    """
    kind = kind or Nv12()
    frame_height, frame_width = _frame_size(luma, chroma, kind)
    if frame_height > height or frame_width > width:
        raise InputError(f"A frame of {frame_width}x{frame_height} does not fit into {width}x{height}.")
    out = torch.empty(height, width, MAP_CHANNELS, dtype=dtype, device=luma.device)
    call = nv12_in_call(kind, config or NV12_IN.config(MAP_CHANNELS))
    lines = luma.stride(0), chroma.stride(0)
    NV12_IN.launch(call, [luma, chroma, out], (height, width, frame_height, frame_width, *lines))
    return out


def nv12_out(
    luma: Tensor,
    chroma: Tensor,
    rain: Tensor,
    kind: Nv12 | None = None,
    *,
    config: LaunchConfig | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (luma, chroma) of the frame without its rain, as new planes without gaps.

    Args:
        rain: H x W x 3, RGB, at least as large as the frame.

    Raises:
        InputError: not such planes, or a rain layer that does not cover them.
    """
    kind = kind or Nv12()
    height, width = _frame_size(luma, chroma, kind)
    rain_height, rain_width, channels = check_maps({"rain": rain})
    if rain_height < height or rain_width < width or channels != 3 or rain.device != luma.device:
        raise InputError(f"The rain layer must be at least {height} x {width} x 3, beside the frame.")
    new = torch.empty((height, width), dtype=luma.dtype, device=luma.device)
    new_chroma = torch.empty(tuple(chroma.shape), dtype=luma.dtype, device=luma.device)
    call = nv12_out_call(kind, config or NV12_OUT.config(MAP_CHANNELS))
    sizes = (*chroma.shape[:2], height, width, rain_width, luma.stride(0), chroma.stride(0), width)
    NV12_OUT.launch(call, [luma, chroma, rain, new, new_chroma], sizes)
    return new, new_chroma

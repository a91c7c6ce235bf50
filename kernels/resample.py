"""Bilinear resizing of a stack of maps, half-pixel centres, edges clamped, no antialiasing (PyTorch's
``interpolate(mode="bilinear", align_corners=False)``).

source is slabs x h x w x C, the result slabs x H x W x C in one buffer, or part of the channels of one wider map. NHWC
(one picture) in fp16, bf16 or fp32. Halving is the mean of 2x2 pixels, quartering the mean of the inner 2x2 of 4x4.
All maps of a stack are resized by one launch, before the convolution that reads them: a 3x3 window that resized as it
read would read four values for every one of its nine.
"""

from __future__ import annotations

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..base.errors import InputError
from .gemm import tile_pixels
from .launch import Call, LaunchConfig, check_maps
from .plain import Operands, Plain
from .record import Kernel


@triton.jit
def _sources(at, to_size, from_size):
    """Return the two source rows (or columns) of output rows, and the share of the second."""
    place = tl.maximum((at + 0.5) * (from_size.to(tl.float32) / to_size.to(tl.float32)) - 0.5, 0.0)
    first = tl.minimum(place.to(tl.int32), from_size - 1)
    return first, tl.minimum(first + 1, from_size - 1), place - first


@triton.jit(do_not_specialize=["H", "W", "FROM_H", "FROM_W"])
def bilinear_kernel(
    source, out, H, W, FROM_H, FROM_W,
    C: tl.constexpr, PIXEL: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    y, column = tile_pixels(W, TILE_H, TILE_W)
    plane = tl.program_id(1).to(tl.int64)
    top, bottom, v = _sources(y, H, FROM_H)
    left, right, u = _sources(column, W, FROM_W)
    inside = ((y < H) & (column < W))[:, None]
    source += plane * FROM_H * FROM_W * C
    out += plane * H * W * PIXEL
    for first in range(0, C, BLOCK_K):
        c = (first + tl.arange(0, BLOCK_K))[None, :]
        live = inside & (c < C)
        a = tl.load(source + (top * FROM_W + left)[:, None] * C + c, mask=live, other=0.0).to(tl.float32)
        b = tl.load(source + (top * FROM_W + right)[:, None] * C + c, mask=live, other=0.0).to(tl.float32)
        d = tl.load(source + (bottom * FROM_W + left)[:, None] * C + c, mask=live, other=0.0).to(tl.float32)
        e = tl.load(source + (bottom * FROM_W + right)[:, None] * C + c, mask=live, other=0.0).to(tl.float32)
        upper = a * (1 - u)[:, None] + b * u[:, None]
        lower = d * (1 - u)[:, None] + e * u[:, None]
        value = upper * (1 - v)[:, None] + lower * v[:, None]
        tl.store(out + (y * W + column)[:, None] * PIXEL + c, value.to(out.dtype.element_ty), mask=live)


def _bilinear_plain(given: Operands) -> Plain:
    size = given["H"], given["W"]
    source = given.map("source", given["C"], given["FROM_H"], given["FROM_W"], given.planes)
    return lambda source: (F.interpolate(source, size, mode="bilinear", align_corners=False),), [source]


BILINEAR = Kernel(
    "resample.bilinear", bilinear_kernel, reads="source", writes="out", sizes="H W FROM_H FROM_W",
    constants="C PIXEL", plain=_bilinear_plain, config=lambda channels: LaunchConfig(8, 16, 16, 4, 1),
    multiplies=False,
)  # fmt: skip


def bilinear_call(channels: int, slabs: int, config: LaunchConfig, pixel: int = 0) -> Call:
    """Return a launch over the new map.

    Args:
        pixel: elements from one pixel of out to the next where it is a part of wider pixels.
    """
    return Call(BILINEAR.name, {"C": channels, "PIXEL": pixel or channels}, config, planes=slabs)


def bilinear(
    source: Tensor, height: int, width: int, out: Tensor | None = None, config: LaunchConfig | None = None
) -> Tensor:
    """Resize a stack of maps.

    Args:
        source: slabs x h x w x C.
        out: slabs x height x width x C, new by default; with one slab it may be some channels of wider pixels.

    Returns:
        ``out``.

    Raises:
        InputError: shapes, strides, dtypes or devices that the kernel does not take.
    """
    if source.ndim != 4 or not source.is_contiguous() or not len(source):
        raise InputError("source must be contiguous, slabs x height x width x channels, none of them 0.")
    if min(height, width) < 1:
        raise InputError(f"A map cannot be resized to {height} x {width} pixels.")
    slabs, from_height, from_width, channels = source.shape
    out = source.new_empty(slabs, height, width, channels) if out is None else out
    check_maps({"source": source[0]})
    pixel = out.stride(2)
    if out.shape != (slabs, height, width, channels) or out.stride()[1:] != (width * pixel, pixel, 1):
        raise InputError(f"out must be {(slabs, height, width, channels)}, rows of pixels without gaps.")
    if (slabs > 1 and not out.is_contiguous()) or out.dtype != source.dtype or out.device != source.device:
        raise InputError(
            "out must be in the source's dtype, beside it, and whole where there are several slabs."
        )
    call = bilinear_call(channels, slabs, config or BILINEAR.config(channels), pixel)
    BILINEAR.launch(call, [source, out], (height, width, from_height, from_width))
    return out


def flops(height: int, width: int, channels: int, slabs: int) -> int:
    """Count two multiplications and an addition for each of three interpolations."""
    return 9 * height * width * channels * slabs

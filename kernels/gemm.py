"""The common part of the convolution kernels: an implicit GEMM over NHWC maps.

A convolution is a matrix product: rows are the BM output pixels of a tile, columns the output channels, and the inner
index k runs over taps and input channels, tap by tap. k is cut into blocks of BLOCK_K without regard to where a tap
ends: every k knows its tap (k // channels) and channel (k % channels), so that 24 channels waste nothing on powers of
two, and since channels come in eights a thread still reads 16 bytes at once. The columns are cut exactly into two
powers of two (24 = 16 + 8, 48 = 32 + 16, 96 = 64 + 32); N1 = 0 where one is enough.

Weights are packed as [k][column], k padded with zeros to a multiple of 64. Sums are fp32 whatever the operands are;
fp32 operands are multiplied in fp32, not in TF32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..base.errors import InputError

#: k is padded to a multiple of this; BLOCK_K divides it.
K_PADDING = 64
# The narrowest matrix instruction has eight columns.
_FEWEST_COLUMNS = 8


def split_columns(columns: int) -> tuple[int, int]:
    """``columns`` as a power of two and a smaller one or 0: 48 -> (32, 16), 32 -> (32, 0).

    Raises:
        InputError: no such two, or fewer than 8 columns.
    """
    first = 1 << max(0, columns.bit_length() - 1)
    second = columns - first
    if columns < _FEWEST_COLUMNS or second & (second - 1) or 0 < second < _FEWEST_COLUMNS:
        raise InputError(
            f"The fused kernels cannot tile {columns} channels: a width must be the sum of two powers of two from 8 "
            "on, such as 16, 24, 32 or 48. Build with another backend."
        )
    return first, second


def power_of_two(count: int) -> int:
    """``count`` up to a power of two."""
    return 1 << (count - 1).bit_length()


def padded_k(rows: int) -> int:
    return -(-rows // K_PADDING) * K_PADDING


def pack_matrix(rows: Tensor, columns: int | None = None) -> Tensor:
    """Return [k, n] with k padded to a multiple of 64, and n to ``columns``, by zeros."""
    k, n = rows.shape
    packed = rows.new_zeros(padded_k(k), columns or n)
    packed[:k, :n] = rows
    return packed


def taps_first(weight: Tensor) -> Tensor:
    """Return a convolution's [out, in, r, r] as [r * r, in, out]."""
    out, cin, r, s = weight.shape
    return weight.permute(2, 3, 1, 0).reshape(r * s, cin, out)


def pack_taps(
    weight: Tensor, bias: Tensor, dtype: torch.dtype, parts: Sequence[tuple[int, int]]
) -> dict[str, Tensor]:
    """Return ``weights`` and ``bias`` of a convolution over one or more maps: the rows of one map after the other.

    Args:
        weight: N x (channels of all parts) x r x r.
        bias: N.
        parts: for each map the channels that the weight has for it, and those that its pixels have, of which the
            others count for nothing.
    """
    count = weight.shape[0]
    columns, rows = max(_FEWEST_COLUMNS, count), []
    for part, (channels, wide) in zip(weight.split([real for real, _ in parts], 1), parts, strict=True):
        padded = F.pad(part, (0, 0, 0, 0, 0, wide - channels))
        rows.append(pack_matrix(taps_first(padded).flatten(0, 1), columns))
    packed = torch.cat(rows).to(dtype).contiguous()
    return {"weights": packed, "bias": F.pad(bias.float(), (0, columns - count))}


@triton.jit
def leaky(x, SLOPE: tl.constexpr):
    return tl.where(x >= 0, x, x * SLOPE)


@triton.jit
def tile_corner(W, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Return (row, column) where this program's tile begins; tiles cover a map of W columns row by row."""
    across = tl.cdiv(W, TILE_W)
    return tl.program_id(0) // across * TILE_H, tl.program_id(0) % across * TILE_W


@triton.jit
def tile_pixels(W, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Return (row, column) of every pixel of this program's tile, row by row."""
    top, left = tile_corner(W, TILE_H, TILE_W)
    m = tl.arange(0, TILE_H * TILE_W)
    return top + m // TILE_W, left + m % TILE_W


@triton.jit
def inner_taps(tap):
    """Return (dy, dx) of the nine taps of a 3x3 window, row by row."""
    return tap // 3 - 1, tap % 3 - 1


@triton.jit
def outer_taps(tap):
    """Return (dy, dx) of the sixteen taps that a 5x5 window has around its 3x3: the rows -2 and 2, then the columns -2
    and 2 of the rows between."""
    dy = tl.where(tap < 10, tap // 5 * 4 - 2, (tap - 10) // 2 - 1)
    dx = tl.where(tap < 10, tap % 5 - 2, tap % 2 * 4 - 2)
    return dy, dx


@triton.jit
def patches(x, y, column, dy, dx, offset, live, H, W, PIXEL: tl.constexpr):
    """Return [BM, BK]: the values of an NHWC map (PIXEL elements from one pixel to the next) at (y + dy, column + dx),
    element ``offset`` of the pixel; zero outside the map and where ``live`` is not set."""
    ys = y[:, None] + dy[None, :]
    xs = column[:, None] + dx[None, :]
    inside = (ys >= 0) & (ys < H) & (xs >= 0) & (xs < W) & live[None, :]
    return tl.load(x + (ys * W + xs) * PIXEL + offset[None, :], mask=inside, other=0.0)


@triton.jit
def with_bias(acc, bias, FIRST: tl.constexpr, COLUMNS: tl.constexpr):
    """Return acc + bias[FIRST : FIRST + COLUMNS]."""
    return acc + tl.load(bias + FIRST + tl.arange(0, COLUMNS))[None, :]


@triton.jit
def multiply(
    a, weights, k, acc0, acc1, FIRST: tl.constexpr, COLUMNS: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr
):
    """Return acc + a @ weights[k, FIRST : FIRST + N0 + N1], in two parts; ``weights`` has COLUMNS columns."""
    rows = weights + k[:, None] * COLUMNS + FIRST
    acc0 = tl.dot(a, tl.load(rows + tl.arange(0, N0)[None, :]), acc0, input_precision="ieee")
    if N1 > 0:
        acc1 = tl.dot(a, tl.load(rows + (N0 + tl.arange(0, N1))[None, :]), acc1, input_precision="ieee")
    return acc0, acc1


@triton.jit
def zeros(BM: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr):
    """Return two fp32 accumulators; the second stands for nothing where N1 is 0."""
    acc0 = tl.zeros([BM, N0], tl.float32)
    if N1 > 0:
        return acc0, tl.zeros([BM, N1], tl.float32)
    else:
        return acc0, acc0

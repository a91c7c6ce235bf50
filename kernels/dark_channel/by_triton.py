"""The box maximum over (3, P, P) and its gradient on GPUs.

    forward    R(y, j) = max over c and x in [j - p, j - p + P) of key(c, y, x)
               M(i, j) = max over y in [i - p, i - p + P) of R(y, j)
    backward   S(y, j) = sum over i of G(i, j) where the source of M(i, j) is in row y
               dX(c, y, x) = sum over j of S(y, j) where the source of S(y, j) is (c, x)

one launch each.

x: N x 3 x H x W in float32, float16 or bfloat16, any strides; maxima N x 1 x H' x W' with H' = H + 2p - P + 1; p and
P in pixels. Keys are those of ``by_torch``: value and linear index in 64 bits, so that one maximum carries
both and agrees with ``MaxPool3d`` about ties and NaN.

Running maxima are van Herk's (1992): the outputs [bP, bP + P) see a suffix of one block of P inputs and a prefix of
the next P - 1 (scanned from the first block's last input on, which they all see), so that one scan over each is all
the work, whatever P is, and nothing intermediate leaves the registers. The backward pass gathers instead of
scattering: a source is the winner of its row before it is the winner of its box, so two sums over P candidates each
find all that a pixel receives, in a fixed order and without atomics. Every element of dX is written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.jit import JITFunction

from ...base.errors import InputError
from .by_torch import INDEX_BITS, NO_KEY, output_size

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

#: Keys of a tile, and of a thread: with 8 a thread the row kernel takes up to 192 registers and spills on sm_80.
_SCAN_TILE, _KEYS_A_THREAD = 1024, 4
#: Side by side in a scan along columns, where the window leaves room: 32 keys of 8 bytes are two cache lines.
_MOST_COLUMNS = 32
#: Every output of a tile costs P reads, so that small tiles, spread over all multiprocessors, win.
_GATHER_ROWS, _GATHER_COLUMNS = 2, 64

_BITS = tl.constexpr(INDEX_BITS)
_NO_KEY = tl.constexpr(NO_KEY)
_INDEX_MASK = tl.constexpr((1 << INDEX_BITS) - 1)
_NAN = tl.constexpr(1 << INDEX_BITS)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _key(value, index):
    bits = value.to(tl.int32, bitcast=True)
    bits = tl.where(value == 0.0, 0, bits)  # -0 equals +0
    order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
    order = tl.where(value != value, index + _NAN, order)
    return (order << _BITS) + (_INDEX_MASK - index)


@triton.jit
def _pixel_keys(x, column, inside, place, width, stride_c, stride_w, plane):
    """Return the largest key of the three channels at columns of rows; ``place`` is the index of each row's start."""
    best = tl.full(inside.shape, _NO_KEY, tl.int64)
    for channel in tl.static_range(3):  # pyright: ignore[reportGeneralTypeIssues]
        value = tl.load(x + channel * stride_c + column * stride_w, inside, other=0.0).to(tl.float32)
        key = _key(value, (channel * plane + place + column).to(tl.int64))
        best = tl.maximum(best, tl.where(inside, key, _NO_KEY))
    return best


@triton.jit
def row_kernel(
    x, keys, rows, height, width, out_width, stride_n, stride_c, stride_h, stride_w, window, padding,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write R, the running maximum along rows; a program takes ROWS rows and P outputs of each."""
    blocks = tl.cdiv(out_width, window)
    pid = tl.program_id(0)
    first = (pid % blocks) * window
    row = (pid // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    lane = tl.arange(0, BLOCK)[None, :]
    y = row % height
    source = x + row // height * stride_n + y * stride_h
    there = (row < rows) & (lane < window)

    column = (first - padding + lane).to(tl.int64)
    inside = there & (column >= 0) & (column < width)
    this = _pixel_keys(source, column, inside, y * width, width, stride_c, stride_w, height * width)
    column += window - 1
    inside = there & (column >= 0) & (column < width)
    following = _pixel_keys(source, column, inside, y * width, width, stride_c, stride_w, height * width)

    best = tl.maximum(
        tl.associative_scan(this, 1, _larger, reverse=True), tl.associative_scan(following, 1, _larger)
    )
    out = first + lane
    tl.store(keys + row * out_width + out, best, there & (out < out_width))


@triton.jit
def column_kernel(
    keys, x, maxima, index, height, width, out_height, out_width,
    stride_n, stride_c, stride_h, stride_w, window, padding,
    COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write M, the running maximum of R along columns, taken apart into value and index."""
    strips = tl.cdiv(out_width, COLUMNS)
    blocks = tl.cdiv(out_height, window)
    pid = tl.program_id(0)
    first = (pid // strips) % blocks * window
    n = (pid // strips // blocks).to(tl.int64)
    column = (pid % strips) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    lane = tl.arange(0, BLOCK)[:, None]
    there = (column < out_width) & (lane < window)

    row = first - padding + lane
    inside = there & (row >= 0) & (row < height)
    this = tl.load(keys + (n * height + row) * out_width + column, inside, other=_NO_KEY)
    row += window - 1
    inside = there & (row >= 0) & (row < height)
    following = tl.load(keys + (n * height + row) * out_width + column, inside, other=_NO_KEY)

    best = tl.maximum(
        tl.associative_scan(this, 0, _larger, reverse=True), tl.associative_scan(following, 0, _larger)
    )
    winner = _INDEX_MASK - (best & _INDEX_MASK)
    out = first + lane
    there = there & (out < out_height)
    # The value itself is read again: its key has lost the sign of zero and the bits of NaN.
    channel = winner // (height * width)
    y, column_of = winner // width % height, winner % width
    value = tl.load(x + n * stride_n + channel * stride_c + y * stride_h + column_of * stride_w, there)
    place = (n * out_height + out) * out_width + column
    tl.store(maxima + place, value, there)
    tl.store(index + place, winner.to(tl.int32), there)


@triton.jit
def column_gather_kernel(
    grad, index, sums, sources, rows, height, width, out_height, out_width,
    stride_n, stride_h, stride_w, padding,
    WINDOW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write S, and the index that it belongs to (-1: none)."""
    # WINDOW is a constant since Triton 3.6's interpreter cannot loop to a run-time bound under recent numpy.
    strips = tl.cdiv(out_width, COLUMNS)
    pid = tl.program_id(0)
    row = (pid // strips).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (pid % strips) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    n, y = row // height, (row % height).to(tl.int32)
    there = (row < rows) & (column < out_width)
    plane = height * width
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    source = tl.full((ROWS, COLUMNS), -1, tl.int32)
    for step in range(WINDOW):
        out = y + padding - step
        inside = there & (out >= 0) & (out < out_height)
        winner = tl.load(index + (n * out_height + out) * out_width + column, inside, other=-1)
        mine = inside & (winner % plane // width == y)
        value = tl.load(
            grad + n * stride_n + out * stride_h + column.to(tl.int64) * stride_w, mine, other=0.0
        )
        total += value.to(tl.float32)
        source = tl.where(mine, winner, source)
    tl.store(sums + row * out_width + column, total, there)
    tl.store(sources + row * out_width + column, source, there)


@triton.jit
def row_gather_kernel(
    sums, sources, out, rows, height, width, out_width, padding,
    WINDOW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write dX: at most one channel of a pixel is a source, the first that holds its maximum."""
    strips = tl.cdiv(width, COLUMNS)
    pid = tl.program_id(0)
    row = (pid // strips).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    x = (pid % strips) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    there = (row < rows) & (x < width)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    source = tl.full((ROWS, COLUMNS), -1, tl.int32)
    for step in range(WINDOW):
        column = x + padding - step
        inside = there & (column >= 0) & (column < out_width)
        winner = tl.load(sources + row * out_width + column, inside, other=-1)
        mine = (winner >= 0) & (winner % width == x)
        total += tl.load(sums + row * out_width + column, mine, other=0.0)
        source = tl.where(mine, winner, source)
    plane = height * width
    place = row // height * 3 * plane + row % height * width + x
    for channel in tl.static_range(3):  # pyright: ignore[reportGeneralTypeIssues]
        value = tl.where((source >= channel * plane) & (source < (channel + 1) * plane), total, 0.0)
        tl.store(out + place + channel * plane, value.to(out.dtype.element_ty), there)


def box_maximum(x: Tensor, window: int, padding: int) -> tuple[Tensor, Tensor]:
    """Return the maxima, N x 1 x H' x W' in x's dtype, and the linear indices (int32, into one picture's 3 x H x W) of
    the pixels they came from.

    Args:
        x: N x 3 x H x W, any strides; on a GPU, or anywhere in Triton's interpreter.

    Raises:
        InputError: as ``output_size``, another dtype or another device.
    """
    out_height, out_width = output_size(x, window, padding)
    _check(x)
    n, _, height, width = x.shape
    keys = x.new_empty((n, height, out_width), dtype=torch.int64)
    maxima = x.new_empty((n, 1, out_height, out_width))
    index = torch.empty_like(maxima, dtype=torch.int32)
    if not n:
        return maxima, index
    block = max(2, triton.next_power_of_2(window))
    rows = min(max(1, _SCAN_TILE // block), triton.next_power_of_2(n * height))
    columns = min(max(1, _SCAN_TILE // block), _MOST_COLUMNS)
    box, sides = (*x.stride(), window, padding), (n * height, height, width)
    scan = {"ROWS": rows, "BLOCK": block, "num_warps": _scan_warps(rows * block)}
    programs = triton.cdiv(n * height, rows) * triton.cdiv(out_width, window)
    _launch(row_kernel, programs, (x, keys, *sides, out_width, *box), scan)
    scan = {"COLUMNS": columns, "BLOCK": block, "num_warps": _scan_warps(columns * block)}
    programs = n * triton.cdiv(out_height, window) * triton.cdiv(out_width, columns)
    arguments = (keys, x, maxima, index, *sides[1:], out_height, out_width, *box)
    _launch(column_kernel, programs, arguments, scan)
    return maxima, index


def box_maximum_backward(
    grad: Tensor, index: Tensor, height: int, width: int, window: int, padding: int
) -> Tensor:
    """Return the gradients of the maxima, added up in float32 where the maxima came from.

    Args:
        grad: N x 1 x H' x W', any strides.
        index, window, padding: of ``box_maximum``.

    Returns:
        N x 3 x ``height`` x ``width`` in grad's dtype.

    Raises:
        InputError: grad and index that do not belong together, another dtype or another device.
    """
    _check(grad)
    if grad.shape != index.shape or grad.device != index.device or not index.is_contiguous():
        raise InputError(
            f"A gradient of {tuple(grad.shape)} on {grad.device} does not belong to indices of "
            f"{tuple(index.shape)} on {index.device}, or those are not contiguous."
        )
    n, _, out_height, out_width = grad.shape
    out = grad.new_empty((n, 3, height, width))
    if not n:
        return out
    sums = grad.new_empty((n, height, out_width), dtype=torch.float32)
    sources = torch.empty_like(sums, dtype=torch.int32)
    row_strips = triton.cdiv(n * height, _GATHER_ROWS)
    strides, sides = (grad.stride(0), grad.stride(2), grad.stride(3)), (n * height, height, width)
    constants = {"WINDOW": window, "ROWS": _GATHER_ROWS, "COLUMNS": _GATHER_COLUMNS}
    arguments = (grad, index, sums, sources, *sides, out_height, out_width, *strides, padding)
    _launch(column_gather_kernel, row_strips * triton.cdiv(out_width, _GATHER_COLUMNS), arguments, constants)
    arguments = (sums, sources, out, *sides, out_width, padding)
    _launch(row_gather_kernel, row_strips * triton.cdiv(width, _GATHER_COLUMNS), arguments, constants)
    return out


def _check(x: Tensor) -> None:
    if x.dtype not in DTYPES:
        raise InputError(f"The dark channel's kernels take float32, float16 and bfloat16, not {x.dtype}.")
    if isinstance(row_kernel, JITFunction) and not x.is_cuda:
        raise InputError(
            f"The dark channel's kernels need a tensor on a CUDA device; this one is on {x.device}."
        )


def _launch(kernel: Any, programs: int, arguments: tuple[Any, ...], constants: Mapping[str, int]) -> None:
    # Triton launches on the current device, whatever device the tensors are on.
    with torch.cuda.device_of(arguments[0]):
        kernel[(programs,)](*arguments, **constants)


def _scan_warps(keys: int) -> int:
    return min(32, max(1, keys // (32 * _KEYS_A_THREAD)))

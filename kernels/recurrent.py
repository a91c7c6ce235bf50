"""The 3x3 convolutions of recurrent networks, over two maps as if they were concatenated, with what follows them.

    conv    y = act(conv3x3([first, second]) + b);  y = act'(y + addend)          act, act' are ReLU or nothing
    lstm    i, f, o = sigmoid(conv3x3([x, h]) + b);  g = tanh(conv3x3([x, h]) + b)
            c = f c + i g;  h' = o tanh(c)                                         (PReNet, section 3.2)

x, h, c: H x W x C; first, second: H x W x C0 and C1, where C1 = 0 is no second map; NHWC (one picture) in fp16, bf16 or
fp32. The four gates are one convolution of 4C columns whose sums never leave the program; the cell is read and written
in place. In the first step h and c are zero: with START neither is read, half of the rows and the forget gate's columns
are left out.

k runs over the first map's taps and channels and then over the second's, each padded to a multiple of 64 rows. Pixels
of ``addend`` and ``out`` may be wider than their columns: what is beyond is written as zero.
"""

# Triton's compile-time arguments are declared as constexpr and given as numbers.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..base.errors import InputError
from .gemm import (
    inner_taps,
    multiply,
    pack_taps,
    padded_k,
    patches,
    split_columns,
    tile_pixels,
    with_bias,
    zeros,
)
from .launch import Call, LaunchConfig, check_maps, check_shapes
from .plain import Operands, Plain, concatenated
from .record import Kernel

#: In the order of the packed columns.
GATES = ("i", "g", "o", "f")


@triton.jit
def _sum(
    image, weights, y, column, a0, a1, H, W,
    C: tl.constexpr, ROW: tl.constexpr, COLUMNS: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Add the convolution of one map, whose weights begin at row ROW."""
    for first in range(0, 9 * C, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        dy, dx = inner_taps(k // C)
        a = patches(image, y, column, dy, dx, k % C, k < 9 * C, H, W, C)
        a0, a1 = multiply(a, weights + ROW * COLUMNS, k, a0, a1, 0, COLUMNS, N0, N1)
    return a0, a1


@triton.jit
def _finish(
    acc, bias, addend, out, pixel, inside,
    FIRST: tl.constexpr, COUNT: tl.constexpr, PIXEL: tl.constexpr, ADDED: tl.constexpr, ADD: tl.constexpr,
    BEFORE: tl.constexpr, AFTER: tl.constexpr,
):  # fmt: skip
    n = FIRST + tl.arange(0, COUNT)
    y = with_bias(acc, bias, FIRST, COUNT)
    if BEFORE:
        y = tl.maximum(y, 0.0)
    if ADD:
        # A picture's fourth channel is zero, as the sum's is.
        y += tl.load(addend + pixel * ADDED + n[None, :], mask=inside & (n < ADDED)[None, :], other=0.0)
    if AFTER:
        y = tl.maximum(y, 0.0)
    tl.store(out + pixel * PIXEL + n[None, :], y.to(out.dtype.element_ty), mask=inside & (n < PIXEL)[None, :])


@triton.jit(do_not_specialize=["H", "W"])
def conv_kernel(
    first, second, weights, bias, addend, out, H, W,
    C: tl.constexpr, C1: tl.constexpr, ROWS: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr,
    PIXEL: tl.constexpr, ADDED: tl.constexpr, ADD: tl.constexpr, BEFORE: tl.constexpr, AFTER: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    BM: tl.constexpr = TILE_H * TILE_W
    y, column = tile_pixels(W, TILE_H, TILE_W)
    a0, a1 = zeros(BM, N0, N1)
    a0, a1 = _sum(first, weights, y, column, a0, a1, H, W, C, 0, N0 + N1, N0, N1, BLOCK_K)
    if C1 > 0:
        a0, a1 = _sum(second, weights, y, column, a0, a1, H, W, C1, ROWS, N0 + N1, N0, N1, BLOCK_K)
    inside = ((y < H) & (column < W))[:, None]
    pixel = (y * W + column)[:, None]
    _finish(a0, bias, addend, out, pixel, inside, 0, N0, PIXEL, ADDED, ADD, BEFORE, AFTER)
    if N1 > 0:
        _finish(a1, bias, addend, out, pixel, inside, N0, N1, PIXEL, ADDED, ADD, BEFORE, AFTER)


@triton.jit
def _tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def _gate_sums(
    image, weights, y, column, i, g, o, f, H, W,
    C: tl.constexpr, ROW: tl.constexpr, COLUMNS: tl.constexpr, FORGET: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Add the convolution of one map for every gate; every patch is loaded once."""
    for first in range(0, 9 * C, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        dy, dx = inner_taps(k // C)
        a = patches(image, y, column, dy, dx, k % C, k < 9 * C, H, W, C)
        i, g = multiply(a, weights + ROW * COLUMNS, k, i, g, 0, COLUMNS, C, C)
        if FORGET:
            o, f = multiply(a, weights + ROW * COLUMNS, k, o, f, 2 * C, COLUMNS, C, C)
        else:
            o, f = multiply(a, weights + ROW * COLUMNS, k, o, f, 2 * C, COLUMNS, C, 0)
    return i, g, o, f


@triton.jit(do_not_specialize=["H", "W"])
def lstm_kernel(
    x, hidden, weights, bias, cell, out, H, W,
    C: tl.constexpr, ROWS: tl.constexpr, START: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    BM: tl.constexpr = TILE_H * TILE_W
    y, column = tile_pixels(W, TILE_H, TILE_W)
    i, g = zeros(BM, C, C)
    o, f = zeros(BM, C, C)
    i, g, o, f = _gate_sums(x, weights, y, column, i, g, o, f, H, W, C, 0, 4 * C, not START, BLOCK_K)
    if not START:
        i, g, o, f = _gate_sums(hidden, weights, y, column, i, g, o, f, H, W, C, ROWS, 4 * C, True, BLOCK_K)
    inside = ((y < H) & (column < W))[:, None]
    at = (y * W + column)[:, None] * C + tl.arange(0, C)[None, :]
    c = tl.sigmoid(with_bias(i, bias, 0, C)) * _tanh(with_bias(g, bias, C, C))
    if not START:
        before = tl.load(cell + at, mask=inside, other=0.0).to(tl.float32)
        c += tl.sigmoid(with_bias(f, bias, 3 * C, C)) * before
    tl.store(cell + at, c.to(cell.dtype.element_ty), mask=inside)
    h = tl.sigmoid(with_bias(o, bias, 2 * C, C)) * _tanh(c)
    tl.store(out + at, h.to(out.dtype.element_ty), mask=inside)


def pack_gates(
    weights: Mapping[str, Tensor], biases: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return the weights as the LSTM reads them.

    Args:
        weights: C x 2C x 3 x 3 by the gate's letter.
        biases: C by the gate's letter.
    """
    channels = weights["i"].shape[0]
    whole = torch.cat([weights[gate] for gate in GATES])
    bias = torch.cat([biases[gate] for gate in GATES])
    return pack_taps(whole, bias, dtype, [(channels, channels)] * 2)


def _operands(given: Operands, first: str, second: str, columns: int, channels: int) -> list[list[Tensor]]:
    """Return the weights and maps of a convolution over two maps, the second one of so many channels, or none."""
    rows = given.weight("weights").view(-1, columns)
    maps, weights = [given.map(first, given["C"])], [given.conv_weight(rows, given["C"], columns, 3)]
    if channels:
        maps.append(given.map(second, channels))
        weights.append(given.conv_weight(rows[given["ROWS"] :], channels, columns, 3))
    # The kernel sums one map after the other; a network convolves them side by side.
    return [weights if given.exact else [given.laid_out(concatenated(weights))], maps]


def _convolved(weights: Sequence[Tensor], maps: Sequence[Tensor], bias: Tensor) -> Tensor:
    """Return the convolution of maps, with a weight for each or one for all."""
    maps = [concatenated(maps)] if len(weights) == 1 else maps
    y = F.conv2d(maps[0], weights[0], bias, padding=1)
    for image, weight in zip(maps[1:], weights[1:], strict=True):
        y = y + F.conv2d(image, weight, padding=1)
    return y


def _conv_plain(given: Operands) -> Plain:
    pixel, before, add, after = (given[name] for name in ("PIXEL", "BEFORE", "ADD", "AFTER"))
    weights, maps = _operands(given, "first", "second", given["N0"] + given["N1"], given["C1"])
    weights = [given.laid_out(weight[:pixel]) for weight in weights]
    addend = [given.laid_out(given.map("addend", given["ADDED"])[:, :pixel])] if add else []
    first, last = len(weights), len(weights) + len(maps)

    def run(bias: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        y = _convolved(rest[:first], rest[first:last], bias)
        y = y.relu() if before else y
        y = y + rest[last] if add else y
        return (y.relu() if after else y,)

    return run, [given.weight("bias")[:pixel], *weights, *maps, *addend]


def _lstm_plain(given: Operands) -> Plain:
    channels, start = given["C"], given["START"]
    weights, maps = _operands(given, "x", "hidden", 4 * channels, 0 if start else channels)
    before = [] if start else [given.map("cell", channels)]
    first, last = len(weights), len(weights) + len(maps)

    def run(bias: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        i, g, o, f = _convolved(rest[:first], rest[first:last], bias).chunk(len(GATES), 1)
        cell = i.sigmoid() * g.tanh()
        cell = cell if start else cell + f.sigmoid() * rest[last]
        return cell, o.sigmoid() * cell.tanh()

    return run, [given.weight("bias"), *weights, *maps, *before]


CONV = Kernel(
    "recurrent.conv", conv_kernel, reads="first second addend", weights="weights", biases="bias", writes="out",
    constants="C C1 ROWS N0 N1 PIXEL ADDED ADD BEFORE AFTER", plain=_conv_plain,
)  # fmt: skip
# Sums of four gates.
LSTM = Kernel(
    "recurrent.lstm", lstm_kernel, reads="x hidden cell", weights="weights", biases="bias", writes="cell out",
    constants="C ROWS START", plain=_lstm_plain, config=lambda channels: LaunchConfig(warps=8),
    columns=lambda constants: 4 * int(constants["C"]),
)  # fmt: skip


def conv_call(
    channels: int,
    second: int,
    columns: int,
    config: LaunchConfig,
    *,
    pixel: int = 0,
    added: int = 0,
    before: bool = False,
    after: bool = False,
) -> Call:
    """Return a launch of the convolution; second and addend are unused without them.

    Args:
        channels, second: of the two maps.
        pixel: elements from one pixel of out to the next, ``columns`` for 0.
        added: those of the addend, 0 for none.
        before, after: ReLU before and after the addition.
    """
    n0, n1 = split_columns(max(8, columns))
    constants = {"C": channels, "C1": second, "ROWS": padded_k(9 * channels), "N0": n0, "N1": n1}
    constants |= {"PIXEL": pixel or columns, "ADDED": added, "ADD": added > 0}
    constants |= {"BEFORE": before, "AFTER": after}
    return Call(CONV.name, constants, config)


def lstm_call(channels: int, config: LaunchConfig, start: bool = False) -> Call:
    """Return a launch of the LSTM; hidden is unused with ``start``.

    Raises:
        InputError: a number of channels that is no power of two from 8 on.
    """
    if split_columns(channels)[1]:
        raise InputError(f"The fused LSTM takes 8, 16, 32, ... channels, not {channels}.")
    constants = {"C": channels, "ROWS": padded_k(9 * channels), "START": start}
    return Call(LSTM.name, constants, config)


def conv(
    first: Tensor,
    second: Tensor | None,
    packed: Mapping[str, Tensor],
    columns: int,
    addend: Tensor | None = None,
    *,
    pixel: int = 0,
    before: bool = False,
    after: bool = False,
    config: LaunchConfig | None = None,
) -> Tensor:
    """Convolve one or two maps.

    Args:
        first, second: H x W x C0 and H x W x C1.
        packed: of :func:`.gemm.pack_taps`.
        addend: H x W x at least ``columns``.

    Returns:
        H x W x ``pixel``.

    Raises:
        InputError: shapes, strides, dtypes or devices that the kernel does not take.
    """
    maps = {"first": first, "second": first if second is None else second}
    maps["addend"] = first if addend is None else addend
    height, width, channels = check_maps(maps, packed)
    if any(each.shape[:2] != first.shape[:2] for each in maps.values()):
        raise InputError(f"All maps must be of {height} x {width} pixels.")
    other = 0 if second is None else second.shape[2]
    wide = max(8, columns)
    rows = padded_k(9 * channels) + (padded_k(9 * other) if other else 0)
    check_shapes(packed, {"weights": (rows, wide), "bias": (wide,)})
    if (addend is not None and addend.shape[2] < columns) or not columns <= (pixel or columns) <= wide:
        raise InputError(f"addend and out must have pixels of {columns} to {wide} elements.")
    out = first.new_empty(height, width, pixel or columns)
    call = conv_call(
        channels,
        other,
        columns,
        config or CONV.config(channels),
        pixel=pixel,
        added=0 if addend is None else addend.shape[2],
        before=before,
        after=after,
    )
    pointers = [first, maps["second"], packed["weights"], packed["bias"], maps["addend"], out]
    CONV.launch(call, pointers, (height, width))
    return out


def lstm(
    x: Tensor,
    hidden: Tensor | None,
    cell: Tensor,
    packed: Mapping[str, Tensor],
    config: LaunchConfig | None = None,
) -> Tensor:
    """Make one step of the LSTM.

    Args:
        x, hidden: H x W x C. Without a hidden state it is the first step, and the cell is not read.
        cell: H x W x C, overwritten.
        packed: of :func:`pack_gates`.

    Returns:
        The new hidden state.

    Raises:
        InputError: shapes, strides, dtypes or devices that the kernel does not take.
    """
    state = x if hidden is None else hidden
    height, width, channels = check_maps({"x": x, "hidden": state, "cell": cell}, packed)
    if x.shape != state.shape or x.shape != cell.shape:
        raise InputError(f"x, hidden and cell must all be {tuple(x.shape)}.")
    check_shapes(packed, {"weights": (2 * padded_k(9 * channels), 4 * channels), "bias": (4 * channels,)})
    out = torch.empty_like(x)
    call = lstm_call(channels, config or LSTM.config(channels), hidden is None)
    LSTM.launch(call, [x, state, packed["weights"], packed["bias"], cell, out], (height, width))
    return out


def flops(height: int, width: int, channels: int, columns: int) -> int:
    """Count operations, a multiply-add as two.

    Args:
        channels: of all maps together.
        columns: of the LSTM four for every channel.
    """
    return 2 * height * width * 9 * channels * columns

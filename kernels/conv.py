"""A 3x3 convolution over a stack of maps as if they were concatenated: y = act(conv3x3([s_0, s_1, ...]) + b).

The stack is slabs x H x W x C in one buffer, y H x W x N, NHWC (one picture) in fp16, bf16 or fp32; act is
LeakyReLU(0.2). Where an ``addend`` is given, a second output gets y + addend: a map that is kept as it is and also
begins a dense connection whose units' inputs have maps of another one added (section IV of the SSID-KD paper,
MC-Concat). It is the first convolution of every scale, the convolutions between scales and the tail's.
"""

# Triton's compile-time arguments are declared as constexpr and given as numbers.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..base.errors import InputError
from .gemm import (
    inner_taps,
    leaky,
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

SLOPE = 0.2


@triton.jit
def _finish(
    acc, bias, out, addend, summed, pixel, inside,
    FIRST: tl.constexpr, COUNT: tl.constexpr, N: tl.constexpr, SLOPE: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Bias, activation, and the one or two outputs of COUNT columns from FIRST on; N of all columns are real."""
    n = FIRST + tl.arange(0, COUNT)
    real = inside & (n < N)[None, :]
    y = leaky(with_bias(acc, bias, FIRST, COUNT), SLOPE)
    at = pixel * N + n[None, :]
    tl.store(out + at, y.to(out.dtype.element_ty), mask=real)
    if ADD:
        y += tl.load(addend + at, mask=real, other=0.0)
        tl.store(summed + at, y.to(out.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["H", "W"])
def conv3x3_kernel(
    stack, weights, bias, out, addend, summed, H, W,
    C: tl.constexpr, SLABS: tl.constexpr, N: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr,
    SLOPE: tl.constexpr, ADD: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    BM: tl.constexpr = TILE_H * TILE_W
    CHANNELS: tl.constexpr = C * SLABS
    y, column = tile_pixels(W, TILE_H, TILE_W)
    a0, a1 = zeros(BM, N0, N1)
    for first in range(0, 9 * CHANNELS, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        dy, dx = inner_taps(k // CHANNELS)
        channel = k % CHANNELS
        if SLABS == 1:
            offset = channel
        else:
            # A stack of large maps has more elements than 32 bits count.
            offset = (channel // C).to(tl.int64) * H * W * C + channel % C
        a = patches(stack, y, column, dy, dx, offset, k < 9 * CHANNELS, H, W, C)
        a0, a1 = multiply(a, weights, k, a0, a1, 0, N0 + N1, N0, N1)
    inside = ((y < H) & (column < W))[:, None]
    pixel = (y * W + column)[:, None]
    _finish(a0, bias, out, addend, summed, pixel, inside, 0, N0, N, SLOPE, ADD)
    if N1 > 0:
        _finish(a1, bias, out, addend, summed, pixel, inside, N0, N1, N, SLOPE, ADD)


def pack(weight: Tensor, bias: Tensor, dtype: torch.dtype, padding: int = 0) -> dict[str, Tensor]:
    """Return the weights as the kernel reads them.

    Args:
        weight: N x C x 3 x 3.
        bias: N.
        padding: channels of zeros that are appended to the input's.
    """
    channels = weight.shape[1]
    return pack_taps(weight, bias, dtype, [(channels, channels + padding)])


def _conv3x3_plain(given: Operands) -> Plain:
    channels, slabs, columns = given["C"], given["SLABS"], given["N"]
    slope, add = given.real("SLOPE"), given["ADD"]

    def run(weight: Tensor, bias: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        y = F.leaky_relu(F.conv2d(concatenated(maps[:slabs]), weight, bias, padding=1), slope)
        return (y, y + maps[slabs]) if add else (y,)

    rows = given.weight("weights").view(-1, given["N0"] + given["N1"])
    weight, bias = given.conv_weight(rows, channels * slabs, columns, 3), given.weight("bias")[:columns]
    addend = [given.map("addend", columns)] if add else []
    return run, [weight, bias, *given.stack("stack", channels, slabs), *addend]


CONV3X3 = Kernel(
    "conv.conv3x3", conv3x3_kernel, reads="stack addend", weights="weights", biases="bias", writes="out summed",
    constants="C SLABS N N0 N1 SLOPE ADD", plain=_conv3x3_plain,
)  # fmt: skip


def conv3x3_call(channels: int, slabs: int, columns: int, config: LaunchConfig, add: bool = False) -> Call:
    """Return a launch; the last two pointers are unused without ``add``."""
    n0, n1 = split_columns(max(8, columns))
    constants = {"C": channels, "SLABS": slabs, "N": columns, "N0": n0, "N1": n1, "SLOPE": SLOPE, "ADD": add}
    return Call(CONV3X3.name, constants, config)


def conv3x3(
    stack: Tensor,
    packed: Mapping[str, Tensor],
    columns: int,
    addend: Tensor | None = None,
    config: LaunchConfig | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Convolve a stack of maps.

    Args:
        stack: slabs x H x W x C.
        packed: of :func:`pack`, for ``columns`` outputs.
        addend: H x W x columns.

    Returns:
        y and y + addend, both H x W x columns.

    Raises:
        InputError: shapes, strides, dtypes or devices that the kernel does not take.
    """
    if stack.ndim != 4 or not stack.is_contiguous() or not len(stack):
        raise InputError("stack must be contiguous, slabs x height x width x channels, none of them 0.")
    slabs, height, width, channels = stack.shape
    out = stack.new_empty(height, width, columns)
    check_maps({"stack": stack[0], "addend": out if addend is None else addend}, packed)
    packed_columns = max(8, columns)
    check_shapes(
        packed, {"weights": (padded_k(9 * slabs * channels), packed_columns), "bias": (packed_columns,)}
    )
    if addend is not None and addend.shape != out.shape:
        raise InputError(f"addend is {tuple(addend.shape)}; it must be {tuple(out.shape)}.")
    call = conv3x3_call(channels, slabs, columns, config or CONV3X3.config(channels), addend is not None)
    summed = out if addend is None else torch.empty_like(out)
    pointers = [stack, packed["weights"], packed["bias"], out, out if addend is None else addend, summed]
    CONV3X3.launch(call, pointers, (height, width))
    return out, None if addend is None else summed


def flops(height: int, width: int, channels: int, slabs: int, columns: int) -> int:
    """Count operations, a multiply-add as two."""
    return 2 * height * width * 9 * channels * slabs * columns

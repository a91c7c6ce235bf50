"""The 1x1 convolution of a dense connection: y = act(conv1x1([s_0 ... s_i+1]) + b) + addend.

The maps of a dense connection are the slabs of one buffer, slabs x H x W x C, so nothing is concatenated; the
kernel reads the first ``slabs`` of them. y, addend: H x W x C. NHWC (one picture) in fp16, bf16 or fp32; act is
LeakyReLU(0.2). The addend is a map of another dense connection that the next unit's input gets (across scales or a
skip), or the residual of the last one. ``out`` may be one of the slabs: a program reads its pixels before it writes.
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
from .gemm import leaky, multiply, pack_matrix, padded_k, split_columns, tile_pixels, with_bias, zeros
from .launch import Call, LaunchConfig, check_maps, check_shapes
from .plain import Operands, Plain, concatenated
from .record import Kernel

SLOPE = 0.2


@triton.jit
def _finish(
    acc, bias, addend, out, pixel, inside,
    FIRST: tl.constexpr, COUNT: tl.constexpr, C: tl.constexpr, PIXEL: tl.constexpr, SLOPE: tl.constexpr,
    ADD: tl.constexpr,
):  # fmt: skip
    y = leaky(with_bias(acc, bias, FIRST, COUNT), SLOPE)
    n = (FIRST + tl.arange(0, COUNT))[None, :]
    if ADD:
        y += tl.load(addend + pixel * C + n, mask=inside, other=0.0)
    tl.store(out + pixel * PIXEL + n, y.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["H", "W", "SLABS"])
def dense1x1_kernel(
    stack, weights, bias, addend, out, H, W, SLABS,
    C: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr, PIXEL: tl.constexpr,
    SLOPE: tl.constexpr, ADD: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    BM: tl.constexpr = TILE_H * TILE_W
    y, column = tile_pixels(W, TILE_H, TILE_W)
    inside = ((y < H) & (column < W))[:, None]
    pixel = (y * W + column)[:, None]
    a0, a1 = zeros(BM, N0, N1)
    for first in range(0, C * SLABS, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        # A stack of large maps has more elements than 32 bits count.
        offset = (k // C).to(tl.int64) * H * W * C + k % C
        live = inside & (k < C * SLABS)[None, :]
        a = tl.load(stack + offset[None, :] + pixel * C, mask=live, other=0.0)
        a0, a1 = multiply(a, weights, k, a0, a1, 0, C, N0, N1)
    _finish(a0, bias, addend, out, pixel, inside, 0, N0, C, PIXEL, SLOPE, ADD)
    if N1 > 0:
        _finish(a1, bias, addend, out, pixel, inside, N0, N1, C, PIXEL, SLOPE, ADD)


def pack(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights as the kernel reads them. weight: C x slabs * C x 1 x 1; bias: C."""
    return {"weights": pack_matrix(weight.flatten(1).T).to(dtype).contiguous(), "bias": bias.float()}


def _dense1x1_plain(given: Operands) -> Plain:
    channels, slabs, slope, add = given["C"], given["SLABS"], given.real("SLOPE"), given["ADD"]

    def run(weight: Tensor, bias: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        y = F.leaky_relu(F.conv2d(concatenated(maps[:slabs]), weight, bias), slope)
        return (y + maps[slabs] if add else y,)

    weight = given.conv_weight(given.weight("weights").view(-1, channels), channels * slabs, channels, 1)
    addend = [given.map("addend", channels)] if add else []
    return run, [weight, given.weight("bias"), *given.stack("stack", channels, slabs), *addend]


DENSE1X1 = Kernel(
    "dense.dense1x1", dense1x1_kernel, reads="stack addend", weights="weights", biases="bias", writes="out",
    sizes="H W SLABS", constants="C N0 N1 PIXEL SLOPE ADD", plain=_dense1x1_plain,
)  # fmt: skip


def dense1x1_call(channels: int, config: LaunchConfig, add: bool = False, pixel: int = 0) -> Call:
    """Return a launch; the addend is unused without ``add``.

    Args:
        pixel: elements from one pixel of out to the next where it is a part of wider pixels.
    """
    n0, n1 = split_columns(channels)
    constants = {"C": channels, "N0": n0, "N1": n1, "PIXEL": pixel or channels}
    constants |= {"SLOPE": SLOPE, "ADD": add}
    return Call(DENSE1X1.name, constants, config)


def dense1x1(
    stack: Tensor,
    packed: Mapping[str, Tensor],
    slabs: int,
    addend: Tensor | None = None,
    out: Tensor | None = None,
    config: LaunchConfig | None = None,
) -> Tensor:
    """Convolve the first maps of a stack.

    Args:
        stack: at least ``slabs`` x H x W x C.
        packed: of :func:`pack`.
        addend: H x W x C.
        out: H x W x C, a new map by default; it may be the first channels of wider pixels.

    Returns:
        ``out``.

    Raises:
        InputError: shapes, strides, dtypes or devices that the kernel does not take.
    """
    if stack.ndim != 4 or not stack.is_contiguous() or not 1 <= slabs <= stack.shape[0]:
        raise InputError(
            f"stack must be contiguous, {slabs} or more x height x width x channels, slabs 1 or more."
        )
    out = torch.empty_like(stack[0]) if out is None else out
    given = {"stack": stack[0]} if addend is None else {"stack": stack[0], "addend": addend}
    height, width, channels = check_maps(given, packed)
    check_shapes(packed, {"weights": (padded_k(slabs * channels), channels), "bias": (channels,)})
    pixel = out.stride(1)
    if any(tensor.shape != stack[0].shape for tensor in (out, *given.values())):
        raise InputError(f"out and addend must be {tuple(stack[0].shape)}.")
    if out.stride() != (width * pixel, pixel, 1) or out.dtype != stack.dtype or out.device != stack.device:
        raise InputError(
            "out must be rows of pixels without gaps between rows, in the stack's dtype, beside it."
        )
    config = config or DENSE1X1.config(channels)
    call = dense1x1_call(channels, config, addend is not None, pixel)
    pointers = [stack, packed["weights"], packed["bias"], out if addend is None else addend, out]
    DENSE1X1.launch(call, pointers, (height, width, slabs))
    return out


def flops(height: int, width: int, channels: int, slabs: int) -> int:
    """Count operations, a multiply-add as two."""
    return 2 * height * width * slabs * channels**2

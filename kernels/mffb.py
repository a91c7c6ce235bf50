"""The multi-scale feature fusion block (MFFB, eq. 5 of the SSID-KD paper; the published code's MSFB) in two launches.

    m = [act(conv3x3(x)), act(conv5x5(x))]                         stage 1, C -> 2C
    n = [act(conv3x3(m)), act(conv5x5(m))]                         stage 2, 2C -> 4C
    y = conv1x1(n) + x                                             stage 2's epilogue, 4C -> C

x, y are H x W x C, m is H x W x 2C, all NHWC (one picture) in fp16, bf16 or fp32; act is LeakyReLU(0.2), or ReLU
(slope 0). Both branches of a stage read the same pixels: the nine inner taps feed both, the sixteen outer ones the
5x5 alone. n never reaches memory.
"""

# Triton's compile-time arguments are declared as constexpr and given as numbers.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .gemm import (
    inner_taps,
    leaky,
    multiply,
    outer_taps,
    pack_matrix,
    patches,
    split_columns,
    taps_first,
    tile_pixels,
    with_bias,
    zeros,
)
from .launch import Call, LaunchConfig, check_maps, check_shapes
from .plain import Operands, Plain
from .record import Kernel

SLOPE = 0.2


@triton.jit
def _branches(
    x, inner, outer, bias, y, column, H, W,
    C: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr, BM: tl.constexpr, BLOCK_K: tl.constexpr, SLOPE: tl.constexpr,
):  # fmt: skip
    """Return the activated 3x3 and 5x5 branches of x, each N0 + N1 channels, at the pixels (y, column)."""
    N: tl.constexpr = N0 + N1
    a0, a1 = zeros(BM, N0, N1)
    b0, b1 = zeros(BM, N0, N1)
    for first in range(0, 9 * C, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        dy, dx = inner_taps(k // C)
        a = patches(x, y, column, dy, dx, k % C, k < 9 * C, H, W, C)
        a0, a1 = multiply(a, inner, k, a0, a1, 0, 2 * N, N0, N1)
        b0, b1 = multiply(a, inner, k, b0, b1, N, 2 * N, N0, N1)
    for first in range(0, 16 * C, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        dy, dx = outer_taps(k // C)
        a = patches(x, y, column, dy, dx, k % C, k < 16 * C, H, W, C)
        b0, b1 = multiply(a, outer, k, b0, b1, 0, N, N0, N1)
    a0 = leaky(with_bias(a0, bias, 0, N0), SLOPE)
    b0 = leaky(with_bias(b0, bias, N, N0), SLOPE)
    if N1 > 0:
        a1 = leaky(with_bias(a1, bias, N0, N1), SLOPE)
        b1 = leaky(with_bias(b1, bias, N + N0, N1), SLOPE)
    return a0, a1, b0, b1


@triton.jit(do_not_specialize=["H", "W"])
def stage1_kernel(
    x, inner, outer, bias, m, H, W,
    C: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr, SLOPE: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    BM: tl.constexpr = TILE_H * TILE_W
    y, column = tile_pixels(W, TILE_H, TILE_W)
    a0, a1, b0, b1 = _branches(x, inner, outer, bias, y, column, H, W, C, N0, N1, BM, BLOCK_K, SLOPE)
    inside = ((y < H) & (column < W))[:, None]
    kind = m.dtype.element_ty
    to = m + (y * W + column)[:, None] * (2 * C)
    tl.store(to + tl.arange(0, N0)[None, :], a0.to(kind), mask=inside)
    tl.store(to + (C + tl.arange(0, N0))[None, :], b0.to(kind), mask=inside)
    if N1 > 0:
        tl.store(to + (N0 + tl.arange(0, N1))[None, :], a1.to(kind), mask=inside)
        tl.store(to + (C + N0 + tl.arange(0, N1))[None, :], b1.to(kind), mask=inside)


@triton.jit(do_not_specialize=["H", "W"])
def stage2_kernel(
    m, x, inner, outer, bias, last, last_bias, out, H, W,
    C: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr, O0: tl.constexpr, O1: tl.constexpr, SLOPE: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    BM: tl.constexpr = TILE_H * TILE_W
    N: tl.constexpr = 2 * C
    y, column = tile_pixels(W, TILE_H, TILE_W)
    a0, a1, b0, b1 = _branches(m, inner, outer, bias, y, column, H, W, N, N0, N1, BM, BLOCK_K, SLOPE)
    kind = out.dtype.element_ty
    c0, c1 = zeros(BM, O0, O1)
    c0, c1 = multiply(a0.to(kind), last, tl.arange(0, N0), c0, c1, 0, C, O0, O1)
    c0, c1 = multiply(b0.to(kind), last, N + tl.arange(0, N0), c0, c1, 0, C, O0, O1)
    if N1 > 0:
        c0, c1 = multiply(a1.to(kind), last, N0 + tl.arange(0, N1), c0, c1, 0, C, O0, O1)
        c0, c1 = multiply(b1.to(kind), last, N + N0 + tl.arange(0, N1), c0, c1, 0, C, O0, O1)
    inside = ((y < H) & (column < W))[:, None]
    pixel = (y * W + column)[:, None] * C
    at = pixel + tl.arange(0, O0)[None, :]
    c0 = with_bias(c0, last_bias, 0, O0) + tl.load(x + at, mask=inside, other=0.0)
    tl.store(out + at, c0.to(kind), mask=inside)
    if O1 > 0:
        at = pixel + (O0 + tl.arange(0, O1))[None, :]
        c1 = with_bias(c1, last_bias, O0, O1) + tl.load(x + at, mask=inside, other=0.0)
        tl.store(out + at, c1.to(kind), mask=inside)


def pack(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return an MFFB's state dict (``conv_3_1.weight`` ...) as the kernels read it.

    That is for each stage the inner taps of both branches beside each other, the outer ones, the biases in fp32; and
    the 1x1.
    """
    packed: dict[str, Tensor] = {}
    for stage in (1, 2):
        small, large = (state[f"conv_{r}_{stage}.weight"] for r in (3, 5))
        taps5 = taps_first(large).unflatten(0, (5, 5))
        around = torch.cat([taps5[0], taps5[4], taps5[1:4][:, [0, 4]].flatten(0, 1)])
        both = torch.cat([taps_first(small), taps5[1:4, 1:4].flatten(0, 1)], 2)
        packed[f"inner{stage}"] = pack_matrix(both.flatten(0, 1)).to(dtype)
        packed[f"outer{stage}"] = pack_matrix(around.flatten(0, 1)).to(dtype)
        packed[f"bias{stage}"] = torch.cat([state[f"conv_{r}_{stage}.bias"] for r in (3, 5)]).float()
    packed["last"] = pack_matrix(state["confusion.weight"].flatten(1).T).to(dtype)
    packed["last_bias"] = state["confusion.bias"].float()
    return {name: tensor.contiguous() for name, tensor in packed.items()}


def _branch_weights(given: Operands, channels: int) -> list[Tensor]:
    """Return weight and bias of the 3x3 branch, then of the 5x5 one."""
    bias = given.weight("bias")
    columns = len(bias) // 2
    inner = given.weight("inner").view(-1, 2, columns)[: 9 * channels]
    around = given.weight("outer").view(-1, columns)[: 16 * channels].view(16, channels, columns)
    large = around.new_zeros(5, 5, channels, columns)
    large[1:4, 1:4] = inner[:, 1].reshape(3, 3, channels, columns)
    large[0], large[4] = around[:5], around[5:10]
    large[1:4, 0], large[1:4, 4] = around[10::2], around[11::2]
    small = given.conv_weight(inner[:, 0], channels, columns, 3)
    return [small, bias[:columns], given.laid_out(large.permute(3, 2, 0, 1)), bias[columns:]]


def _branch_maps(image: Tensor, slope: float, w3: Tensor, b3: Tensor, w5: Tensor, b5: Tensor) -> Tensor:
    small = F.leaky_relu(F.conv2d(image, w3, b3, padding=1), slope)
    large = F.leaky_relu(F.conv2d(image, w5, b5, padding=2), slope)
    return torch.cat([small, large], 1)


def _stage1_plain(given: Operands) -> Plain:
    channels, slope = given["C"], given.real("SLOPE")

    def run(x: Tensor, *branches: Tensor) -> tuple[Tensor, ...]:
        return (_branch_maps(x, slope, *branches),)

    return run, [given.map("x", channels), *_branch_weights(given, channels)]


def _stage2_plain(given: Operands) -> Plain:
    channels, slope, rounded = given["C"], given.real("SLOPE"), given.round

    def run(m: Tensor, x: Tensor, last: Tensor, bias: Tensor, *branches: Tensor) -> tuple[Tensor, ...]:
        return (F.conv2d(rounded(_branch_maps(m, slope, *branches)), last, bias) + x,)

    last = given.conv_weight(given.weight("last").view(-1, channels), 4 * channels, channels, 1)
    maps = [given.map("m", 2 * channels), given.map("x", channels)]
    return run, [*maps, last, given.weight("last_bias"), *_branch_weights(given, 2 * channels)]


def _stage2_config(channels: int) -> LaunchConfig:
    if channels > 32:
        # In blocks of 32, 48 channels take all 255 registers on sm_80 and spill on sm_120; in these they take 178.
        return LaunchConfig(block_k=16, warps=8, stages=4)
    # Of three stages, 32 channels spill on sm_100.
    return LaunchConfig(warps=8, stages=2) if channels == 32 else LaunchConfig()


def _branch_columns(constants: Mapping[str, Any]) -> int:
    return 2 * (int(constants["N0"]) + int(constants["N1"]))


STAGE1 = Kernel(
    "mffb.stage1", stage1_kernel, reads="x", weights="inner outer", biases="bias", writes="m",
    constants="C N0 N1 SLOPE", plain=_stage1_plain, columns=_branch_columns,
)  # fmt: skip
STAGE2 = Kernel(
    "mffb.stage2", stage2_kernel, reads="m x", weights="inner outer last", biases="bias last_bias", writes="out",
    constants="C N0 N1 O0 O1 SLOPE", plain=_stage2_plain, config=_stage2_config, columns=_branch_columns,
)  # fmt: skip


def stage1_call(channels: int, config: LaunchConfig, slope: float = SLOPE) -> Call:
    """Return a launch of stage 1."""
    n0, n1 = split_columns(channels)
    return Call(STAGE1.name, {"C": channels, "N0": n0, "N1": n1, "SLOPE": slope}, config)


def stage2_call(channels: int, config: LaunchConfig, slope: float = SLOPE) -> Call:
    """Return a launch of stage 2."""
    n0, n1 = split_columns(2 * channels)
    o0, o1 = split_columns(channels)
    constants = {"C": channels, "N0": n0, "N1": n1, "O0": o0, "O1": o1, "SLOPE": slope}
    return Call(STAGE2.name, constants, config)


def mffb(
    x: Tensor,
    packed: Mapping[str, Tensor],
    slope: float = SLOPE,
    configs: tuple[LaunchConfig, LaunchConfig] | None = None,
) -> Tensor:
    """Run both launches.

    Args:
        x: H x W x C.
        packed: of :func:`pack`, in x's dtype.

    Returns:
        H x W x C.

    Raises:
        InputError: shapes, strides, dtypes or devices that the kernels do not take.
    """
    height, width, channels = check_maps({"x": x}, packed)
    check_shapes(packed, {"last_bias": (channels,)})
    first, second = configs or (STAGE1.config(channels), STAGE2.config(channels))
    m = x.new_empty(height, width, 2 * channels)
    pointers = [x, packed["inner1"], packed["outer1"], packed["bias1"], m]
    STAGE1.launch(stage1_call(channels, first, slope), pointers, (height, width))
    out = torch.empty_like(x)
    weights = [packed[name] for name in ("inner2", "outer2", "bias2", "last", "last_bias")]
    STAGE2.launch(stage2_call(channels, second, slope), [m, x, *weights, out], (height, width))
    return out


def flops(height: int, width: int, channels: int) -> tuple[int, int]:
    """Count operations of the two stages, a multiply-add as two."""
    return 2 * height * width * 34 * channels**2, 2 * height * width * 140 * channels**2

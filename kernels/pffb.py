"""The pyramid feature fusion block (PFFB, eq. 2-4 of the SSID-KD paper; the published code's ISCB) in five to nine
launches.

    p2, p4, p8 = maxpool_k(x)                                      floor sizes
    s8 = chain8(p8)                                                chain: four times act(conv3x3)
    s4 = chain4(act(fusion84[p4, up(s8)]))                         up: nearest
    s2 = chain2(act(fusion42[p2, up(s4)]))
    s1 = chain1(act(fusion21[x, up(s2)]))
    y  = act(fusion_all[s1, up(s2), up(s4), up(s8)]) + x

x, y: H x W x C, NHWC (one picture) in fp16, bf16 or fp32; act is LeakyReLU(0.2).

A 1x1 convolution of a concatenation is the sum of its shares, and a share commutes with nearest upsampling. So

- ``pyramid`` makes, in one pass over x, the three pools and the shares q_k = fusion . p_k of the finer map;
- the last convolution of a coarse scale turns s_k into two shares at once, t_k for the fusion into the next finer
  scale and u_k for fusion_all, both C channels wide in one map; s_k itself never reaches memory;
- the first convolution of a finer scale reads act(q + up(t)) as it loads;
- the last convolution of the full scale ends in y.

chain.py runs 1, 2 or 4 of a scale's convolutions in one launch.
"""

# Triton's compile-time arguments are declared as constexpr and given as numbers.
# pyright: reportArgumentType=false

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..base.errors import InputError
from .chain import CHAIN, chain_call, parts, scratch_elements
from .gemm import (
    K_PADDING,
    multiply,
    pack_matrix,
    power_of_two,
    split_columns,
    taps_first,
    tile_corner,
    with_bias,
    zeros,
)
from .launch import Call, LaunchConfig, check_maps, check_shapes
from .plain import Operands, Plain
from .record import Kernel

#: How the four convolutions of a scale are cut into launches where nothing better is known: nine launches in all.
DEFAULT_LENGTHS: Mapping[int, tuple[int, ...]] = {8: (4,), 4: (4,), 2: (2, 2), 1: (1, 1, 1, 1)}


@triton.jit
def _even_bits(m):
    """Bits 0, 2, 4, 6, 8 of m, closed up."""
    return (m & 1) | (m >> 1 & 2) | (m >> 2 & 4) | (m >> 3 & 8) | (m >> 4 & 16)


@triton.jit
def _share(
    x, weights, bias, out, pixel, inside,
    K: tl.constexpr, C: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Write out = x @ weights + bias at some pixels; K is C up to a power of two."""
    a0, a1 = zeros(BM, N0, N1)
    a0, a1 = multiply(x, weights, tl.arange(0, K), a0, a1, 0, C, N0, N1)
    kind = out.dtype.element_ty
    tl.store(out + pixel * C + tl.arange(0, N0)[None, :], with_bias(a0, bias, 0, N0).to(kind), mask=inside)
    if N1 > 0:
        at = pixel * C + (N0 + tl.arange(0, N1))[None, :]
        tl.store(out + at, with_bias(a1, bias, N0, N1).to(kind), mask=inside)


@triton.jit
def _pooled(v, BM: tl.constexpr, K: tl.constexpr):
    """Maxima of every four pixels that follow each other."""
    return tl.max(tl.reshape(v, [BM // 4, 4, K]), 1).to(v.dtype)  # pyright: ignore[reportAttributeAccessIssue]


@triton.jit
def _square(top, left, H, W, BM: tl.constexpr):
    """Return (pixel, inside) of a square tile in Morton order: 4, 16 and 64 neighbours in it are squares in the
    picture."""
    m = tl.arange(0, BM)
    y, column = top + _even_bits(m >> 1), left + _even_bits(m)
    return (y * W + column)[:, None], ((y < H) & (column < W))[:, None]


@triton.jit(do_not_specialize=["H", "W"])
def pyramid_kernel(
    x, weights, bias, q1, q2, q4, p8, H, W,
    C: tl.constexpr, K: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr, ROWS: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    BM: tl.constexpr = TILE_H * TILE_W
    top, left = tile_corner(W, TILE_H, TILE_W)
    c = tl.arange(0, K)[None, :]
    pixel, inside = _square(top, left, H, W, BM)
    v = tl.load(x + pixel * C + c, mask=inside & (c < C), other=0.0)
    _share(v, weights, bias, q1, pixel, inside, K, C, N0, N1, BM)
    v = _pooled(v, BM, K)
    pixel, inside = _square(top // 2, left // 2, H // 2, W // 2, BM // 4)
    _share(v, weights + ROWS * C, bias + C, q2, pixel, inside, K, C, N0, N1, BM // 4)
    v = _pooled(v, BM // 4, K)
    pixel, inside = _square(top // 4, left // 4, H // 4, W // 4, BM // 16)
    _share(v, weights + 2 * ROWS * C, bias + 2 * C, q4, pixel, inside, K, C, N0, N1, BM // 16)
    v = _pooled(v, BM // 16, K)
    pixel, inside = _square(top // 8, left // 8, H // 8, W // 8, BM // 64)
    tl.store(p8 + pixel * C + c, v, mask=inside & (c < C))


def pack(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return a PFFB's state dict (``scale8.0.0.weight``, ``fusion84.0.weight`` ...) as the kernels read it.

    That is ``pyramid`` with the fusions' shares of the finer maps; for every scale k the four convolutions ``chain_k``
    and what its last one ends in, ``ending_k``; biases in fp32 beside each.
    """
    channels = state["fusion_all.0.bias"].shape[0]
    columns = power_of_two(channels)

    def matrix(name: str, share: int) -> Tensor:
        weight = state[f"{name}.0.weight"][:, share * channels : (share + 1) * channels]
        return weight.flatten(1).T

    fusions = ("fusion21", "fusion42", "fusion84")
    packed = {
        "pyramid": torch.stack([pack_matrix(matrix(name, 0)) for name in fusions]),
        "pyramid_bias": torch.stack([state[f"{name}.0.bias"] for name in fusions]).float(),
        "ending1": pack_matrix(matrix("fusion_all", 0)),
        "ending1_bias": state["fusion_all.0.bias"].float(),
    }
    for share, (scale, fusion) in enumerate(zip((2, 4, 8), fusions, strict=True), 1):
        both = torch.cat([matrix(fusion, 1), matrix("fusion_all", share)], 1)
        packed[f"ending{scale}"] = pack_matrix(both)
    for scale in (1, 2, 4, 8):
        convolutions = [state[f"scale{scale}.{i}.0.weight"] for i in range(4)]
        biases = [state[f"scale{scale}.{i}.0.bias"] for i in range(4)]
        packed[f"chain{scale}"] = torch.stack(
            [pack_matrix(taps_first(weight).flatten(0, 1), columns) for weight in convolutions]
        )
        packed[f"chain{scale}_bias"] = torch.stack(
            [F.pad(bias.float(), (0, columns - channels)) for bias in biases]
        )
    return {
        name: (tensor if name.endswith("bias") else tensor.to(dtype)).contiguous()
        for name, tensor in packed.items()
    }


def _pyramid_plain(given: Operands) -> Plain:
    channels = given["C"]

    def run(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        pooled = [x, F.max_pool2d(x, 2), F.max_pool2d(x, 4)]
        pairs = zip(pooled, weights[::2], weights[1::2], strict=True)
        return (*(F.conv2d(image, weight, bias) for image, weight, bias in pairs), F.max_pool2d(x, 8))

    shares = given.weight("weights").view(3, given["ROWS"], channels)
    biases = given.weight("bias").view(3, channels)
    weights = [given.conv_weight(rows, channels, channels, 1) for rows in shares]
    return run, [given.map("x", channels), *itertools.chain(*zip(weights, biases, strict=True))]


PYRAMID = Kernel(
    "pffb.pyramid", pyramid_kernel, reads="x", weights="weights", biases="bias", writes="q1 q2 q4 p8",
    constants="C K N0 N1 ROWS", plain=_pyramid_plain,
    config=lambda channels: LaunchConfig(16, 16, 32, 4 if channels < 32 else 8, 2), tiles=((16, 16), (32, 32)),
)  # fmt: skip


def pyramid_call(channels: int, config: LaunchConfig) -> Call:
    """Return a launch; the tile is a square of 16 or 32."""
    n0, n1 = split_columns(channels)
    constants = {"C": channels, "K": power_of_two(channels), "N0": n0, "N1": n1, "ROWS": K_PADDING}
    return Call(PYRAMID.name, constants, config)


def pffb(
    x: Tensor,
    packed: Mapping[str, Tensor],
    lengths: Mapping[int, Sequence[int]] = DEFAULT_LENGTHS,
    configs: Mapping[str, LaunchConfig] | None = None,
) -> Tensor:
    """Run all launches.

    Args:
        x: H x W x C with H, W >= 8.
        packed: of :func:`pack`, in x's dtype.
        lengths: for every scale, how its four convolutions are cut into launches.
        configs: by ``pyramid`` and ``chain``, instead of the usual ones.

    Raises:
        InputError: shapes, strides, dtypes, devices or lengths that the kernels do not take.
    """
    height, width, channels = check_maps({"x": x}, packed)
    check_shapes(packed, {"ending1_bias": (channels,)})
    if min(height, width) < 8:
        raise InputError(f"A PFFB pools by 8; a map of {height} x {width} pixels is too small for that.")
    if any(sum(lengths[scale]) != 4 for scale in (1, 2, 4, 8)):
        raise InputError(f"The lengths of a scale's launches must add up to 4 convolutions: {dict(lengths)}.")
    sizes = {scale: (height // scale, width // scale) for scale in (1, 2, 4, 8)}
    maps = {scale: x.new_empty(*size, channels) for scale, size in sizes.items()}
    call = pyramid_call(channels, (configs or {}).get("pyramid") or PYRAMID.config(channels))
    pointers = [x, packed["pyramid"], packed["pyramid_bias"], *maps.values()]
    PYRAMID.launch(call, pointers, (height, width))
    shares: dict[int, Tensor] = {}
    out = torch.empty_like(x)
    for scale in (8, 4, 2, 1):
        source = maps[scale]
        for first, length, reads, writes in parts(scale, lengths[scale]):
            config = (configs or {}).get("chain") or CHAIN.config(channels)
            exact = not (sizes[scale][0] % 8 or sizes[scale][1] % 8)
            call = chain_call(channels, length, reads, writes, exact, config)
            scratch = x.new_empty(max(1, scratch_elements(call, *sizes[scale])))
            if writes == "sum":
                to = out
            else:
                to = x.new_empty(*sizes[scale], channels * (1 if writes == "map" else 2))
            weights = [packed[f"chain{scale}"][first:], packed[f"chain{scale}_bias"][first:], scratch]
            weights += [packed[f"ending{scale}"], packed["ending1_bias"]]
            coarse = [shares.get(k, to) for k in (2, 4, 8)]
            pointers = [source, shares.get(2 * scale, to), *weights, *coarse, x, to]
            CHAIN.launch(call, pointers, sizes[scale])
            source = to
        shares[scale] = source
    return out


def flops(height: int, width: int, channels: int) -> dict[str, int]:
    """Count operations by launch group, a multiply-add as two: ``pyramid``, ``chain1`` ... ``chain8``."""
    pixels = {scale: (height // scale) * (width // scale) for scale in (1, 2, 4, 8)}
    square = 2 * channels**2
    chains = {f"chain{k}": square * n * (36 + (1 if k == 1 else 2)) for k, n in pixels.items()}
    return {"pyramid": square * (pixels[1] + pixels[2] + pixels[4]), **chains}

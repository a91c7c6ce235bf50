"""A transposed 2x2 convolution of stride 2: y[2i + dy, 2j + dx] = x[i, j] W[dy, dx] + b.

x: H x W x C; y: 2H x 2W x N; W: C x N at each of the four places; NHWC (one picture) in fp16, bf16 or fp32. It is four
products of the same pixels: the grid's second axis has one for each place, so that no sum leaves its program.
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

from .gemm import multiply, pack_matrix, padded_k, split_columns, tile_pixels, with_bias, zeros
from .launch import Call, LaunchConfig, check_maps, check_shapes
from .plain import Operands, Plain
from .record import Kernel

_PLACES = 4


@triton.jit
def _finish(acc, bias, out, pixel, inside, FIRST: tl.constexpr, COUNT: tl.constexpr, PIXEL: tl.constexpr):
    y = with_bias(acc, bias, FIRST, COUNT)
    n = (FIRST + tl.arange(0, COUNT))[None, :]
    tl.store(out + pixel * PIXEL + n, y.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["H", "W"])
def conv_kernel(
    image, weights, bias, out, H, W,
    C: tl.constexpr, ROWS: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr, PIXEL: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    BM: tl.constexpr = TILE_H * TILE_W
    COLUMNS: tl.constexpr = N0 + N1
    place = tl.program_id(1)
    y, column = tile_pixels(W, TILE_H, TILE_W)
    inside = ((y < H) & (column < W))[:, None]
    source = image + (y * W + column)[:, None] * C
    a0, a1 = zeros(BM, N0, N1)
    for first in range(0, C, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        a = tl.load(source + k[None, :], mask=inside & (k < C)[None, :], other=0.0)
        a0, a1 = multiply(a, weights + place * ROWS * COLUMNS, k, a0, a1, 0, COLUMNS, N0, N1)
    pixel = ((2 * y + place // 2) * 2 * W + 2 * column + place % 2)[:, None]
    _finish(a0, bias, out, pixel, inside, 0, N0, PIXEL)
    if N1 > 0:
        _finish(a1, bias, out, pixel, inside, N0, N1, PIXEL)


def pack(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights as the kernel reads them. weight: C x N x 2 x 2, as of ``nn.ConvTranspose2d``; bias: N."""
    places = [pack_matrix(weight[:, :, dy, dx]) for dy in (0, 1) for dx in (0, 1)]
    return {"weights": torch.cat(places).to(dtype).contiguous(), "bias": bias.float()}


def _conv_plain(given: Operands) -> Plain:
    channels, columns = given["C"], given["N0"] + given["N1"]
    places = given.weight("weights").view(2, 2, given["ROWS"], columns)[:, :, :channels]
    weight, bias = given.laid_out(places.permute(2, 3, 0, 1)), given.weight("bias")
    arguments = [given.map("image", channels), weight, bias]
    return lambda image, weight, bias: (F.conv_transpose2d(image, weight, bias, stride=2),), arguments


CONV = Kernel(
    "transposed.conv", conv_kernel, reads="image", weights="weights", biases="bias", writes="out",
    constants="C ROWS N0 N1 PIXEL", plain=_conv_plain,
)  # fmt: skip


def conv_call(channels: int, columns: int, config: LaunchConfig, pixel: int = 0) -> Call:
    """Return a launch over the smaller map.

    Args:
        pixel: elements from one pixel of out to the next, ``columns`` for 0.
    """
    n0, n1 = split_columns(columns)
    constants = {"C": channels, "ROWS": padded_k(channels), "N0": n0, "N1": n1, "PIXEL": pixel or columns}
    return Call(CONV.name, constants, config, planes=_PLACES)


def conv(
    image: Tensor, packed: Mapping[str, Tensor], columns: int, config: LaunchConfig | None = None
) -> Tensor:
    """Convolve a map of H x W x C, with weights of :func:`pack`, to 2H x 2W x columns.

    Raises:
        InputError: shapes, strides, dtypes or devices that the kernel does not take.
    """
    height, width, channels = check_maps({"image": image}, packed)
    check_shapes(packed, {"weights": (_PLACES * padded_k(channels), columns), "bias": (columns,)})
    out = image.new_empty(2 * height, 2 * width, columns)
    call = conv_call(channels, columns, config or CONV.config(channels))
    CONV.launch(call, [image, packed["weights"], packed["bias"], out], (height, width))
    return out


def flops(height: int, width: int, channels: int, columns: int) -> int:
    """Count operations for an input of height x width, a multiply-add as two."""
    return 2 * _PLACES * height * width * channels * columns

"""The largest of 2x2 pixels: y[i, j] = max(x[2i, 2j], x[2i, 2j + 1], x[2i + 1, 2j], x[2i + 1, 2j + 1]).

x: 2H x 2W x C, y: H x W x C, NHWC (one picture) in fp16, bf16 or fp32. It stands between the levels of a U-Net.
"""

# Triton's compile-time arguments are declared as constexpr and given as numbers.
# pyright: reportArgumentType=false

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


@triton.jit(do_not_specialize=["H", "W"])
def maximum_kernel(
    image, out, H, W,
    C: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    y, column = tile_pixels(W, TILE_H, TILE_W)
    inside = ((y < H) & (column < W))[:, None]
    source = image + (4 * y * W + 2 * column)[:, None] * C
    target = out + (y * W + column)[:, None] * C
    row = 2 * W * C
    for first in range(0, C, BLOCK_K):
        n = (first + tl.arange(0, BLOCK_K))[None, :]
        live = inside & (n < C)
        # fp32 holds every value exactly, and every GPU has its maximum.
        a = tl.load(source + n, mask=live).to(tl.float32)
        b = tl.load(source + C + n, mask=live).to(tl.float32)
        c = tl.load(source + row + n, mask=live).to(tl.float32)
        d = tl.load(source + row + C + n, mask=live).to(tl.float32)
        largest = tl.maximum(tl.maximum(a, b), tl.maximum(c, d))
        tl.store(target + n, largest.to(out.dtype.element_ty), mask=live)


def _maximum_plain(given: Operands) -> Plain:
    image = given.map("image", given["C"], 2 * given["H"], 2 * given["W"])
    return lambda image: (F.max_pool2d(image, 2),), [image]


MAXIMUM = Kernel(
    "pool.maximum", maximum_kernel, reads="image", writes="out", constants="C", plain=_maximum_plain,
    config=lambda channels: LaunchConfig(8, 16, 16, 4, 1), multiplies=False,
)  # fmt: skip


def maximum_call(channels: int, config: LaunchConfig) -> Call:
    """Return a launch over the smaller map."""
    return Call(MAXIMUM.name, {"C": channels}, config)


def maximum(image: Tensor, config: LaunchConfig | None = None) -> Tensor:
    """Halve a map of 2H x 2W x C to H x W x C.

    Raises:
        InputError: an odd side, or strides and dtypes that the kernel does not take.
    """
    height, width, channels = check_maps({"image": image})
    if height % 2 or width % 2:
        raise InputError(f"A map of {height} x {width} pixels cannot be halved.")
    out = image.new_empty(height // 2, width // 2, channels)
    call = maximum_call(channels, config or MAXIMUM.config(channels))
    MAXIMUM.launch(call, [image, out], (height // 2, width // 2))
    return out


def flops(height: int, width: int, channels: int) -> int:
    """Comparisons, for an output of height x width."""
    return 3 * height * width * channels

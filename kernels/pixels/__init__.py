"""Frames to the network's padded maps and back.

    frame_in    picture, 3 channels of uint8 or float  ->  map H x W x 4 in [0, 1], the fourth channel 0
    frame_out   picture, rain layer H x W x 3          ->  clean = picture - rain (eq. 1), of the picture's kind

The picture is h x w x 3 (NHWC) or 3 x h x w (NCHW), RGB or BGR. Below and to the right it is padded to H x W by
reflection without repeating the edge, or by the edge where a side is not longer than its padding; frame_out crops.
uint8 is divided by 255 and comes back as floor(255 * clamp(y, 0, 1) + 0.5), NaN as 0; floats come and go as they are.
The subtraction is done in fp32 from the picture itself, so half precision touches the rain layer alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ...base.errors import InputError
from ..gemm import tile_pixels
from ..launch import Call, LaunchConfig, check_maps
from ..plain import Operands, Plain
from ..record import Kernel

#: Channels of the padded map: three colours and one of zeros, so that a pixel is read at once.
MAP_CHANNELS = 4
#: An inner block of these.
PIXELS_CONFIG = LaunchConfig(8, 32, MAP_CHANNELS, 4, 1)


@triton.jit
def padded(at, size, padded_size):
    """Return the picture's row (or column) that a padded row shows."""
    beyond = tl.where(size > padded_size - size, 2 * (size - 1) - at, size - 1)
    return tl.where(at < size, at, beyond)


@triton.jit
def _address(y, column, colour, h, w, PLANAR: tl.constexpr, BGR: tl.constexpr):
    if BGR:
        colour = 2 - colour
    if PLANAR:
        return colour * (h * w) + y * w + column
    else:
        return (y * w + column) * 3 + colour


@triton.jit(do_not_specialize=["H", "W", "FRAME_H", "FRAME_W"])
def frame_in_kernel(
    frame, out, H, W, FRAME_H, FRAME_W,
    PLANAR: tl.constexpr, BGR: tl.constexpr, BYTES: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    y, column = tile_pixels(W, TILE_H, TILE_W)
    colour = tl.arange(0, BLOCK_K)[None, :]
    inside = ((y < H) & (column < W))[:, None]
    from_y, from_column = padded(y, FRAME_H, H)[:, None], padded(column, FRAME_W, W)[:, None]
    at = _address(from_y, from_column, colour, FRAME_H, FRAME_W, PLANAR, BGR)
    value = tl.load(frame + at, mask=inside & (colour < 3), other=0).to(tl.float32)
    if BYTES:
        value = value / 255.0
    tl.store(out + (y * W + column)[:, None] * BLOCK_K + colour, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["H", "W", "PADDED_W"])
def frame_out_kernel(
    frame, rain, out, H, W, PADDED_W,
    PLANAR: tl.constexpr, BGR: tl.constexpr, BYTES: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    y, column = tile_pixels(W, TILE_H, TILE_W)
    colour = tl.arange(0, BLOCK_K)[None, :]
    live = ((y < H) & (column < W))[:, None] & (colour < 3)
    at = _address(y[:, None], column[:, None], colour, H, W, PLANAR, BGR)
    value = tl.load(frame + at, mask=live, other=0).to(tl.float32)
    if BYTES:
        value = value / 255.0
    value -= tl.load(rain + (y * PADDED_W + column)[:, None] * 3 + colour, mask=live, other=0.0).to(
        tl.float32
    )
    if BYTES:
        value = tl.where(value == value, tl.minimum(tl.maximum(value, 0.0), 1.0), 0.0)
        value = tl.floor(value * 255.0 + 0.5)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=live)


def _frame(given: Operands, height: int, width: int) -> Tensor:
    """Return the frame as 3 x height x width in RGB, of its own type."""
    flat = given.flat("frame")[: 3 * height * width]
    image = flat.view(3, height, width) if given["PLANAR"] else flat.view(height, width, 3).permute(2, 0, 1)
    return image.flip(0) if given["BGR"] else image


def _unit(image: Tensor) -> Tensor:
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def _frame_in_plain(given: Operands) -> Plain:
    padded = given["H"], given["W"]

    def run(frame: Tensor) -> tuple[Tensor, ...]:
        image = _unit(frame)
        for axis, size in enumerate(padded, 1):
            more = size - image.shape[axis]
            mode = "reflect" if image.shape[axis] > more else "replicate"
            image = F.pad(image, (0, more) if axis == 2 else (0, 0, 0, more), mode=mode)
        return (F.pad(image, (0, 0, 0, 0, 0, 1))[None],)

    return run, [_frame(given, given["FRAME_H"], given["FRAME_W"])]


def _frame_out_plain(given: Operands) -> Plain:
    height, width, planar, bgr = (given[name] for name in ("H", "W", "PLANAR", "BGR"))

    def run(frame: Tensor, rain: Tensor) -> tuple[Tensor, ...]:
        clean = _unit(frame) - rain[0, :, :, :width].float()
        if frame.dtype == torch.uint8:
            clean = (clean.nan_to_num(0, 1, 0).clamp(0, 1) * 255 + 0.5).floor()
        clean = clean.flip(0) if bgr else clean
        # A planar frame is three maps of one channel.
        return (clean[:, None] if planar else clean[None],)

    return run, [_frame(given, height, width), given.map("rain", 3, height, given["PADDED_W"])]


def _frame_type(constants: Mapping[str, Any]) -> str:
    return "u8" if constants["BYTES"] else "fp32"


FRAME_IN = Kernel(
    "pixels.frame_in", frame_in_kernel, reads="frame", writes="out", frames="frame", sizes="H W FRAME_H FRAME_W",
    constants="PLANAR BGR BYTES", plain=_frame_in_plain, frame_type=_frame_type,
    config=lambda channels: PIXELS_CONFIG, multiplies=False,
)  # fmt: skip
FRAME_OUT = Kernel(
    "pixels.frame_out", frame_out_kernel, reads="frame rain", writes="out", frames="frame out",
    sizes="H W PADDED_W", constants="PLANAR BGR BYTES", plain=_frame_out_plain, frame_type=_frame_type,
    config=lambda channels: PIXELS_CONFIG, multiplies=False,
)  # fmt: skip


def _constants(planar: bool, bgr: bool, bytes_: bool) -> dict[str, bool]:
    return {"PLANAR": planar, "BGR": bgr, "BYTES": bytes_}


def frame_in_call(planar: bool, bgr: bool, bytes_: bool, config: LaunchConfig) -> Call:
    """Return a launch over the map."""
    return Call(FRAME_IN.name, _constants(planar, bgr, bytes_), config)


def frame_out_call(planar: bool, bgr: bool, bytes_: bool, config: LaunchConfig) -> Call:
    """Return a launch over the frame."""
    return Call(FRAME_OUT.name, _constants(planar, bgr, bytes_), config)


def _frame_size(frame: Tensor, planar: bool) -> tuple[int, int]:
    sides = frame.shape[1:] if planar else frame.shape[:2]
    if frame.ndim != 3 or frame.shape[0 if planar else 2] != 3 or not frame.is_contiguous() or not min(sides):
        raise InputError(
            f"A frame must be contiguous, {'3 x height x width' if planar else 'height x width x 3'}."
        )
    if frame.dtype not in (torch.uint8, torch.float16, torch.bfloat16, torch.float32):
        raise InputError(f"A frame must be of uint8 or floats of at most 32 bits, not {frame.dtype}.")
    return sides[0], sides[1]


def frame_in(
    frame: Tensor,
    height: int,
    width: int,
    dtype: torch.dtype,
    *,
    planar: bool = False,
    bgr: bool = False,
    config: LaunchConfig | None = None,
) -> Tensor:
    """Return the frame as a map of height x width x 4 in ``dtype``.

    Raises:
        InputError: not a frame, or one that is larger than height x width.
    """
    frame_height, frame_width = _frame_size(frame, planar)
    if frame_height > height or frame_width > width:
        raise InputError(f"A frame of {frame_width}x{frame_height} does not fit into {width}x{height}.")
    out = torch.empty(height, width, MAP_CHANNELS, dtype=dtype, device=frame.device)
    call = frame_in_call(planar, bgr, frame.dtype == torch.uint8, config or FRAME_IN.config(MAP_CHANNELS))
    FRAME_IN.launch(call, [frame, out], (height, width, frame_height, frame_width))
    return out


def frame_out(
    frame: Tensor,
    rain: Tensor,
    *,
    planar: bool = False,
    bgr: bool = False,
    config: LaunchConfig | None = None,
) -> Tensor:
    """Return frame - rain, of the frame's shape, dtype, layout and colour order.

    Args:
        rain: H x W x 3, RGB, at least as large.

    Raises:
        InputError: not a frame, or a rain layer that does not cover it.
    """
    height, width = _frame_size(frame, planar)
    rain_height, rain_width, channels = check_maps({"rain": rain})
    if rain_height < height or rain_width < width or channels != 3 or rain.device != frame.device:
        raise InputError(f"The rain layer must be at least {height} x {width} x 3, beside the frame.")
    out = torch.empty_like(frame)
    call = frame_out_call(planar, bgr, frame.dtype == torch.uint8, config or FRAME_OUT.config(MAP_CHANNELS))
    FRAME_OUT.launch(call, [frame, rain, out], (height, width, rain_width))
    return out

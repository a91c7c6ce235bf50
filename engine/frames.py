"""Frames on their way in and out: what an engine accepts, its layout and value range, and the padding.

Inside this package a batch is N x H x W x 3 RGB, C-contiguous, either uint8 in [0, 255] or float32 in [0, 1].
Everything else is converted on the way in and back on the way out, so that a caller gets the kind of array
that was handed over.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..base.errors import InputError
from ..base.sizes import Size

#: Floats further outside [0, 1] than this are taken for another range (0 to 255, -1 to 1), not overshoot.
_LOWEST, _HIGHEST = -0.5, 1.5

#: The number of the CPU in DLPack's DLDeviceType.
_DLPACK_CPU = 1


@dataclass(frozen=True)
class Frame:
    """An accepted image or batch of images, and how to give a result back as the same kind.

    batch: N x H x W x 3 RGB, C-contiguous; uint8, or float32 in [0, 1]. It may share memory with the caller's
        array and is only read.
    layout: of the caller's array.
    dtype: of the caller's array, byte order included.
    from_dlpack: makes the caller's kind of array from a NumPy array; None where that is NumPy itself.
    """

    batch: np.ndarray
    layout: Literal["HWC", "NHWC", "NCHW"]
    dtype: np.dtype
    from_dlpack: Callable[[Any], Any] | None = None

    def restore(self, clean: np.ndarray) -> Any:
        """Bring a clean batch, of the dtype and layout of :attr:`batch`, into the caller's layout, dtype and array
        type: uint16 rounded and clamped, floats as they are (not clamped).
        """
        if self.dtype.kind == "u":
            clean = quantise(clean, self.dtype)
        if self.layout == "HWC":
            clean = clean[0]
        elif self.layout == "NCHW":
            clean = clean.transpose(0, 3, 1, 2)
        clean = np.ascontiguousarray(clean, dtype=self.dtype)
        return clean if self.from_dlpack is None else self.from_dlpack(clean)


def accept(image: Any) -> Frame:
    """Check an image or a batch of images and bring it into that layout.

    Args:
        image: RGB, H x W x 3 for one image; for a batch N x H x W x 3 where the last axis is 3 long, else
            N x 3 x H x W (so N x 3 x W x 3 is always read as N images, 3 pixels high). uint8, uint16, or float16,
            float32 or float64 in [0, 1]. A NumPy array, or an array of another library in CPU memory that speaks
            DLPack (a PyTorch tensor).

    Raises:
        InputError: another type, number of axes or channels, dtype or value range, an empty array, NaN.
    """
    array, from_dlpack = _as_numpy(image)
    layout = _layout(array)
    if array.size == 0:
        raise InputError(
            f"The image is empty: its shape is {array.shape}, and every side must be at least 1."
        )
    dtype = array.dtype
    if (dtype.kind, dtype.itemsize) not in {("u", 1), ("u", 2), ("f", 2), ("f", 4), ("f", 8)}:
        raise InputError(f"The image has dtype {dtype}; convert it to uint8, uint16, or floats from 0 to 1.")
    if dtype.kind == "f":
        _check_range(array)
    if layout == "HWC":
        array = array[None]
    elif layout == "NCHW":
        array = array.transpose(0, 2, 3, 1)
    batch = np.ascontiguousarray(array) if dtype == np.uint8 else to_float(array)
    return Frame(batch, layout, dtype, from_dlpack)


def to_float(batch: np.ndarray) -> np.ndarray:
    """Return uint8, uint16 or float values as C-contiguous float32, unsigned integers scaled to [0, 1]."""
    if batch.dtype.kind == "u":
        return np.divide(batch, np.iinfo(batch.dtype).max, dtype=np.float32, order="C")
    return np.ascontiguousarray(batch, dtype=np.float32)


def quantise(values: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Return floats in [0, 1] as unsigned integers, ``floor(max * clamp(y, 0, 1) + 0.5)``; integers as they are."""
    if values.dtype.kind == "u":
        return values
    scaled = np.clip(values, 0.0, 1.0, dtype=np.float32)
    scaled *= np.iinfo(dtype).max
    scaled += 0.5
    return scaled.astype(dtype)  # truncation is floor here: nothing is negative


def pad_to(batch: np.ndarray, size: Size) -> np.ndarray:
    """Pad at the bottom and right to a size that is no smaller.

    Each axis is mirrored without repeating its last pixel (NumPy's ``reflect``); an axis that is not longer
    than its padding has too few pixels to mirror and repeats its last one (``edge``). This is the one padding
    of this package: every backend and every reference sees the same padded frame.

    Args:
        batch: N x H x W x C, any dtype.

    Returns:
        The padded batch, C-contiguous; ``batch`` itself where nothing is missing.
    """
    for axis, side in enumerate(size, 1):
        there = batch.shape[axis]
        if missing := side - there:
            widths = [(0, 0)] * batch.ndim
            widths[axis] = (0, missing)
            batch = np.pad(batch, widths, mode="reflect" if there > missing else "edge")
    return np.ascontiguousarray(batch)


def _as_numpy(image: Any) -> tuple[np.ndarray, Callable[[Any], Any] | None]:
    """Return the image as a NumPy array and, for another library's array, that library's ``from_dlpack``."""
    if isinstance(image, np.ndarray):
        return np.asarray(image), None
    kind = f"{type(image).__module__}.{type(image).__qualname__}"
    module = sys.modules.get(kind.partition(".")[0])
    from_dlpack = getattr(module, "from_dlpack", None)
    if from_dlpack is None or not hasattr(image, "__dlpack__"):
        raise InputError(f"An engine takes NumPy arrays, not {kind}; convert it with numpy.asarray(image).")
    if image.__dlpack_device__()[0] != _DLPACK_CPU:
        raise InputError(
            f"The {kind} is not in CPU memory; move it there first, with image.cpu() for PyTorch."
        )
    try:
        return np.from_dlpack(image), from_dlpack
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"The {kind} cannot be read as a NumPy array ({error}); detach it and use a dtype that NumPy has."
        ) from error


def _layout(array: np.ndarray) -> Literal["HWC", "NHWC", "NCHW"]:
    shape = array.shape
    if array.ndim == 3 and shape[2] == 3:
        return "HWC"
    if array.ndim == 4 and shape[3] == 3:
        return "NHWC"
    if array.ndim == 4 and shape[1] == 3:
        return "NCHW"
    if array.ndim == 2 or (array.ndim in (3, 4) and shape[-1] == 1):
        hint = "it looks grey; repeat it for three channels, numpy.stack([image] * 3, axis=-1) if it is 2-D"
    elif array.ndim == 3 and shape[0] == 3:
        hint = "its channels come first; use image.transpose(1, 2, 0), or image[None] for a batch of one"
    elif array.ndim in (3, 4) and shape[-1] == 4:
        hint = "it looks like RGBA; pass image[..., :3] and keep the alpha channel aside"
    else:
        hint = "one image is height x width x 3, a batch N x height x width x 3 or N x 3 x height x width"
    raise InputError(f"The image has shape {shape}, which is not RGB: {hint}.")


def _check_range(array: np.ndarray) -> None:
    low, high = float(array.min()), float(array.max())  # NaN anywhere makes both NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(
            "The image holds NaN or infinite values; clean it with numpy.nan_to_num or find their source."
        )
    if low < _LOWEST or high > _HIGHEST:
        raise InputError(
            f"The image's floats run from {low:g} to {high:g}, but RGB in [0, 1] is expected; scale it first "
            "(image / 255 for values from 0 to 255), or pass it as uint8 or uint16."
        )

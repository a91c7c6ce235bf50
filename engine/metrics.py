"""Measures of how close two images are: PSNR and SSIM, on RGB or on luma; and the dark channel of one.

Images are H x W x C or H x W float arrays in [0, 1]; the sums are done in float64. Integers are refused, as
their range would be taken for [0, 1] without a word.
"""

from __future__ import annotations

import math

import numpy as np

from ..base.errors import InputError
from ..base.extras import importing

_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5

#: BT.601 from R'G'B' in [0, 1] to Y' in [16, 235], as in ITU-R BT.601-7 section 2.5.
_LUMA_WEIGHTS = np.array([65.481, 128.553, 24.966])
_LUMA_BLACK = 16.0


def psnr(a: np.ndarray, b: np.ndarray, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB, ``10 log10(data_range^2 / mean((a - b)^2))`` over all values;
    infinite for equal images.

    Raises:
        InputError: shapes differ, no floats, an empty image, NaN or infinity, a range that is not positive.
    """
    a, b = _pair(a, b)
    if not data_range > 0:
        raise InputError(f"PSNR needs a positive data range, not {data_range}.")
    error = float(np.mean(np.square(a - b)))
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of images in [0, 1] (Wang et al. 2004): Gaussian 11x11 window of sigma 1.5,
    population covariance, K1 = 0.01, K2 = 0.03; the mean over channels and over all windows that lie whole in
    the image. 1.0 for equal images.

    Raises:
        InputError: shapes differ, no floats, NaN or infinity, or a side shorter than the window.
        BackendUnavailable: scikit-image is not installed.
    """
    with importing("SSIM needs scikit-image; install derain-engine[build]."):
        from skimage.metrics import structural_similarity

    a, b = _pair(a, b)
    if min(a.shape[:2]) < _SSIM_WINDOW:
        raise InputError(
            f"SSIM needs sides of at least {_SSIM_WINDOW} pixels; {a.shape[0]}x{a.shape[1]} is too small."
        )
    return float(
        structural_similarity(
            a,
            b,
            channel_axis=2 if a.ndim == 3 else None,
            data_range=1.0,
            gaussian_weights=True,
            sigma=_SSIM_SIGMA,
            use_sample_covariance=False,
        )  # type: ignore[arg-type]  # the stub also allows the full map
    )


def luma(rgb: np.ndarray) -> np.ndarray:
    """Y' of BT.601 in studio range over 255, the channel that deraining papers measure on:
    ``(16 + 65.481 R + 128.553 G + 24.966 B) / 255``, so black is 16/255 and white 235/255.

    rgb: ... x 3 in [0, 1]. Returns ... in float64.

    Raises:
        InputError: no floats, or the last axis is not three long.
    """
    _check_float(rgb)
    if rgb.ndim == 0 or rgb.shape[-1] != 3:
        raise InputError(f"Luma needs RGB with three channels on the last axis, not shape {rgb.shape}.")
    return (_LUMA_BLACK + rgb.astype(np.float64) @ _LUMA_WEIGHTS) / 255.0


def dark_channel_mean(rgb: np.ndarray, window: int = 15) -> float:
    """Return the mean of the dark channel (eq. 9 of the SSID-KD paper): at every pixel the least value of all three
    channels in the ``window`` x ``window`` pixels around it, as far as they lie in the image. Rain and haze raise it.

    rgb: H x W x 3 in [0, 1]. window: odd, in pixels; 15 is that of He, Sun and Tang (TPAMI 2011), as the paper names
    none. Returns 0 to 1.

    Raises:
        InputError: no H x W x 3 floats, an empty image, NaN or infinity, or an even window.
    """
    import cv2

    _check_float(rgb)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0 or not np.isfinite(rgb).all():
        raise InputError(f"The dark channel is of height x width x 3 finite values, not {rgb.shape} or NaN.")
    if window < 1 or window % 2 == 0:
        raise InputError(f"The dark channel's window has an odd side, not {window}.")
    box = np.ones((window, window), np.uint8)
    return float(cv2.erode(rgb.min(axis=2).astype(np.float64), box).mean())


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape:
        raise InputError(f"Images of different shapes cannot be compared: {a.shape} and {b.shape}.")
    if a.ndim not in (2, 3) or a.size == 0:
        raise InputError(f"Images to compare are height x width x channels or height x width, not {a.shape}.")
    _check_float(a, b)
    # SSIM subtracts nearly equal squares, which float32 does not carry.
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("Images to compare hold NaN or infinite values.")
    return a, b


def _check_float(*images: np.ndarray) -> None:
    for image in images:
        if image.dtype.kind != "f":
            raise InputError(
                f"Images to measure are floats in [0, 1], not {image.dtype}; divide by the full scale first."
            )

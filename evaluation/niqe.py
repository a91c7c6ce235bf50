"""NIQE, the natural image quality evaluator: how far a picture is from undistorted photographs, without a truth.

Mittal, Soundararajan and Bovik, "Making a Completely Blind Image Quality Analyzer", IEEE Signal Processing Letters
20(3), 2013; equation numbers are the paper's. The conventions are those of the authors' MATLAB release: luma of 8-bit
levels, rounded; blocks of 96 x 96 pixels without overlap, rows and columns that fill no block dropped; two scales, the
half by bicubic interpolation with antialiasing; blocks without structure left out of the covariance. The release's
pristine parameters are in ``niqe_pristine.npz``, with its notice beside them.

Flat areas, such as a saturated sky, are where implementations differ: what is zero there comes out as rounding noise,
and its signs decide how many values are negative. Here it is zero.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np

from ..base.errors import InputError

#: Side of a block in pixels at the full scale.
BLOCK = 96
_PRISTINE = Path(__file__).with_name("niqe_pristine.npz")
_WINDOW, _SIGMA = 7, 7 / 6
#: Coefficients below this are rounding noise; the least that a step of one level makes is some 1e-4.
_NOISE = 1e-9
#: Of the neighbour that eq. 7 multiplies a pixel with: horizontal, vertical, both diagonals.
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
#: MATLAB's cubic kernel (a = -1/2), stretched to twice its width to reduce by two: rows t of input 2k - 3 + t. The
#: weights of symmetric distances are equal.
_HALVING = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256


def niqe(luma: np.ndarray) -> float:
    """Measure the distance (eq. 10) of a picture's features from those of undistorted photographs; lower is better, and
    photographs lie about 2 to 6.

    Args:
        luma: H x W float, Y' over 255 as of ``metrics.luma``; it is rounded to levels of 1/255.

    Returns:
        NaN where the features say nothing: fewer than two blocks have structure (a picture of less than two blocks, or
        of flat colour).

    Raises:
        InputError: no H x W floats, NaN or infinity.
    """
    if luma.ndim != 2 or luma.dtype.kind != "f":
        raise InputError(
            f"NIQE is of height x width floats in [0, 1], not of {luma.dtype} of shape {luma.shape}."
        )
    if not np.isfinite(luma).all():
        raise InputError("The picture to measure holds NaN or infinite values.")
    rows, columns = (side // BLOCK for side in luma.shape)
    if rows * columns < 2:
        return math.nan
    levels = np.rint(255 * luma[: rows * BLOCK, : columns * BLOCK].astype(np.float64))
    features = np.hstack([_features(levels, BLOCK), _features(_halve(levels), BLOCK // 2)])
    whole = features[~np.isnan(features).any(axis=1)]
    if len(whole) < 2:
        return math.nan
    pristine_mean, pristine_covariance = _pristine()
    # As in the release: a block without structure at one scale still counts in the means of what it has.
    away = pristine_mean - np.nanmean(features, axis=0)
    covariance = (pristine_covariance + np.cov(whole, rowvar=False)) / 2
    return float(np.sqrt(away @ np.linalg.pinv(covariance) @ away))


@functools.cache
def _pristine() -> tuple[np.ndarray, np.ndarray]:
    """Read (36 means, 36 x 36 covariance)."""
    with np.load(_PRISTINE) as file:
        return file["mean"], file["covariance"]


def _features(levels: np.ndarray, side: int) -> np.ndarray:
    """Return blocks x 18 features of one scale; NaN where a block has no values on one side of zero."""
    normalised = _normalise(levels)
    height, width = normalised.shape
    blocks = normalised.reshape(height // side, side, width // side, side).swapaxes(1, 2)
    return np.array([_block_features(block) for block in blocks.reshape(-1, side, side)])


def _normalise(levels: np.ndarray) -> np.ndarray:
    """Compute mean-subtracted, contrast-normalised coefficients (eq. 1), with sigma + 1 below."""
    import cv2

    taps = np.exp(-(np.arange(-(_WINDOW // 2), _WINDOW // 2 + 1) ** 2) / (2 * _SIGMA**2))
    taps /= taps.sum()

    def blur(image: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(image, cv2.CV_64F, taps, taps, borderType=cv2.BORDER_REPLICATE)

    mean = blur(levels)
    sigma = np.sqrt(np.abs(blur(levels**2) - mean**2))
    coefficients = (levels - mean) / (sigma + 1)
    coefficients[np.abs(coefficients) < _NOISE] = 0
    return coefficients


def _block_features(block: np.ndarray) -> list[float]:
    """Fit shape and scale of the coefficients, then shape, mean (eq. 8) and both scales of each neighbour product."""
    alpha, left, right = _fit(block)
    features = [alpha, (left + right) / 2]
    for shift in _NEIGHBOURS:
        # Round the block's own edge, as the release does.
        alpha, left, right = _fit(block * np.roll(block, shift, axis=(0, 1)))
        mean = math.nan
        if not math.isnan(alpha):
            mean = (right - left) * math.gamma(2 / alpha) / math.gamma(1 / alpha)
        features += [alpha, mean, left, right]
    return features


@functools.cache
def _shapes() -> tuple[np.ndarray, np.ndarray]:
    """Tabulate the shapes a that are tried, and of each Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)), which rises with it."""
    shapes = np.arange(0.2, 10.001, 0.001)
    ratios = [math.gamma(2 / a) ** 2 / (math.gamma(1 / a) * math.gamma(3 / a)) for a in shapes]
    return shapes, np.array(ratios)


def _fit(values: np.ndarray) -> tuple[float, float, float]:
    """Fit (shape, left scale, right scale) of an asymmetric generalised Gaussian (eq. 4) by matching moments; NaN where
    no value is negative or none positive."""
    squares = values**2
    negative, positive = squares[values < 0], squares[values > 0]
    if not (len(negative) and len(positive)):
        return math.nan, math.nan, math.nan
    left, right = math.sqrt(negative.mean()), math.sqrt(positive.mean())
    asymmetry = left / right
    ratio = np.abs(values).mean() ** 2 / squares.mean()
    ratio *= (asymmetry**3 + 1) * (asymmetry + 1) / (asymmetry**2 + 1) ** 2
    shapes, ratios = _shapes()
    above = min(max(int(np.searchsorted(ratios, ratio)), 1), len(ratios) - 1)
    alpha = float(shapes[above - 1 if ratio - ratios[above - 1] <= ratios[above] - ratio else above])
    scale = math.sqrt(math.gamma(1 / alpha) / math.gamma(3 / alpha))
    return alpha, left * scale, right * scale


def _halve(levels: np.ndarray) -> np.ndarray:
    """Halve height and width (both even), as MATLAB's ``imresize(levels, 0.5)`` with its default kernel."""
    import cv2

    # Eight taps lie around the middle of pixels 2k and 2k + 1; MATLAB mirrors with the edge pixel repeated.
    padded = cv2.copyMakeBorder(levels, 3, 4, 3, 4, cv2.BORDER_REFLECT)
    height, width = levels.shape
    tall = sum(w * padded[t : t + height : 2] for t, w in enumerate(_HALVING))
    return sum(w * tall[:, t : t + width : 2] for t, w in enumerate(_HALVING))  # type: ignore[return-value]

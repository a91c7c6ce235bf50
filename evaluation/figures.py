"""The figures of an evaluation, and the protocol under which they are measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..engine import frames, metrics
from .niqe import BLOCK, niqe
from .options import EvaluationProtocol

_VALUES: dict[EvaluationProtocol, str] = {
    "float": "output clamped to [0, 1] in float32, not rounded",
    "rounded": "output clamped and rounded to 8 bits, as `run` writes it",
    "truncated": "output clamped and truncated to 8 bits, as floor(255 x): the usual deraining scripts",
}

#: Figures of one picture by name; NaN where one is not defined.
Values = dict[str, float]


@dataclass(frozen=True)
class Figure:
    """A figure that is measured of a picture.

    head: of a column. digits: after the point. rises: more is better. how: what it is measured on.
    """

    name: str
    head: str
    digits: int
    rises: bool
    how: str


_SSIM = "Gaussian 11x11 window of sigma 1.5, windows that lie whole in the picture"
_LUMA = "Y of BT.601 in studio range, as MATLAB's rgb2ycbcr"
_Y = f"{_LUMA} of doubles, not rounded"
FIGURES = {
    each.name: each
    for each in (
        Figure("psnr", "PSNR", 2, True, "dB, RGB, one mean square error over all three channels"),
        Figure("ssim", "SSIM", 4, True, f"RGB, mean over the channels; {_SSIM}"),
        Figure("psnr_y", "PSNR Y", 2, True, f"dB, {_Y}"),
        Figure("ssim_y", "SSIM Y", 4, True, f"{_Y}; {_SSIM}"),
        Figure(
            "niqe",
            "NIQE",
            3,
            False,
            f"{_LUMA}, rounded to 8 bits; {BLOCK}x{BLOCK} blocks; the authors' pristine parameters",
        ),
        Figure("dark_channel", "Dark", 4, False, "mean of the dark channel of RGB, 15x15 window"),
    )
}
WITH_TRUTH = ("psnr", "ssim", "psnr_y", "ssim_y", "dark_channel")
WITHOUT_TRUTH = ("niqe", "dark_channel")


def measure_picture(image: np.ndarray, truth: np.ndarray | None) -> Values:
    """Measure the figures of H x W x 3 floats in [0, 1]: ``WITH_TRUTH`` or ``WITHOUT_TRUTH``.

    Raises:
        InputError: shapes differ, or a side is too short for SSIM.
        BackendUnavailable: scikit-image is not installed.
    """
    dark, y = metrics.dark_channel_mean(image), metrics.luma(image)
    if truth is None:
        return {"niqe": niqe(y), "dark_channel": dark}
    truth_y = metrics.luma(truth)
    return {
        "psnr": metrics.psnr(image, truth),
        "ssim": metrics.ssim(image, truth),
        "psnr_y": metrics.psnr(y, truth_y),
        "ssim_y": metrics.ssim(y, truth_y),
        "dark_channel": dark,
    }


def as_measured(output: np.ndarray, protocol: EvaluationProtocol) -> np.ndarray:
    """Return float32 in [0, 1] of a network's output, which may lie outside of it."""
    if protocol == "float":
        return np.clip(output, 0, 1)
    if protocol == "rounded":
        return frames.to_float(frames.quantise(output, np.uint8))
    # In float32 and by the cast that the published scripts use.
    return frames.to_float((255 * np.clip(output, 0, 1, dtype=np.float32)).astype(np.uint8))


def describe_protocol(protocol: EvaluationProtocol, names: Iterable[str]) -> dict[str, str]:
    """Put the protocol in words, for each of the figures and for what they have in common."""
    common = {"name": protocol, "values": _VALUES[protocol], "crop": "none, whole pictures"}
    return common | {name: FIGURES[name].how for name in names}


def difference(a: Mapping[str, float], b: Mapping[str, float]) -> Values:
    """Return ``a - b``; NaN where both are infinite."""
    return {name: a[name] - b[name] for name in a}


def to_json(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return figures for JSON, with None for what it has no number for: infinite and undefined."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def text(name: str, value: float, *, sign: str = "") -> str:
    """Write a value with the figure's digits; ``-`` where it is not defined."""
    return "-" if math.isnan(value) else f"{value:{sign}.{FIGURES[name].digits}f}"

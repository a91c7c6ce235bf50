"""NIQE against a published implementation.

The reference values are of BasicSR 1.4.2 (Apache-2.0), from its source package, with ``scipy.ndimage.convolve`` of
SciPy 1.17.1 in the place of ``scipy.ndimage.filters.convolve``, which SciPy no longer has:
``basicsr.metrics.niqe.calculate_niqe(picture[..., ::-1], crop_border=0)``.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage import data

from derain_engine.base.errors import InputError
from derain_engine.engine.metrics import luma
from derain_engine.evaluation import niqe as module
from derain_engine.evaluation.niqe import niqe


def streaked(picture: np.ndarray) -> np.ndarray:
    picture = picture.copy()
    picture[:, ::9] = 250
    return picture


#: name -> (H x W x 3 uint8, BasicSR's NIQE).
REFERENCE = {
    "astronaut, black in a corner": (lambda: data.astronaut(), 3.0649476661849033),
    "chelsea": (lambda: data.chelsea(), 2.625524381291432),
    "coffee": (lambda: data.coffee(), 4.115241615372864),
    "coffee under streaks": (lambda: streaked(data.coffee()), 18.35483385318745),
    "noise": (lambda: np.random.default_rng(5).integers(0, 256, (200, 300, 3), np.uint8), 30.447074959984793),
    "two blocks of chelsea": (lambda: data.chelsea()[:97, :200], 5.361016218922528),
}


def of(picture: np.ndarray) -> float:
    return niqe(luma(picture.astype(np.float64) / 255))


@pytest.mark.parametrize("name", REFERENCE)
def test_niqe_is_basicsrs(name: str) -> None:
    picture, expected = REFERENCE[name]
    assert of(picture()) == pytest.approx(expected, abs=1e-3)


def test_what_fills_no_block_does_not_count() -> None:
    picture = data.chelsea()
    assert of(picture) == of(picture[:288, :384])


def test_luma_is_rounded_to_8_bits() -> None:
    levels = luma(data.chelsea().astype(np.float64) / 255)
    assert niqe(levels) == niqe(np.rint(255 * levels) / 255)
    assert niqe(levels.astype(np.float32)) == pytest.approx(niqe(levels), abs=1e-3)


@pytest.mark.parametrize(
    "picture",
    [np.full((300, 300), 0.5), np.zeros((96, 191)), np.zeros((95, 1000)), np.zeros((1, 1))],
    ids=["flat", "one block", "low", "a pixel"],
)
def test_where_there_is_too_little_structure_it_is_not_defined(picture: np.ndarray) -> None:
    assert math.isnan(niqe(picture))


def test_flat_areas_are_zero_at_both_scales() -> None:
    """Unlike their rounding noise, whose signs would count."""
    for level in range(256):
        flat = np.full((20, 26), float(level))
        assert not module._normalise(flat).any()
        assert not module._normalise(module._halve(flat)).any()
    step = np.zeros((20, 26))
    step[10, 13] = 1
    assert module._normalise(step)[7:14, 10:17].all(), "a step of one level is no noise"


@pytest.mark.parametrize(
    "bad",
    [np.zeros((200, 200, 3)), np.zeros((200, 200), np.uint8), np.full((200, 200), np.nan)],
    ids=["colour", "uint8", "NaN"],
)
def test_what_is_no_luma_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputError):
        niqe(bad)


def test_halving_is_matlabs_imresize() -> None:
    """Written out for one axis: the cubic kernel of Keys (a = -1/2) at twice its width, edges mirrored."""

    def cubic(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0

    def halve(line: np.ndarray) -> list[float]:
        mirrored = np.concatenate([line, line[::-1]])
        out = []
        for k in range(len(line) // 2):
            middle = 2 * k + 0.5
            weights = {i: cubic((middle - i) / 2) for i in range(2 * k - 4, 2 * k + 6)}
            total = sum(weights.values())
            out.append(sum(w * mirrored[i if i >= 0 else -i - 1] for i, w in weights.items()) / total)
        return out

    picture = np.random.default_rng(1).uniform(0, 255, (10, 14))
    expected = np.apply_along_axis(halve, 1, np.apply_along_axis(halve, 0, picture))
    np.testing.assert_allclose(module._halve(picture), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [0.05, 0.5, 1.0, 2.0, 20.0])
def test_the_shape_is_the_nearest_of_all_that_are_tried(shape: float) -> None:
    random = np.random.default_rng(2)
    values = random.gamma(1 / shape, size=4000) ** (1 / shape) * random.choice([-1.0, 1.3], 4000)
    shapes, ratios = module._shapes()
    left, right = (math.sqrt(np.mean(each**2)) for each in (values[values < 0], values[values > 0]))
    g = left / right
    ratio = np.mean(np.abs(values)) ** 2 / np.mean(values**2) * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    alpha, beta_left, beta_right = module._fit(values)
    assert alpha == shapes[np.argmin((ratios - ratio) ** 2)]
    scale = math.sqrt(math.gamma(1 / alpha) / math.gamma(3 / alpha))
    assert (beta_left, beta_right) == pytest.approx((left * scale, right * scale))

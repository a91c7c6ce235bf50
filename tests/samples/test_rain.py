from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from derain_engine.base.errors import InputError
from derain_engine.samples import rain as module
from derain_engine.samples.rain import (
    KINDS,
    BlurredNoise,
    Kind,
    Rain,
    Streaks,
    add_rain,
    render_noise,
    render_rain,
    render_streaks,
    sample_rain,
)

STREAKS = Streaks(length=20, width=1.5, angle=12, density=3, brightness=0.6)
NOISE = BlurredNoise(length=20, grain=2, angle=12, coverage=0.2, brightness=0.6)
#: Kinds of sharp streaks, the more expensive the later.
SHARP: tuple[Kind, ...] = ("drizzle", "light", "heavy", "downpour")


def photo(height=96, width=120, seed=0):
    """Smooth, coloured, with blacks and whites."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    phase = np.random.default_rng(seed).uniform(0, 6, 3).astype(np.float32)
    return (0.5 + 0.5 * np.sin(y[..., None] / 9 + x[..., None] / 14 + phase)).astype(np.float32)


def rng(seed=0):
    return np.random.default_rng(seed)


def psnr(a, b):
    return -10 * np.log10(np.mean((a - b) ** 2))


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_gives_one_rain(kind):
    def once(seed):
        source = rng(seed)
        rain = sample_rain(kind, source)
        return rain, *add_rain(photo(), rain, source)

    first, again, other = once(1), once(1), once(2)
    assert first[0] == again[0]
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_array_equal(first[2], again[2])
    assert kind == "clean" or (first[1] != other[1]).any()


def test_kinds_are_ordered_by_what_they_cost():
    clean = photo()
    means = []
    for kind in SHARP:
        losses = []
        for seed in range(25):
            source = rng(seed)
            rainy, truth = add_rain(clean, sample_rain(kind, source), source)
            losses.append(psnr(rainy, truth))
        means.append(np.mean(losses))
    assert means == sorted(means, reverse=True)
    assert min(np.diff(means[::-1])) > 1, means


def test_a_clean_picture_stays_as_it_is():
    clean = photo()
    rainy, truth = add_rain(clean, sample_rain("clean", rng()), rng())
    assert (rainy == clean).all() and (truth == clean).all()
    assert not np.shares_memory(rainy, clean)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_each_kind_has_its_number_of_directions(kind: Kind):
    rains = [sample_rain(kind, rng(seed)) for seed in range(60)]
    assert {rain.blend for rain in rains} == set(get_args(module.Blend))
    counts = {len(rain.layers) for rain in rains}
    directions = {
        "drizzle": {1},
        "light": {1, 2},
        "heavy": {2, 3, 4},
        "downpour": {3, 4, 5, 6},
        "noise": {1, 2},
        "near": {1, 2, 3, 4},
    }
    assert counts <= directions[kind]
    assert {type(layer) for rain in rains for layer in rain.layers} == {
        BlurredNoise if kind == "noise" else Streaks
    }
    assert len(counts) > 1 or kind == "drizzle"


def test_additive_rain_obeys_equation_1_without_saturating():
    layers, tint = (STREAKS, replace(STREAKS, angle=-30, brightness=0.9)), (1.05, 1.0, 0.95)
    clean = photo()
    rainy, truth = add_rain(clean, Rain(layers, "additive", tint), rng(3))
    layer = render_rain(layers, 96, 120, rng(3))[..., None] * np.asarray(tint, np.float32)
    np.testing.assert_allclose(rainy, truth + np.minimum(layer, 0.5), atol=1e-6)
    # The truth is the picture in less light, the same everywhere.
    factor = truth.sum() / clean.sum()
    assert 0.3 < factor < 1
    np.testing.assert_allclose(truth, clean * factor, atol=1e-5)


@pytest.mark.parametrize("blend", ["saturate", "screen"])
def test_rain_never_darkens_and_keeps_its_truth(blend):
    clean = photo()
    rainy, truth = add_rain(clean, Rain((STREAKS,), blend), rng())
    assert (truth == clean).all()
    # Screen blending rounds: 1 - (1 - B) is not B in float32.
    assert (rainy >= clean - (0 if blend == "saturate" else 1.2e-7)).all() and (rainy > clean + 0.1).any()
    assert rainy.max() <= 1


def test_saturating_rain_is_the_sum_cut_at_white_and_screen_its_formula():
    clean, layer = photo(), render_rain((STREAKS,), 96, 120, rng(5))[..., None]
    rainy, _ = add_rain(clean, Rain((STREAKS,), "saturate"), rng(5))
    np.testing.assert_allclose(rainy, np.minimum(clean + layer, 1), atol=1e-6)
    assert (clean + layer > 1).any()
    rainy, _ = add_rain(clean, Rain((STREAKS,), "screen"), rng(5))
    np.testing.assert_allclose(rainy, 1 - (1 - clean) * (1 - np.minimum(layer, 1)), atol=1e-6)


def test_more_brightness_and_more_density_make_more_rain():
    for field, values in (("brightness", (0.1, 0.3, 0.6, 0.9)), ("density", (0.5, 2, 8, 20))):
        amounts = [
            np.mean(
                [render_streaks(replace(STREAKS, **{field: v}), 128, 128, rng(s)).mean() for s in range(4)]
            )
            for v in values
        ]
        assert amounts == sorted(amounts) and amounts[-1] > 3 * amounts[0], field
    twice = render_streaks(replace(STREAKS, brightness=1.2), 64, 64, rng())
    np.testing.assert_allclose(twice, 2 * render_streaks(STREAKS, 64, 64, rng()), rtol=1e-5)


@pytest.mark.parametrize("coverage", [0.05, 0.3, 0.9])
def test_blurred_noise_covers_its_share_up_to_its_brightness(coverage):
    layer = render_noise(replace(NOISE, coverage=coverage), 200, 240, rng())
    assert (layer > 0).mean() == pytest.approx(coverage, abs=0.01)
    assert layer.max() == pytest.approx(NOISE.brightness) and layer.min() == 0


def test_gusts_weaken_rain_here_more_than_there_and_never_strengthen_it():
    dense = replace(STREAKS, density=40)
    black = np.zeros((320, 320, 3), np.float32)
    even, _ = add_rain(black, Rain((dense,)), rng())
    gusty, _ = add_rain(black, Rain((dense,), unevenness=0.8), rng())
    assert (gusty <= even).all() and gusty.mean() > 0.2 * even.mean()
    blocks = [
        (part[y : y + 40, x : x + 40].mean())
        for part in (gusty, even)
        for y in range(0, 320, 40)
        for x in range(0, 320, 40)
    ]
    kept = np.divide(blocks[:64], blocks[64:])
    assert kept.max() > 1.5 * kept.min()
    # Smooth: neighbouring blocks keep about the same share.
    assert np.abs(np.diff(kept.reshape(8, 8), axis=1)).max() < 0.5


def test_drops_near_the_lens_are_the_widest():
    widths = {
        kind: max(
            layer.width
            for s in range(40)
            for layer in sample_rain(kind, rng(s)).layers
            if isinstance(layer, Streaks)
        )
        for kind in (*SHARP, "near")
    }
    assert widths["near"] > 2 * max(widths[kind] for kind in SHARP), widths


def test_blurred_noise_is_long_along_its_angle_and_as_wide_as_its_grains():
    def along_and_across(noise):
        layer = render_noise(replace(noise, angle=0), 256, 256, rng()) - 0.1
        layer -= layer.mean()
        spectrum = np.abs(np.fft.fft2(layer)) ** 2
        correlation = np.fft.ifft2(spectrum).real
        return [int(np.argmax(line < correlation[0, 0] / 2)) for line in (correlation[:, 0], correlation[0])]

    along, across = along_and_across(NOISE)
    assert along > 3 * across
    assert along_and_across(replace(NOISE, length=50))[0] > 1.5 * along
    assert along_and_across(replace(NOISE, grain=6))[1] > across


@pytest.mark.parametrize(("angle", "leans"), [(0, 0), (45, 1), (-45, -1)])
def test_positive_angles_lean_to_the_right_on_the_way_down(angle, leans):
    kernel = module._streak_kernel(21, 1.5, angle)
    y, x = np.mgrid[: kernel.shape[0], : kernel.shape[1]] - kernel.shape[0] // 2
    slope = (kernel * x * y).sum() / (kernel * y * y).sum()
    assert slope == pytest.approx(leans, abs=0.05)
    assert kernel.max() == pytest.approx(1) and kernel.shape[0] % 2 == 1


def test_streaks_do_not_thin_out_at_the_border():
    dense = replace(STREAKS, density=20, length=30)
    layers = [render_streaks(dense, 100, 100, rng(seed)) for seed in range(8)]
    whole = np.mean(layers)
    for edge in (np.s_[:6], np.s_[-6:], np.s_[:, :6], np.s_[:, -6:]):
        assert np.mean([layer[edge] for layer in layers]) == pytest.approx(whole, rel=0.15)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 13)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_size_gets_rain(size, kind):
    for seed in range(3):
        source = rng(seed)
        rainy, truth = add_rain(photo(*size), sample_rain(kind, source), source)
        assert rainy.shape == truth.shape == (*size, 3)
        assert rainy.dtype == truth.dtype == np.float32
        assert rainy.min() >= 0 and rainy.max() <= 1 and np.isfinite(rainy).all()


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (1, 4, 4, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match="H x W x 3"):
        add_rain(np.zeros(shape, np.float32), Rain((STREAKS,)), rng())

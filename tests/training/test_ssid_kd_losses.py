"""Eq. 8 to 11 of the SSID-KD paper against direct formulas, and their gradients."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from derain_engine.base.errors import InputError
from derain_engine.training.losses import (
    code_distance,
    dark_channel_loss,
    kl_divergence,
    streak_dark_channel_loss,
    total_variation,
)
from derain_engine.training.options import KLReduction

SIZES = [(1, 1), (7, 13), (33, 65), (32, 32)]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def codes(*shape):
    return tuple(4 * random(*shape, seed=seed) - 2 for seed in (1, 2))


def direct_kl(real, syn):
    """Sum over all pictures, channels and pixels, with plain softmaxes in NumPy."""
    total = 0.0
    for a, b in zip(real.numpy(), syn.numpy(), strict=True):
        p, q = (np.exp(x) / np.exp(x).sum(0, keepdims=True) for x in (a, b))
        total += float((p * np.log(p / q)).sum())
    return total


@pytest.mark.parametrize("size", SIZES)
def test_kl_is_the_divergence_of_softmaxes_over_channels(size):
    real, syn = codes(2, 5, *size)
    total, pixels = direct_kl(real, syn), size[0] * size[1]
    counts: dict[KLReduction, int] = {"mean": 2 * 5 * pixels, "batchmean": 2, "pixel": 2 * pixels}
    for reduction, count in counts.items():
        assert float(kl_divergence(real, syn, reduction)) == pytest.approx(total / count, rel=1e-9)
    assert total > 0
    assert float(kl_divergence(real, real, "pixel")) == pytest.approx(0, abs=1e-12)
    assert float(kl_divergence(syn, real, "pixel")) != pytest.approx(total / 2 / pixels, rel=1e-3)


@pytest.mark.filterwarnings("ignore:reduction. 'mean'")
def test_kl_mean_is_what_torch_gives_the_published_code():
    real, syn = codes(2, 48, 6, 5)
    theirs = F.kl_div(F.log_softmax(syn, 1), F.softmax(real, 1), reduction="mean")
    torch.testing.assert_close(kl_divergence(real, syn, "mean"), theirs)


def test_kl_stays_finite_far_from_each_other():
    code = torch.zeros(1, 3, 1, 1)
    code[0, 0] = 500.0
    assert float(kl_divergence(code, code.flip(1), "pixel")) == pytest.approx(500)


def test_codes_that_cannot_be_compared_are_refused():
    real, syn = codes(1, 3, 2, 2)
    with pytest.raises(InputError, match="kl_reduction 'sum'"):
        kl_divergence(real, syn, "sum")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot be compared"):
        kl_divergence(real, syn[:, :2], "mean")


def direct_maximum(image, window):
    """Return the maximum over the three channels and a window at every position, zero-based from -window // 2."""
    padded = F.pad(image, [window // 2] * 4, value=-math.inf).numpy()
    height, width = (side - window + 1 for side in padded.shape[2:])
    return np.array(
        [
            [picture[:, y : y + window, x : x + window].max() for y in range(height) for x in range(width)]
            for picture in padded
        ]
    )


@pytest.mark.parametrize(("size", "window"), [((1, 1), 1), ((7, 13), 3), ((9, 8), 8), ((12, 12), 12)])
def test_dark_channel_is_the_sum_over_all_windows(size, window):
    image = 1.4 * random(2, 3, *size) - 0.2
    brightest = direct_maximum(1 - (image + 1) / 2, window)
    assert brightest.shape[1] == np.prod([side + 1 - window % 2 for side in size])
    assert float(dark_channel_loss(image, window)) == pytest.approx(-brightest.sum(), rel=1e-12)
    # Eq. 9: one minus the maximum of (1 - z) is the minimum of z, the dark channel of z = (image + 1) / 2.
    darkest = 1 - brightest
    assert darkest.min() == pytest.approx(float((image + 1).min() / 2))
    rain = direct_maximum(image, window)
    assert float(streak_dark_channel_loss(image, window)) == pytest.approx(np.abs(1 - rain).sum(), rel=1e-12)


def test_dark_channel_loss_falls_as_the_darkest_pixel_does():
    image = random(1, 3, 16, 16).requires_grad_()
    dark_channel_loss(image, 16).backward()
    assert image.grad is not None
    darkest = int(image.detach().argmin())
    assert float(image.grad.flatten()[darkest]) > 0
    assert float(image.grad.min()) == 0 and int((image.grad > 0).sum()) < 30


@pytest.mark.parametrize("size", SIZES)
def test_total_variation_is_the_sum_of_differences_with_zeros_outside(size):
    image = random(2, 3, *size) - 0.3
    padded = np.pad(image.numpy(), [(0, 0), (0, 0), (1, 0), (1, 0)])
    expected = (
        np.abs(np.diff(padded, axis=3)[:, :, 1:]).sum() + np.abs(np.diff(padded, axis=2)[..., 1:]).sum()
    )
    assert float(total_variation(image)) == pytest.approx(expected, rel=1e-12)


def test_total_variation_is_the_published_convolution():
    image = random(2, 3, 9, 11)
    taps = torch.tensor([-1.0, 1.0, 0.0], dtype=torch.float64)
    across = F.conv2d(image.flatten(0, 1)[:, None], taps.view(1, 1, 1, 3), padding=(0, 1))
    down = F.conv2d(image.flatten(0, 1)[:, None], taps.view(1, 1, 3, 1), padding=(1, 0))
    torch.testing.assert_close(total_variation(image), across.abs().sum() + down.abs().sum())


@pytest.mark.parametrize("reduction", ["mean", "batchmean", "pixel"])
def test_gradients_of_kl_into_both_codes(reduction: KLReduction):
    real, syn = (code.requires_grad_() for code in codes(2, 4, 3, 2))
    assert gradcheck(partial(kl_divergence, reduction=reduction), (real, syn))


@pytest.mark.parametrize("loss", [dark_channel_loss, streak_dark_channel_loss])
@pytest.mark.parametrize("window", [3, 6])
def test_gradients_of_the_dark_channel(loss, window):
    # Values so far apart that no small step changes which one is the largest.
    order = torch.randperm(2 * 3 * 6 * 7, generator=torch.Generator().manual_seed(3)).double()
    image = (order / len(order) * 0.9).view(2, 3, 6, 7).requires_grad_()
    assert gradcheck(partial(loss, window=window), (image,), eps=1e-4)


def test_gradients_of_total_variation():
    order = torch.randperm(2 * 3 * 4 * 5, generator=torch.Generator().manual_seed(4)).double() + 1
    assert gradcheck(total_variation, ((order / len(order)).view(2, 3, 4, 5).requires_grad_(),), eps=1e-4)


def test_code_distance_has_no_scale():
    ours, theirs = codes(2, 5, 4, 3)
    expected = float(((ours - theirs) ** 2).sum() / (theirs**2).sum())
    for scale in (1e-3, 1.0, 1e3):
        assert float(code_distance(ours * scale, theirs * scale)) == pytest.approx(expected, rel=1e-6)
    assert float(code_distance(torch.zeros_like(theirs), theirs)) == pytest.approx(1)
    assert float(code_distance(theirs, theirs)) == 0

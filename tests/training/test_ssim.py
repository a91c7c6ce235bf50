"""SSIM, and eq. 6 of the SSID-KD paper, against direct formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity

from derain_engine.engine.metrics import ssim as metrics_ssim
from derain_engine.training.losses import negative_ssim_l1, ssim


def images(seed=0, count=2, height=40, width=33, noise=0.2):
    generator = torch.Generator().manual_seed(seed)
    a = F.interpolate(
        torch.rand(count, 3, 8, 8, generator=generator), (height, width), mode="bilinear"
    ).clamp(0, 1)
    return a, (a + noise * torch.randn(a.shape, generator=generator)).clamp(0, 1)


def direct_ssim(a, b):
    """Compute the definition in float64: one 11x11 window at every pixel, zeros outside the picture."""
    x = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * 1.5**2))
    window = (window / window.sum()).expand(3, 1, 11, 11)

    def mean(t):
        return F.conv2d(t, window, padding=5, groups=3)

    a, b = a.double(), b.double()
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()


def test_ssim_is_the_windowed_formula_with_zero_padding():
    a, b = images()
    assert float(ssim(a, b)) == pytest.approx(float(direct_ssim(a, b)), abs=1e-5)
    assert float(ssim(a, b)) == pytest.approx(float(ssim(b, a)), abs=1e-6)


def test_away_from_the_border_it_is_scikit_images_ssim():
    # On a picture so large that the border, where padding differs, hardly counts: within its share of the area.
    a, b = images(count=1, height=300, width=280, noise=0.1)
    first, second = (t[0].permute(1, 2, 0).double().numpy() for t in (a, b))
    theirs: Any = structural_similarity(
        first,
        second,
        channel_axis=2,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    border = 1 - (290 * 270) / (300 * 280)
    assert float(ssim(a, b)) == pytest.approx(float(theirs), abs=border * (1 - float(theirs)) * 1.1)


def test_unpadded_ssim_is_that_of_the_metrics():
    a, b = (each.double() for each in images(count=1, noise=0.1))
    first, second = (t[0].permute(1, 2, 0).numpy() for t in (a, b))
    # The window's weights are single precision.
    assert float(ssim(a, b, padded=False)) == pytest.approx(metrics_ssim(first, second), abs=1e-6)
    assert float(ssim(a, b)) != pytest.approx(float(ssim(a, b, padded=False)), abs=1e-5)


def test_equal_images_give_one_and_worse_ones_less():
    a, _ = images()
    assert float(ssim(a, a)) == pytest.approx(1, abs=1e-6)
    scores = [float(ssim(*images(noise=noise))) for noise in (0.05, 0.1, 0.2, 0.4)]
    assert scores == sorted(scores, reverse=True) and scores[0] < 0.99


@pytest.mark.parametrize("picture", ["noisy", "black", "equal"])
def test_gradients_are_finite_and_lead_to_the_truth(picture):
    truth, start = images(1)
    if picture == "black":
        start, truth = torch.zeros_like(start), torch.zeros_like(truth)
    elif picture == "equal":
        start = truth.clone()
    clean = start.clone().requires_grad_()
    loss = negative_ssim_l1(clean, truth, 5.0)
    loss.backward()
    assert clean.grad is not None and clean.grad.isfinite().all()
    if picture == "noisy":
        step = start - 0.01 * clean.grad / clean.grad.abs().max()
        assert negative_ssim_l1(step, truth, 5.0) < loss


def test_the_loss_is_negative_ssim_plus_weighted_l1():
    a, b = images(2)
    for weight in (0.0, 2.5):
        expected = -ssim(a, b) + weight * (a - b).abs().mean()
        assert float(negative_ssim_l1(a, b, weight)) == pytest.approx(float(expected), abs=1e-6)

"""Losses on N x 3 x H x W float32 images in [0, 1]."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

_C1, _C2 = 0.01**2, 0.03**2


@functools.lru_cache(maxsize=8)
def _gaussian(size: int, sigma: float, device: torch.device) -> Tensor:
    x = torch.arange(size, dtype=torch.float32, device=device) - size // 2
    g = torch.exp(-(x**2) / (2 * sigma**2))
    return g / g.sum()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean SSIM (Wang et al., 2004) with an 11x11 Gaussian window of sigma 1.5, zero padding, over RGB: the one
    that the published SSID-KD code trains and evaluates with. Differentiable; 1 for equal images."""
    channels = a.shape[1]
    maps = torch.cat([a, b, a * a, b * b, a * b], 1)
    g = _gaussian(11, 1.5, a.device)
    # The window is separable: 22 taps instead of 121.
    maps = F.conv2d(
        maps, g.view(1, 1, 1, -1).expand(5 * channels, 1, 1, -1), padding=(0, 5), groups=5 * channels
    )
    maps = F.conv2d(
        maps, g.view(1, 1, -1, 1).expand(5 * channels, 1, -1, 1), padding=(5, 0), groups=5 * channels
    )
    mean_a, mean_b, aa, bb, ab = maps.split(channels, 1)
    var_a, var_b, cov = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    score = ((2 * mean_a * mean_b + _C1) * (2 * cov + _C2)) / (
        (mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2)
    )
    return score.mean()


def negative_ssim_l1(clean: Tensor, truth: Tensor, l1_weight: float) -> Tensor:
    """Negative SSIM (eq. 6 of the SSID-KD paper) plus ``l1_weight`` times the mean absolute error."""
    return -ssim(clean, truth) + l1_weight * F.l1_loss(clean, truth)

"""Losses on N x 3 x H x W images in [0, 1] and on latent codes: eq. 6 and 8 to 11 of the SSID-KD paper."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.errors import InputError
from ..kernels.dark_channel import dark_channel_maximum
from .options import KLReduction

_C1, _C2 = 0.01**2, 0.03**2
_WINDOW, _SIGMA = 11, 1.5


@functools.lru_cache(maxsize=8)
def _gaussian(device: torch.device) -> Tensor:
    x = torch.arange(_WINDOW, dtype=torch.float32, device=device) - _WINDOW // 2
    g = torch.exp(-(x**2) / (2 * _SIGMA**2))
    return g / g.sum()


def ssim(a: Tensor, b: Tensor, *, padded: bool = True) -> Tensor:
    """Compute the mean SSIM (Wang et al., 2004) with an 11x11 Gaussian window of sigma 1.5, over RGB; 1 for equal
    images.

    Args:
        padded: windows also reach over the border, into zeros: the SSIM that the published SSID-KD code trains and
            evaluates with. Otherwise only windows that lie whole in the image count, as in ``engine.metrics.ssim``.
    """
    channels, padding = a.shape[1], _WINDOW // 2 if padded else 0
    maps = torch.cat([a, b, a * a, b * b, a * b], 1)
    groups = 5 * channels
    # The window is separable: 22 taps instead of 121.
    taps = _gaussian(a.device).to(a.dtype).expand(groups, 1, 1, -1)
    maps = F.conv2d(maps, taps, padding=(0, padding), groups=groups)
    maps = F.conv2d(maps, taps.mT, padding=(padding, 0), groups=groups)
    mean_a, mean_b, aa, bb, ab = maps.split(channels, 1)
    var_a, var_b, cov = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    score = ((2 * mean_a * mean_b + _C1) * (2 * cov + _C2)) / (
        (mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2)
    )
    return score.mean()


def negative_ssim_l1(clean: Tensor, truth: Tensor, l1_weight: float) -> Tensor:
    """Compute the negative SSIM (eq. 6 of the SSID-KD paper) plus ``l1_weight`` times the mean absolute error."""
    return -ssim(clean, truth) + l1_weight * F.l1_loss(clean, truth)


def kl_divergence(code_real: Tensor, code_syn: Tensor, reduction: KLReduction) -> Tensor:
    """Compute eq. 8 of the SSID-KD paper: KL(P_real, P_syn), where P is the softmax of a code over its channels at
    every pixel, so that the terms are P_real (log P_real - log P_syn). Gradients go into both codes.

    Args:
        code_real, code_syn: N x C x h x w, any range.
        reduction: ``mean`` divides their sum by N C h w, which is what the published code does and some orders of
            magnitude below the other losses; ``pixel`` by N h w, the mean of true divergences; ``batchmean`` by N.

    Raises:
        InputError: the codes differ in shape, or a reduction that is none of these.
    """
    if code_real.shape != code_syn.shape:
        raise InputError(f"Codes of {tuple(code_real.shape)} and {tuple(code_syn.shape)} cannot be compared.")
    count = {
        "mean": code_real.numel(),
        "batchmean": code_real.shape[0],
        "pixel": code_real.numel() // code_real.shape[1],
    }.get(reduction)
    if count is None:
        raise InputError(f"kl_reduction {reduction!r} is not known; take mean, batchmean or pixel.")
    real, syn = F.log_softmax(code_real, 1), F.log_softmax(code_syn, 1)
    return (real.exp() * (real - syn)).sum() / count


def dark_channel_loss(clean: Tensor, window: int) -> Tensor:
    """Compute the loss of the dark channel of clean images (eq. 9), pushed to black as the published code does it:

        - sum over i, j of  max over c, y, x in the window at (i, j) of  1 - (clean(c, y, x) + 1) / 2

    Args:
        window: side of the square in pixels; the published code takes the side of its patches, so that there is nearly
            one minimum a patch. Windows also reach over the border, by half of theirs. The published code takes its
            images for [-1, 1], which only halves the loss in [0, 1].

    Returns:
        A sum over images and positions: (H + 1) x (W + 1) positions where the window is even.

    Raises:
        InputError: what :func:`dark_channel_maximum` refuses.
    """
    return -dark_channel_maximum(1 - (clean + 1) / 2, window, window // 2).sum()


def streak_dark_channel_loss(rain: Tensor, window: int) -> Tensor:
    """Compute eq. 10 as printed, for one of its two rain layers: ``sum |1 - Maxpool3D(rain)|``, summed over images and
    positions. Window and errors as in :func:`dark_channel_loss`."""
    return (1 - dark_channel_maximum(rain, window, window // 2)).abs().sum()


def total_variation(image: Tensor) -> Tensor:
    """Compute eq. 11: the sum of all absolute differences to the left and to the upper neighbour, zero outside of the
    image as in the published code, so that the first column and the first row count with their own values."""
    horizontal = image - F.pad(image, (1, 0, 0, 0))[..., :, :-1]
    vertical = image - F.pad(image, (0, 0, 1, 0))[..., :-1, :]
    return horizontal.abs().sum() + vertical.abs().sum()


def code_distance(code: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean squared difference of a code to a teacher's over the mean square of the teacher's: 0 where they
    are equal, 1 for a code of zeros, whatever the scale of the teacher's. N x C x h x w both (hints, Romero et al.,
    "FitNets", ICLR 2015)."""
    return F.mse_loss(code, teacher) / teacher.square().mean().clamp_min(1e-12)

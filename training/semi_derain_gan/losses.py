"""Losses of Semi-DerainGAN on N x 3 x H x W images in [0, 1] (eq. 4, 5, 8, 10 and 12 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

#: What DeRaindrop multiplies the weight of a mask's error with for every iteration that follows it.
_EARLIER = 0.8


def judging_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Return what a discriminator minimises: eq. 4 or 5 with the sign turned, -E[log D(real)] - E[log(1 - D(fake))],
    summed over scales.

    Args:
        real, fake: logits of each scale; D is their sigmoid.
    """
    losses = [F.softplus(-r).mean() + F.softplus(f).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(losses).sum()


def fooling_loss(fake: Sequence[Tensor]) -> Tensor:
    """Return what a generator minimises for its part of eq. 4 or 5: -E[log D(fake)] (the non-saturating form) instead
    of E[log(1 - D(fake))], summed over scales.

    Args:
        fake: logits of each scale; D is their sigmoid.
    """
    return torch.stack([F.softplus(-f).mean() for f in fake]).sum()


def cycle_loss(rainy: Tensor, rebuilt: Tensor) -> Tensor:
    """Compute eq. 10, as the mean absolute difference."""
    return F.l1_loss(rebuilt, rainy)


def smoothness_loss(image: Tensor) -> Tensor:
    """Compute eq. 12: the mean squared difference of neighbours, of rows plus of columns.

    With a weight of 100, as the paper has it, sums or absolute differences would outweigh everything else and leave no
    texture.
    """
    rows, columns = image.diff(dim=-2), image.diff(dim=-1)
    return rows.square().mean() + columns.square().mean()


def mask_loss(masks: Sequence[Tensor], rainy: Tensor, clean: Tensor, threshold: float) -> Tensor:
    """Compute the loss of the masks of all iterations, which the paper does not have and its source does: mean squared
    differences to the map of where rain changes any colour by more than ``threshold``, later ones weighing more.

    Args:
        masks: N x 1 x H x W each.
    """
    where = ((rainy - clean).abs().amax(1, keepdim=True) > threshold).to(rainy.dtype)
    last = len(masks) - 1
    losses = [_EARLIER ** (last - i) * F.mse_loss(mask, where) for i, mask in enumerate(masks)]
    return torch.stack(losses).sum()

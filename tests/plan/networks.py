"""Networks whose every block moves the output."""

from __future__ import annotations

import torch

from ..helpers import strong

__all__ = ["picture", "strong"]


def picture(height: int, width: int) -> torch.Tensor:
    """H x W x 3 in [0, 1]: waves and grain."""
    y, x = torch.meshgrid(torch.arange(height) / 9, torch.arange(width) / 7, indexing="ij")
    waves = torch.stack([0.5 + 0.4 * torch.sin(x + c) * torch.cos(y * (1 + c / 3)) for c in range(3)], 2)
    grain = torch.randn(height, width, 3, generator=torch.Generator().manual_seed(height))
    return (waves + 0.05 * grain).clamp(0, 1)

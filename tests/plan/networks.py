"""Networks whose every block moves the output."""

from __future__ import annotations

import torch

from derain_engine.models.ssid_kd import SSIDKD, SSIDKDConfig


def strong(config: SSIDKDConfig) -> SSIDKD:
    """Random weights at gain 1.6: at gain 1 the deep blocks hardly move the output."""
    torch.manual_seed(5)
    network = SSIDKD(config).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.mul_(1.6)
    return network


def picture(height: int, width: int) -> torch.Tensor:
    """H x W x 3 in [0, 1]: waves and grain."""
    y, x = torch.meshgrid(torch.arange(height) / 9, torch.arange(width) / 7, indexing="ij")
    waves = torch.stack([0.5 + 0.4 * torch.sin(x + c) * torch.cos(y * (1 + c / 3)) for c in range(3)], 2)
    grain = torch.randn(height, width, 3, generator=torch.Generator().manual_seed(height))
    return (waves + 0.05 * grain).clamp(0, 1)

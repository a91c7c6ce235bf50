"""The multiply-adds of a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..base.sizes import padded_side
from .spec import ModelSpec


def macs_per_pixel(network: nn.Module, spec: ModelSpec) -> float:
    """Count the multiply-adds of the convolutions for a pixel of a frame, while one small frame is run on the CPU."""
    macs = 0

    def count(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal macs
        if isinstance(layer, nn.Conv2d):
            macs += output[0, 0].numel() * layer.weight.numel()
        elif isinstance(layer, nn.ConvTranspose2d):
            # Every pixel of the input meets the whole weight.
            macs += inputs[0][0, 0].numel() * layer.weight.numel()

    # Whole at every scale, so that the count is proportional to the frame.
    side = padded_side(spec.smallest_side, spec.granularity)
    hooks = [layer.register_forward_hook(count) for layer in network.modules()]
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, side, side))
    finally:
        for hook in hooks:
            hook.remove()
    return macs / side**2

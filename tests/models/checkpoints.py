"""Little networks and model files made for tests, and the words with which a file is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from derain_engine.base.errors import CheckpointError
from derain_engine.models.checkpoint import load_checkpoint
from derain_engine.models.registry import architecture_of
from derain_engine.models.ssid_kd import SSIDKD, SSIDKDConfig

SMALL = SSIDKDConfig(channels=(3, 4, 5), units=(2, 2, 1))
TINY = SSIDKDConfig(channels=(1, 1, 1), units=(2, 1, 1), blocks="mffb")
HEAD = "head.convLayer_1.0.weight"
COPY = "encoder_decoder_1.enLayer_1.units.1.unit.1.confusion.bias"


def loud(config: SSIDKDConfig = SMALL, seed: int = 0) -> SSIDKD:
    """Make a random network that does something: all convolution weights times 1.6."""
    torch.manual_seed(seed)
    network = SSIDKD(config)
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.weight.data.mul_(1.6)
    return network.requires_grad_(False)


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def save_as_published(path: Path, network: SSIDKD, prefix: str = "module.") -> None:
    """Write an RGB network as the authors' code does: BGR, from DataParallel, shared units under every position."""
    state = architecture_of("ssid-kd").swap_colours(network.state_dict())
    torch.save({"net": {prefix + key: tensor for key, tensor in state.items()}, "clock_net": 0}, path)


def refused(path: Path, **arguments: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, **arguments)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message

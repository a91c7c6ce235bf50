"""The networks whose kernels are prepared and measured, by the names that a user gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def find_networks(names: Sequence[str] = ()) -> list[nn.Module]:
    """Return a network for every name: a model file, shipped weights or a preset; with no names, for every preset of
    SSID-KD. Presets have random weights, which kernels are as fast with as with any.

    Raises:
        InputError, CheckpointError: a name of nothing, or a file that is no model.
    """
    from ...engine.build import find_model
    from ...models.checkpoint import load_checkpoint
    from ...models.registry import architectures, create, spec_of

    presets = {
        name: spec_of(architecture.name, config)
        for architecture in architectures().values()
        for name, config in architecture.presets.items()
    }
    return [
        create(presets[name])
        if name in presets and not Path(name).exists()
        else load_checkpoint(find_model(name)[0]).network
        for name in names or (name for name, spec in presets.items() if spec.architecture == "ssid-kd")
    ]

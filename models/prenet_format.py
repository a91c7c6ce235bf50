"""How networks of the PReNet family lie in files: what keys and shapes tell, and what has to be tried.

Errors are ``ValueError`` with a message that a user can act on; the caller adds the name of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .architecture import Architecture, Protocol, unchanged
from .prenet import VARIANTS, WIDTH, PReNet, PReNetConfig, Variant, VRGNetDerainer, reach

State = Mapping[str, Tensor]
_PREFIX = "derainet."
_PROBE_SIDE = 96
#: float32 maps that live at once at full resolution: features, state, cell and their concatenation, the four gates, and
#: as much as the cell again for layout conversion.
_MAPS_ALIVE = 11
_PROTOCOL = Protocol(colour_order="rgb", value_range=(0, 1), padding="none", rounding="truncated")


def normalise(config: PReNetConfig | Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a configuration, as values that JSON can hold.

    Raises:
        ValueError: an unknown field, or a value that it cannot have.
    """
    if not isinstance(config, PReNetConfig):
        if unknown := [str(name) for name in config if name != "stages"]:
            raise ValueError(f"unknown option {', '.join(unknown)}; there is stages")
        config = PReNetConfig(**config)
    return asdict(config)


def _make(name: str, config: Mapping[str, Any]) -> nn.Module:
    known = PReNetConfig(**normalise(config))
    return VRGNetDerainer(known) if name == "vrgnet" else PReNet(VARIANTS[name], known)


def _matches(variant: Variant, state: State) -> bool:
    """Whether the keys are this variant's, a few missing ones aside. ``prenet`` and ``prenet-lstm`` have the same."""
    if variant.variational:
        return f"{_PREFIX}convfinal.0.weight" in state
    if not {"conv0.0.weight", "res_conv1.0.weight", "conv.0.weight"} <= state.keys():
        return False
    if "conv_z.0.weight" in state:
        recurrence = "gru"
    else:
        recurrence = "lstm" if "conv_i.0.weight" in state else "none"
    first = state["conv0.0.weight"]
    sees_rain = first.ndim < 2 or first.shape[1] != 3
    recursive = not any(key.startswith("res_conv2.") for key in state)
    return (recurrence, sees_rain, recursive) == (variant.recurrence, variant.sees_rain, variant.recursive)


def _deduce(state: State, hints: Mapping[str, Any]) -> dict[str, Any]:
    return normalise(hints)


def _swap_colours(state: State) -> dict[str, Tensor]:
    """The state of the network that does the same to images of the opposite channel order. Images lie in threes in the
    first convolution's input and in the last ones' outputs."""
    swapped = dict(state)
    for key, tensor in state.items():
        name = key.removeprefix(_PREFIX)
        if name == "conv0.0.weight":
            swapped[key] = tensor.unflatten(1, (-1, 3)).flip(2).flatten(1, 2)
        elif name.startswith(("conv.0.", "convfinal.0.")):
            swapped[key] = tensor.unflatten(0, (-1, 3)).flip(1).flatten(0, 1)
    return swapped


def _probe(network: nn.Module) -> float:
    """Mean absolute change of a smooth grey ramp, which has no rain to take out. Published weights change it by 0.0045
    to 0.011 in the network that they were trained in, and by 0.023 to 0.91 in the one with the same keys."""
    ramp = torch.linspace(0.2, 0.8, _PROBE_SIDE).expand(1, 3, _PROBE_SIDE, _PROBE_SIDE)
    with torch.inference_mode():
        return float((network(ramp) - ramp).abs().mean())


def _halo(variant: Variant, config: Mapping[str, Any]) -> int:
    return reach(variant, config["stages"])


def _architecture(name: str, variant: Variant) -> Architecture:
    matches: Callable[[State], bool] = partial(_matches, variant)
    return Architecture(
        name=name,
        granularity=1,
        smallest_side=1,
        exact_tiling_halo=partial(_halo, variant),
        tile_overlap=0,
        presets={name: PReNetConfig()},
        protocol=_PROTOCOL,
        normalise=normalise,
        make=partial(_make, name),
        matches=matches,
        deduce=_deduce,
        compact=unchanged,
        expand=unchanged,
        swap_colours=_swap_colours,
        bytes_per_pixel=lambda config: 4 * _MAPS_ALIVE * WIDTH,
        probe=_probe,
    )


ARCHITECTURES = tuple(_architecture(name, variant) for name, variant in VARIANTS.items())

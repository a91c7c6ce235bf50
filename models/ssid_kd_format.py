"""How SSID-KD networks lie in files: what their keys and shapes tell, shared units, colour order.

Nothing here reads a file. A *state* is a mapping from key to tensor without ``module.`` prefixes. It is *full* when
every unit position of a dense connection is in it (as published: 2204 keys for 554 distinct tensors) and *compact*
when shared units are there once, as ``units.0``. Errors are ``ValueError`` with a message that a user can act on;
the caller adds the name of the file.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .ssid_kd import SSIDKD, SSIDKDConfig

_UNITS = "encoder_decoder_1.enLayer_1.units."
_SCALES: tuple[str, ...] = ("1", "2", "4")
_FIRST_UNIT = re.compile(r"(?P<dense>.+\.(?:en|de)Layer_(?P<scale>[124]))\.units\.0\.(?P<rest>.+)")
_UNIT_COPY = re.compile(r"(?P<dense>.+\.(?:en|de)Layer_[124])\.units\.[1-9]\d*\.(?P<rest>.+)")


def matches(state: Mapping[str, Tensor]) -> bool:
    """Whether the keys are an SSID-KD network's, a few missing ones aside; no other network is known to have these."""
    return any(key.startswith(_UNITS) for key in state)


def normalise(config: SSIDKDConfig | Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a configuration, as values that JSON can hold.

    Raises:
        ValueError: an unknown field, or a value that it cannot have.
    """
    if not isinstance(config, SSIDKDConfig):
        _check_names(config)
        for name in ("channels", "units"):
            value = config.get(name, [1, 1, 1])
            if not isinstance(value, list | tuple) or not all(type(v) is int for v in value):
                raise ValueError(f"{name} needs three whole numbers, got {value!r}")
        if type(config.get("shared_units", True)) is not bool:
            raise ValueError(f"shared_units must be true or false, got {config['shared_units']!r}")
        config = SSIDKDConfig(**config)
    fields = dataclasses.asdict(config)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def make(config: Mapping[str, Any]) -> SSIDKD:
    """The network of a configuration, with fresh weights. Raises ValueError as :func:`normalise` does."""
    return SSIDKD(SSIDKDConfig(**normalise(config)))


def deduce(state: Mapping[str, Tensor], hints: Mapping[str, Any]) -> dict[str, Any]:
    """The normalised configuration of the network that ``state`` belongs to.

    Widths, unit counts and block kinds follow from the weights; ``hints`` fills in what leaves no trace in them
    (``pyramid``, ``activation``) and ``shared_units``, which is True unless a hint says otherwise.

    Raises:
        ValueError: a key that the deduction needs is missing or has an impossible shape, a hint contradicts the
            weights, or the copies of a shared unit differ.
    """
    _check_names(hints)
    channels = [_shape(state, f"head.convLayer_{scale}.0.weight")[0] for scale in _SCALES]
    units = []
    for number, width in enumerate(channels, start=1):
        key = f"encoder_decoder_1.catLayer_{number}.0.weight"
        incoming = _shape(state, key)[1]
        # A dense connection has keys of its own for every unit, so a count beyond the keys is a lie that
        # would only cost time to disprove.
        if incoming == 0 or incoming % width or incoming // width > len(state):
            raise ValueError(
                f"{key} has {incoming} input channels, which no number of units of {width} channels makes"
            )
        units.append(incoming // width)
    kinds = [kind for kind, part in (("pffb", "0"), ("mffb", "1")) if _has_part(state, f"unit.{part}.")]
    if not kinds:
        raise ValueError(f"{_UNITS}0 holds neither a PFFB (unit.0) nor an MFFB (unit.1)")
    known: dict[str, Any] = {
        "channels": channels,
        "units": units,
        "blocks": "both" if len(kinds) == 2 else kinds[0],
        "pffb_entry": "resblock" if _has_part(state, "unit.0.entry.") else "none",
    }
    config = normalise({**known, **hints})
    for name, value in known.items():
        if config[name] != value:
            raise ValueError(
                f"{name} is {value!r} by the shapes of the weights, not {config[name]!r} as asked"
            )
    if config["shared_units"]:
        _check_copies(state)
    return config


def compact(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """``state`` with shared units once; unchanged where ``config`` does not share them."""
    shared = config["shared_units"]
    return {key: tensor for key, tensor in state.items() if not (shared and _UNIT_COPY.fullmatch(key))}


def expand(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A compact ``state`` with every unit position, as aliases of one tensor.

    A state that already holds some copies is returned as it is, so that a copy that it lacks stays missing.
    """
    full = dict(state)
    if not config["shared_units"] or any(_UNIT_COPY.fullmatch(key) for key in state):
        return full
    counts = dict(zip(_SCALES, config["units"], strict=True))
    for key, tensor in state.items():
        if found := _FIRST_UNIT.fullmatch(key):
            for position in range(1, counts[found["scale"]]):
                full[f"{found['dense']}.units.{position}.{found['rest']}"] = tensor
    return full


def swap_colours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the network that does the same to images of the opposite channel order (BGR to RGB and back).

    The image enters through the head's three convolutions and leaves, as rain, through the tail's.
    """
    swapped = dict(state)
    for scale in _SCALES:
        key = f"head.convLayer_{scale}.0.weight"
        swapped[key] = state[key].flip(1)
    for key in ("tail.catLayer.0.weight", "tail.catLayer.0.bias"):
        swapped[key] = state[key].flip(0)
    return swapped


def _check_names(config: Mapping[str, Any]) -> None:
    names = [field.name for field in dataclasses.fields(SSIDKDConfig)]
    if unknown := [str(name) for name in config if name not in names]:
        raise ValueError(f"unknown option {', '.join(unknown)}; there are {', '.join(names)}")


def _shape(state: Mapping[str, Tensor], key: str) -> torch.Size:
    if key not in state:
        raise ValueError(f"{key} is missing")
    shape = state[key].shape
    if len(shape) != 4 or shape[2:] != (3, 3) or shape[0] == 0:
        raise ValueError(f"{key} has shape {tuple(shape)}, which is not a 3x3 convolution's")
    return shape


def _has_part(state: Mapping[str, Tensor], part: str) -> bool:
    return any(key.startswith(f"{_UNITS}0.{part}") for key in state)


def _check_copies(state: Mapping[str, Tensor]) -> None:
    """Raise ValueError where positions that should hold one unit hold different weights.

    Copies of another shape than the first are left to the comparison with the network's own shapes.
    """
    differing = []
    for key, tensor in state.items():
        if found := _UNIT_COPY.fullmatch(key):
            first = state.get(f"{found['dense']}.units.0.{found['rest']}")
            if first is None or first is tensor or first.shape != tensor.shape:
                continue
            if not torch.equal(first, tensor):
                differing.append(key)
    if differing:
        raise ValueError(
            f"the units of a dense connection should be copies of one another, but {differing[0]} differs from "
            f"units.0 ({len(differing)} such tensors); where they were trained apart, say shared_units=false"
        )


def bytes_per_pixel(config: Mapping[str, Any]) -> int:
    """Activations that are alive at once, in bytes of fp32 for a full-resolution pixel.

    The maps of the encoder layers live until their decoder layers have used them; on top comes what one unit
    works in: the MFFB's 2C and 4C maps or the PFFB's fusion of 4C, with as much again for layout conversion.
    """
    maps = sum(
        2 * (u + 1) * c / area
        for c, u, area in zip(config["channels"], config["units"], (1, 4, 16), strict=True)
    )
    working = 14 * config["channels"][0]
    return math.ceil(4 * (maps + working))

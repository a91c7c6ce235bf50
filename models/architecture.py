"""The record in which a network says how files of it are recognised, and what a runtime must respect.

A further network is a file beside this one that ends in its record, and one line in :mod:`.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from torch import Tensor, nn

from .spec import ColourOrder

StateDict = Mapping[str, Tensor]
#: Fields of a configuration by name, as values that JSON can hold.
ConfigValues = Mapping[str, Any]


@dataclass(frozen=True)
class PublishedProtocol:
    """The way in which the authors' own code runs their networks, where figures of papers come from.

    colour_order, value_range: of the images that the published weights were trained on. A network here takes
        RGB in [0, 1] whatever they are.
    padding: what is done to a picture first: ``none``, or ``multiple of 32`` and the like.
    rounding: of the result to 8 bits, after clamping: ``nearest`` or ``truncated``.
    """

    colour_order: ColourOrder
    value_range: tuple[int, int] = (0, 1)
    padding: str = "none"
    rounding: Literal["nearest", "truncated"] = "truncated"


@dataclass(frozen=True)
class Architecture:
    """One kind of network. A network that :attr:`make` makes keeps its configuration object as ``network.config``.

    name, granularity, smallest_side, tile_overlap, picks_maxima: as in :class:`ModelSpec`.
    exact_tiling_halo: as there, of a normalised configuration; None for networks that look at the whole picture.
    presets: configuration objects by name.
    protocol: of the authors' own code.
    normalise: a configuration object or a mapping of some of its fields to all fields as JSON values
        (:func:`normalised`).
    make: a normalised configuration to a network with fresh weights, for RGB images.
    matches: whether a state dict is this architecture's, by its keys, even where a few of them are missing.
    deduce: the fields of a state's configuration, from its shapes and from hints for what these do not tell; the hints
        alone for a configuration that leaves no trace in the weights.
    compact, expand: drop and restore the keys that are aliases of one tensor under a configuration, if there are any.
    swap_colours: the state of the network for images of the opposite channel order (:func:`colour_swap`).
    bytes_per_pixel: memory that a frame's activations take in fp32, estimated from a normalised configuration.
    probe: how far a network of trained weights is from what it should do, for architectures whose keys another one
        has, too: the one with the smaller figure is meant.
    trained: whether trained weights of the authors were at hand to try it with; without, only the structure is known.

    ``normalise``, ``make`` and ``deduce`` raise ValueError with a message for the user.
    """

    name: str
    presets: Mapping[str, Any]
    protocol: PublishedProtocol
    normalise: Callable[[Any], dict[str, Any]]
    make: Callable[[ConfigValues], nn.Module]
    matches: Callable[[StateDict], bool]
    swap_colours: Callable[[StateDict], dict[str, Tensor]]
    bytes_per_pixel: Callable[[ConfigValues], int]
    granularity: int = 1
    smallest_side: int = 1
    exact_tiling_halo: Callable[[ConfigValues], int | None] = lambda config: None
    tile_overlap: int = 0
    deduce: Callable[[StateDict, ConfigValues], ConfigValues] = lambda state, hints: hints
    compact: Callable[[StateDict, ConfigValues], dict[str, Tensor]] = lambda state, config: dict(state)
    expand: Callable[[StateDict, ConfigValues], dict[str, Tensor]] = lambda state, config: dict(state)
    probe: Callable[[nn.Module], float] | None = None
    trained: bool = True
    picks_maxima: bool = False


def normalised(kind: type[Any], config: Any) -> dict[str, Any]:
    """Return all fields of a configuration, as values that JSON can hold.

    Args:
        kind: the dataclass of the network's configuration.
        config: an object of it, or a mapping of some of its fields.

    Raises:
        ValueError: an unknown field, or a value that it cannot have.
    """
    if not isinstance(config, kind):
        names = [field.name for field in fields(kind)]
        if unknown := [str(name) for name in config if name not in names]:
            known = f"there {'is' if len(names) == 1 else 'are'} {', '.join(names)}"
            if not names:
                known = f"{kind.__name__.removesuffix('Config')} has none"
            raise ValueError(f"unknown option {', '.join(unknown)}; {known}")
        config = kind(**config)
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()
    }


def check_whole(config: Any, **most: int) -> None:
    """Raise ValueError where a field of a configuration is no whole number from 1 to the most it may be."""
    for name, limit in most.items():
        value = getattr(config, name)
        if type(value) is not int or not 1 <= value <= limit:
            raise ValueError(f"{name} must be a whole number from 1 to {limit}, got {value!r}")


def colour_swap(inputs: Sequence[str], outputs: Sequence[str]) -> Callable[[StateDict], dict[str, Tensor]]:
    """Return ``swap_colours`` of a network whose convolutions ``inputs`` read one image each and no more, and whose
    convolutions ``outputs`` write one."""

    def swap(state: StateDict) -> dict[str, Tensor]:
        swapped = dict(state)
        for layer in inputs:
            swapped[f"{layer}.weight"] = state[f"{layer}.weight"].flip(1)
        for layer in outputs:
            for kind in ("weight", "bias"):
                swapped[f"{layer}.{kind}"] = state[f"{layer}.{kind}"].flip(0)
        return swapped

    return swap

"""What there is to say of one kind of network: how files of it are recognised, and what a runtime must respect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

State = Mapping[str, Tensor]
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Protocol:
    """How the authors' own code runs their networks, where figures of papers come from.

    colour_order, value_range: of the images that the published weights were trained on. A network here takes
        RGB in [0, 1] whatever they are.
    padding: what is done to a picture first: ``none``, or ``multiple of 32`` and the like.
    rounding: of the result to 8 bits, after clamping: ``nearest`` or ``truncated``.
    """

    colour_order: Literal["bgr", "rgb"]
    value_range: tuple[int, int]
    padding: str
    rounding: Literal["nearest", "truncated"]


@dataclass(frozen=True)
class Architecture:
    """One kind of network. A network that :attr:`make` makes keeps its configuration object as ``network.config``.

    name, granularity, smallest_side, tile_overlap, picks_maxima: as in :class:`ModelSpec`.
    exact_tiling_halo: as there, of a normalised configuration.
    presets: configuration objects by name.
    protocol: of the authors' own code.
    normalise: a configuration object or a mapping of some of its fields to all fields as JSON values.
    make: a normalised configuration to a network with fresh weights, for RGB images.
    matches: whether a state dict is this architecture's, by its keys.
    deduce: the normalised configuration of a state, with hints for what its shapes do not tell.
    compact, expand: drop and restore the keys that are aliases of one tensor under a configuration.
    swap_colours: the state of the network for images of the opposite channel order.
    bytes_per_pixel: memory that a frame's activations take in fp32, estimated from a normalised configuration.
    probe: how far a network of trained weights is from what it should do, for architectures whose keys another one
        has, too: the one with the smaller figure is meant.
    trained: whether trained weights of the authors were at hand to try it with; without, only the structure is known.

    ``normalise``, ``make`` and ``deduce`` raise ValueError with a message for the user.
    """

    name: str
    granularity: int
    smallest_side: int
    exact_tiling_halo: Callable[[Config], int | None]
    tile_overlap: int
    presets: Mapping[str, Any]
    protocol: Protocol
    normalise: Callable[[Any], dict[str, Any]]
    make: Callable[[Config], nn.Module]
    matches: Callable[[State], bool]
    deduce: Callable[[State, Config], dict[str, Any]]
    compact: Callable[[State, Config], dict[str, Tensor]]
    expand: Callable[[State, Config], dict[str, Tensor]]
    swap_colours: Callable[[State], dict[str, Tensor]]
    bytes_per_pixel: Callable[[Config], int]
    probe: Callable[[nn.Module], float] | None = None
    trained: bool = True
    picks_maxima: bool = False


def unchanged(state: State, config: Config) -> dict[str, Tensor]:
    """``compact`` and ``expand`` of networks that use no tensor under two names."""
    return dict(state)


def global_reach(config: Config) -> None:
    """``exact_tiling_halo`` of networks that look at the whole picture: None."""

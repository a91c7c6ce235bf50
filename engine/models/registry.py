"""The networks that derain-engine knows, and how a state dict finds its own.

A further architecture is one network file, one file on how its weights lie in files, and one entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn

from . import ssid_kd, ssid_kd_format
from .spec import ModelSpec

State = Mapping[str, Tensor]
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Architecture:
    """One kind of network. A network that :attr:`make` makes keeps its configuration object as ``network.config``.

    name, granularity, smallest_side, exact_tiling_halo, tile_overlap: as in :class:`ModelSpec`.
    presets: configuration objects by name.
    published_colour_order: channel order of the images that the authors' own files were trained on.
    normalise: a configuration object or a mapping of some of its fields to all fields as JSON values.
    make: a normalised configuration to a network with fresh weights, for RGB images.
    matches: whether a state dict is this architecture's, by its keys.
    deduce: the normalised configuration of a state, with hints for what its shapes do not tell.
    compact, expand: drop and restore the keys that are aliases of one tensor under a configuration.
    swap_colours: the state of the network for images of the opposite channel order.
    bytes_per_pixel: memory that a frame's activations take in fp32, estimated from a normalised configuration.

    ``normalise``, ``make`` and ``deduce`` raise ValueError with a message for the user.
    """

    name: str
    granularity: int
    smallest_side: int
    exact_tiling_halo: int | None
    tile_overlap: int
    presets: Mapping[str, Any]
    published_colour_order: Literal["bgr", "rgb"]
    normalise: Callable[[Any], dict[str, Any]]
    make: Callable[[Config], nn.Module]
    matches: Callable[[State], bool]
    deduce: Callable[[State, Config], dict[str, Any]]
    compact: Callable[[State, Config], dict[str, Tensor]]
    expand: Callable[[State, Config], dict[str, Tensor]]
    swap_colours: Callable[[State], dict[str, Tensor]]
    bytes_per_pixel: Callable[[Config], int]


_ARCHITECTURES = (
    Architecture(
        name="ssid-kd",
        granularity=ssid_kd.GRANULARITY,
        smallest_side=ssid_kd.SMALLEST_SIDE,
        exact_tiling_halo=None,
        tile_overlap=ssid_kd.TILE_OVERLAP,
        presets=MappingProxyType(ssid_kd.PRESETS),
        published_colour_order="bgr",
        normalise=ssid_kd_format.normalise,
        make=ssid_kd_format.make,
        matches=ssid_kd_format.matches,
        deduce=ssid_kd_format.deduce,
        compact=ssid_kd_format.compact,
        expand=ssid_kd_format.expand,
        swap_colours=ssid_kd_format.swap_colours,
        bytes_per_pixel=ssid_kd_format.bytes_per_pixel,
    ),
)


def architectures() -> dict[str, Architecture]:
    """All known architectures by name."""
    return {architecture.name: architecture for architecture in _ARCHITECTURES}


def recognise(state: State) -> Architecture | None:
    """The architecture whose keys ``state`` has, or None."""
    return next((architecture for architecture in _ARCHITECTURES if architecture.matches(state)), None)


def spec_of(architecture: str, config: Any) -> ModelSpec:
    """The spec of a registered architecture's configuration (an object, or a mapping of some of its fields).

    Raises:
        ValueError: an architecture that is not registered, or a configuration that it cannot have.
    """
    known = _get(architecture)
    normalised = known.normalise(config)
    return ModelSpec(
        architecture=known.name,
        config=normalised,
        granularity=known.granularity,
        smallest_side=known.smallest_side,
        exact_tiling_halo=known.exact_tiling_halo,
        tile_overlap=known.tile_overlap,
        bytes_per_pixel=known.bytes_per_pixel(normalised),
    )


def create(spec: ModelSpec) -> nn.Module:
    """A network of ``spec`` with fresh weights, for RGB images. Raises ValueError as :func:`spec_of` does."""
    return _get(spec.architecture).make(spec.config)


def _get(name: str) -> Architecture:
    known = architectures()
    if name not in known:
        raise ValueError(f"unknown architecture {name!r}; there are {', '.join(known)}")
    return known[name]

"""The networks that derain-engine knows, and how a state dict finds its own.

A further architecture is one network file, one file on how its weights lie in files, and one entry here.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from torch import nn

from . import nledn, prenet_format, rescan, semi_derain_gan, ssid_kd, ssid_kd_format
from .architecture import Architecture, Protocol, State, global_reach
from .spec import ModelSpec

_ARCHITECTURES = (
    Architecture(
        name="ssid-kd",
        granularity=ssid_kd.GRANULARITY,
        smallest_side=ssid_kd.SMALLEST_SIDE,
        exact_tiling_halo=global_reach,
        tile_overlap=ssid_kd.TILE_OVERLAP,
        presets=MappingProxyType(ssid_kd.PRESETS),
        protocol=Protocol(colour_order="bgr", value_range=(0, 1), padding="none", rounding="truncated"),
        normalise=ssid_kd_format.normalise,
        make=ssid_kd_format.make,
        matches=ssid_kd_format.matches,
        deduce=ssid_kd_format.deduce,
        compact=ssid_kd_format.compact,
        expand=ssid_kd_format.expand,
        swap_colours=ssid_kd_format.swap_colours,
        bytes_per_pixel=ssid_kd_format.bytes_per_pixel,
    ),
    *prenet_format.ARCHITECTURES,
    nledn.ARCHITECTURE,
    rescan.ARCHITECTURE,
    semi_derain_gan.ARCHITECTURE,
)


def architectures() -> dict[str, Architecture]:
    """All known architectures by name."""
    return {architecture.name: architecture for architecture in _ARCHITECTURES}


def recognise(state: State) -> list[Architecture]:
    """The architectures whose keys ``state`` has: mostly one or none, more where they differ in what they compute
    alone, which their probes tell apart."""
    return [architecture for architecture in _ARCHITECTURES if architecture.matches(state)]


def architecture_of(name: str) -> Architecture:
    """The architecture of that name. Raises ValueError where there is none."""
    known = architectures()
    if name not in known:
        raise ValueError(f"unknown architecture {name!r}; there are {', '.join(known)}")
    return known[name]


def spec_of(architecture: str, config: Any) -> ModelSpec:
    """The spec of a registered architecture's configuration (an object, or a mapping of some of its fields).

    Raises:
        ValueError: an architecture that is not registered, or a configuration that it cannot have.
    """
    known = architecture_of(architecture)
    normalised = known.normalise(config)
    return ModelSpec(
        architecture=known.name,
        config=normalised,
        granularity=known.granularity,
        smallest_side=known.smallest_side,
        exact_tiling_halo=known.exact_tiling_halo(normalised),
        tile_overlap=known.tile_overlap,
        bytes_per_pixel=known.bytes_per_pixel(normalised),
        picks_maxima=known.picks_maxima,
    )


def create(spec: ModelSpec) -> nn.Module:
    """A network of ``spec`` with fresh weights, for RGB images. Raises ValueError as :func:`spec_of` does."""
    return architecture_of(spec.architecture).make(spec.config)

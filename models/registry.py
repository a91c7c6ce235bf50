"""The networks that derain-engine knows, each declared in its own file, and how a state dict finds its own."""

from __future__ import annotations

from typing import Any

from torch import nn

from . import nledn, prenet, rescan, semi_derain_gan, ssid_kd
from .architecture import Architecture, StateDict
from .spec import ModelSpec

_ARCHITECTURES = (
    ssid_kd.ARCHITECTURE,
    *prenet.ARCHITECTURES,
    nledn.ARCHITECTURE,
    rescan.ARCHITECTURE,
    semi_derain_gan.ARCHITECTURE,
)


def architectures() -> dict[str, Architecture]:
    """Return all known architectures by name."""
    return {architecture.name: architecture for architecture in _ARCHITECTURES}


def recognise(state: StateDict) -> list[Architecture]:
    """Return the architectures whose keys ``state`` has: mostly one or none, more where they differ in what they
    compute alone, which their probes tell apart."""
    return [architecture for architecture in _ARCHITECTURES if architecture.matches(state)]


def architecture_of(name: str) -> Architecture:
    """Return the architecture of that name.

    Raises:
        ValueError: there is none.
    """
    known = architectures()
    if name not in known:
        raise ValueError(f"unknown architecture {name!r}; there are {', '.join(known)}")
    return known[name]


def spec_of(architecture: str, config: Any) -> ModelSpec:
    """Return the spec of a registered architecture's configuration (an object, or a mapping of some of its fields).

    Raises:
        ValueError: an architecture that is not registered, or a configuration that it cannot have.
    """
    known = architecture_of(architecture)
    config = known.normalise(config)
    return ModelSpec(
        architecture=known.name,
        config=config,
        granularity=known.granularity,
        smallest_side=known.smallest_side,
        exact_tiling_halo=known.exact_tiling_halo(config),
        tile_overlap=known.tile_overlap,
        bytes_per_pixel=known.bytes_per_pixel(config),
        picks_maxima=known.picks_maxima,
    )


def create(spec: ModelSpec) -> nn.Module:
    """Make a network of ``spec`` with fresh weights, for RGB images.

    Raises:
        ValueError: as :func:`spec_of` says.
    """
    known = architecture_of(spec.architecture)
    return known.make(known.normalise(spec.config))

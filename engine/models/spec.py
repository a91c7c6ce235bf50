"""What the house needs to know about a network without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelSpec:
    """Which network, and what a runtime must respect when it feeds it.

    architecture: registered name, such as ``"ssid-kd"``.
    config: constructor arguments, values that JSON can hold.
    granularity: both sides of a frame are padded to a multiple of this, in pixels.
    smallest_side: both sides of a frame are padded to at least this, in pixels.
    exact_tiling_halo: overlap in pixels from which tiling equals the whole frame, None where the receptive
        field is global and tiling is an approximation.
    """

    architecture: str
    config: Mapping[str, Any] = field(default_factory=dict)
    granularity: int = 1
    smallest_side: int = 1
    exact_tiling_halo: int | None = None

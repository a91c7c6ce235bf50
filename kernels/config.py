"""The cut of a kernel's launch: pixels of a program, inner block, warps, pipeline stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class LaunchConfig:
    """The cut of a launch.

    tile_h, tile_w: output pixels of a program. block_k: taps times channels of one step of the inner loop. All three
    are powers of two. warps: of a program. stages: loads in flight of the software pipeline.
    """

    tile_h: int = 8
    tile_w: int = 16
    block_k: int = 32
    warps: int = 4
    stages: int = 3


#: A kernel's name, its channels and the level of the map that its tiles cover, to a configuration.
Configure: TypeAlias = Callable[[str, int, int], LaunchConfig]

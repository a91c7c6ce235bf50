"""How a kernel is cut: pixels of a program, inner block, warps, pipeline stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Config:
    """tile_h, tile_w: output pixels of a program. block_k: taps times channels of one step of the inner loop.
    All three are powers of two. warps: of a program. stages: loads in flight of the software pipeline."""

    tile_h: int = 8
    tile_w: int = 16
    block_k: int = 32
    warps: int = 4
    stages: int = 3


#: A kernel's name, its channels and the level of the map that its tiles cover, to a configuration.
Configure: TypeAlias = Callable[[str, int, int], Config]


def heuristic(kernel: str, channels: int, level: int = 0) -> Config:
    """A configuration that spills nowhere, for GPUs that were not tuned for: the same at every level."""
    if kernel == "pffb.pyramid":
        return Config(16, 16, 32, 4 if channels < 32 else 8, 2)
    if kernel == "mffb.stage2":
        if channels > 32:
            # In blocks of 32, 48 channels take all 255 registers on sm_80 and spill on sm_120; in these they take 178.
            return Config(block_k=16, warps=8, stages=4)
        # Of three stages, 32 channels spill on sm_100.
        return Config(warps=8, stages=2) if channels == 32 else Config()
    if kernel == "recurrent.lstm":
        # Sums of four gates.
        return Config(warps=8)
    if kernel.startswith(("pixels.", "pixels_nv12.")):
        return Config(8, 32, 4, 4, 1)
    if kernel in ("pool.maximum", "resample.bilinear"):
        return Config(8, 16, 16, 4, 1)
    return Config()

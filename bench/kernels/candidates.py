"""Configurations that are worth compiling for a kernel: powers of two whose sums and tiles fit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from ...kernels.config import Config, heuristic
from ...kernels.launch import Call

#: Output pixels of a program, as height x width.
TILES = ((8, 8), (4, 16), (8, 16), (16, 16), (8, 32))
BLOCKS = (16, 32, 64)
WARPS = (4, 8)
STAGES = (2, 3, 4)
#: Tiles of the kernels that are not a product over taps: the pyramid's squares, and resizing's, which reads each of its
#: pixels once and profits from wide rows.
SQUARES = ((16, 16), (32, 32))
ROWS = ((4, 16), (4, 32), (8, 16), (8, 32), (2, 64))
#: fp32 sums that a thread keeps at most. It has 255 registers, for addresses and operands too.
MOST_SUMS = 128
#: Rows of a matrix instruction: every warp has at least one.
WARP_ROWS = 16


def candidates(calls: Sequence[Call], shared: int, itemsize: int = 2) -> list[Config]:
    """The configurations to try for launches that get one and the same: those that are in use first.

    Args:
        calls: the launches, as they are cut now.
        shared: bytes of shared memory that a block may have.
        itemsize: bytes of an element of the maps.
    """
    kernel, channels = calls[0].kernel, int(calls[0].constants["C"])
    if kernel == "pffb.pyramid":
        found = [Config(*tile, 32, warps, 2) for tile, warps in product(SQUARES, (2, 4, 8, 16))]
        columns = max(_columns(call) for call in calls)
        found = [c for c in found if _sums(c, columns) <= MOST_SUMS]
    elif kernel in ("pool.maximum", "resample.bilinear"):
        blocks = [block for block in (4, 8, 16, 32, 64) if block < 2 * channels]
        found = [Config(*tile, block, warps, 1) for tile, block, warps in product(ROWS, blocks, (2, 4, 8))]
    else:
        columns = max(_columns(call) for call in calls)
        found = [
            config
            for tile, block, warps, stages in product(TILES, BLOCKS, WARPS, STAGES)
            if _fits(config := Config(*tile, block, warps, stages), columns, shared, itemsize)
        ]
    used = list(dict.fromkeys(call.config for call in calls))
    # What lowering takes for the cost model's choice and not for a measured one could not be stored.
    meant = {heuristic(kernel, channels)} if kernel == "chain.chain" else set()
    return [*used, *(config for config in found if config not in used and config not in meant)]


def _columns(call: Call) -> int:
    """Channels that a program keeps sums of for every pixel of its tile."""
    constants = call.constants
    if call.kernel == "recurrent.lstm":
        return 4 * int(constants["C"])
    columns = int(constants["N0"]) + int(constants["N1"])
    if call.kernel.startswith("mffb."):
        return 2 * columns
    return max(columns, int(constants["K"])) if call.kernel == "chain.chain" else columns


def _sums(config: Config, columns: int) -> float:
    return config.tile_h * config.tile_w * columns / (32 * config.warps)


def _fits(config: Config, columns: int, shared: int, itemsize: int) -> bool:
    pixels = config.tile_h * config.tile_w
    staged = config.stages * config.block_k * (pixels + columns) * itemsize
    return pixels >= WARP_ROWS * config.warps and _sums(config, columns) <= MOST_SUMS and staged <= shared

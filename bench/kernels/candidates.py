"""Configurations that are worth compiling for a kernel: powers of two whose sums and tiles fit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from ...kernels.launch import Call, LaunchConfig
from ...kernels.record import find

#: Output pixels of a program, as height x width.
TILES = ((8, 8), (4, 16), (8, 16), (16, 16), (8, 32))
BLOCKS = (16, 32, 64)
WARPS = (4, 8)
STAGES = (2, 3, 4)
#: Tiles of the kernels that multiply no matrices: they read each of their pixels once and profit from wide rows.
ROWS = ((4, 16), (4, 32), (8, 16), (8, 32), (2, 64))
#: fp32 sums that a thread keeps at most. It has 255 registers, for addresses and operands too.
MOST_SUMS = 128
#: Rows of a matrix instruction: every warp has at least one.
WARP_ROWS = 16


def candidates(calls: Sequence[Call], shared: int, itemsize: int = 2) -> list[LaunchConfig]:
    """Return the configurations to try for launches that get one and the same: those that are in use first.

    Args:
        calls: the launches, as they are cut now.
        shared: bytes of shared memory that a block may have.
        itemsize: bytes of an element of the maps.
    """
    kernel, channels = find(calls[0].kernel), int(calls[0].constants["C"])
    if not kernel.multiplies:
        blocks = [block for block in (4, 8, 16, 32, 64) if block < 2 * channels]
        cuts = product(ROWS, blocks, (2, 4, 8))
        found = [LaunchConfig(*tile, block, warps, 1) for tile, block, warps in cuts]
    else:
        columns = max(kernel.columns(call.constants) for call in calls)
        if kernel.tiles:
            cuts = product(kernel.tiles, (2, 4, 8, 16))
            found = [LaunchConfig(*tile, 32, warps, 2) for tile, warps in cuts]
            found = [config for config in found if _sums(config, columns) <= MOST_SUMS]
        else:
            found = [
                config
                for tile, block, warps, stages in product(TILES, BLOCKS, WARPS, STAGES)
                if _fits(config := LaunchConfig(*tile, block, warps, stages), columns, shared, itemsize)
            ]
    used = list(dict.fromkeys(call.config for call in calls))
    # What lowering takes for the cost model's choice and not for a measured one could not be stored.
    meant = {kernel.config(channels)} if kernel.modelled else set()
    return [*used, *(config for config in found if config not in used and config not in meant)]


def _sums(config: LaunchConfig, columns: int) -> float:
    return config.tile_h * config.tile_w * columns / (32 * config.warps)


def _fits(config: LaunchConfig, columns: int, shared: int, itemsize: int) -> bool:
    pixels = config.tile_h * config.tile_w
    staged = config.stages * config.block_k * (pixels + columns) * itemsize
    return pixels >= WARP_ROWS * config.warps and _sums(config, columns) <= MOST_SUMS and staged <= shared

"""The number of convolutions of a PFFB's scale that one launch takes: a small model of a launch's time on a large GPU.

Chaining saves launches and traffic, and pays with the halo that every tile makes again. The constants stand for an
H100-class GPU and are round: they only have to put the cut at the right map size. Configurations that were measured
replace the model's tile, not its lengths: they were measured in launches of these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from ..kernels.chain import CHAIN, MOST_ROWS
from ..kernels.gemm import power_of_two
from ..kernels.launch import LaunchConfig

#: Seconds that a launch costs inside a CUDA graph.
LAUNCH = 2.0e-6
#: Multiprocessors, and the programs that one of them runs at once.
PROCESSORS, RESIDENT = 132, 2
#: FLOP/s that a program of a small implicit GEMM reaches, and its seconds before the first product is there.
RATE, LATENCY = 0.6e12, 0.7e-6
#: Bytes a second from memory.
BANDWIDTH = 2.5e12
#: Ways of cutting a scale's four convolutions, and tiles to make them in.
LENGTHS: tuple[tuple[int, ...], ...] = ((4,), (2, 2), (1, 1, 1, 1))
TILES = ((8, 8), (8, 16))
#: Most launches of a PFFB, its pyramid among them.
MOST_LAUNCHES = 8
#: Picture that launches are cut for where nobody names one.
NOMINAL = (512, 512)


@dataclass(frozen=True)
class ChainCut:
    """The cut of one scale.

    lengths: of the launches. config: of all. seconds: that the model expects of all.
    """

    lengths: tuple[int, ...]
    config: LaunchConfig
    seconds: float


def launch_seconds(
    height: int, width: int, channels: int, length: int, config: LaunchConfig, itemsize: int
) -> float:
    """Return the seconds of a chain of ``length`` convolutions over height x width pixels."""
    programs = -(-height // config.tile_h) * -(-width // config.tile_w)
    waves = -(-programs // (PROCESSORS * RESIDENT))
    regions = [(config.tile_h + 2 * halo) * (config.tile_w + 2 * halo) for halo in range(length)]
    block = min(MOST_ROWS, power_of_two(max(regions)))
    rows = sum(-(-region // block) * block for region in regions)
    program = length * LATENCY + rows * 18 * channels**2 / RATE
    memory = 3 * height * width * channels * itemsize / BANDWIDTH
    return LAUNCH + max(waves * program, memory)


@lru_cache
def best_cuts(height: int, width: int, channels: int, itemsize: int = 2) -> dict[int, ChainCut]:
    """Return, by scale, the cheapest cuts of a PFFB over height x width pixels within MOST_LAUNCHES launches."""
    choices = []
    for scale in (8, 4, 2, 1):
        h, w = max(1, height // scale), max(1, width // scale)
        cuts = []
        for lengths in LENGTHS:
            for tile_h, tile_w in TILES:
                config = replace(CHAIN.config(channels), tile_h=tile_h, tile_w=tile_w)
                seconds = sum(launch_seconds(h, w, channels, n, config, itemsize) for n in lengths)
                cuts.append((scale, ChainCut(lengths, config, seconds)))
        choices.append(cuts)
    allowed = (found for found in product(*choices) if sum(len(c.lengths) for _, c in found) < MOST_LAUNCHES)
    return dict(min(allowed, key=lambda found: sum(cut.seconds for _, cut in found)))

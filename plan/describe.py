"""A plan in words: every launch with its work, its traffic and how it is cut."""

from __future__ import annotations

from .arena import arrange
from .program import GRANULARITY, ITEMSIZE, Plan, Step


def describe(plan: Plan, height: int, width: int) -> str:
    """Return a table of the launches for a picture of height x width: GFLOP, MB moved to and from memory with every map
    and weight touched once, FLOP a byte, programs, tile; and the totals with the memory that the plan takes."""
    area = height * width / GRANULARITY**2
    head = f"{'step':58}{'kernel':18}{'size':>10}{'GFLOP':>9}{'MB':>9}{'FLOP/B':>8}{'programs':>9}  tile, convolutions"
    lines = [head]
    flops = moved = 0.0
    for step in plan.steps:
        work, traffic = step.flops * area, step.map_bytes * area + step.weight_bytes
        flops, moved = flops + work, moved + traffic
        h, w = (plan.size(size, height, width) for size in step.sizes[:2])
        programs = step.call.grid(h, w)
        lines.append(
            f"{_short(step.name):58}{step.call.kernel:18}{f'{w}x{h}':>10}{work / 1e9:9.3f}{traffic / 1e6:9.2f}"
            f"{work / traffic:8.0f}{programs[0] * programs[1]:9d}  {_cut(step)}"
        )
    arena = arrange(plan, height, width)
    lines.append(
        f"{len(plan.steps)} launches, {flops / 1e9:.1f} GFLOP, {moved / 1e6:.0f} MB moved; "
        f"{len(plan.weights) / 1e6:.1f} MB of {plan.dtype} weights, {arena.size / 1e6:.0f} MB of maps "
        f"({arena.size / max(1, arena.live):.2f} of the largest live set), {ITEMSIZE[plan.dtype]} bytes an element"
    )
    return "\n".join(lines)


def _short(name: str) -> str:
    return name.replace("encoder_decoder_", "ed")


def _cut(step: Step) -> str:
    config, length = step.call.config, step.call.constants.get("LENGTH")
    tile = f"{config.tile_w}x{config.tile_h}"
    return tile if length is None else f"{tile}, {length} in a launch"

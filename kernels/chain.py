"""A run of 3x3 convolutions of a PFFB in one launch, with the fusions before and after it.

    act(conv3x3( ... act(conv3x3(source))))                        LENGTH of them, C -> C

A program makes its tile with the halo that the following convolutions need (2 pixels for each), through scratch memory
of its own that stays in the cache: on small maps that costs less than a launch for every convolution. The first one
may read act(source + up(t)) instead of a map, the last one end in products of its map (see pffb.py). All maps are H x
W x C, or 2C where they hold two shares, NHWC.
"""

# Triton's compile-time arguments are declared as constexpr and given as numbers.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .gemm import (
    inner_taps,
    leaky,
    multiply,
    padded_k,
    patches,
    power_of_two,
    split_columns,
    tile_corner,
    with_bias,
    zeros,
)
from .launch import Call, LaunchConfig
from .plain import Operands, Plain
from .record import Kernel

SLOPE = 0.2
#: What the first convolution of a launch reads, and what the last one writes.
READS = {"map": 0, "fusion": 1}
WRITES = {"map": 0, "shares": 1, "sum": 2}
#: Most pixels that a program multiplies at once.
MOST_ROWS = 128


@triton.jit
def _above(y, size, DIVISOR: tl.constexpr, EXACT: tl.constexpr):
    """Return the row (or column) of the map DIVISOR times smaller that nearest upsampling shows at y."""
    if EXACT:
        return y // DIVISOR
    else:
        return y * (size // DIVISOR) // size


@triton.jit
def _fused_patches(
    q,
    shares,
    y,
    column,
    dy,
    dx,
    channel,
    live,
    H,
    W,
    C: tl.constexpr,
    SLOPE: tl.constexpr,
    EXACT: tl.constexpr,
):
    """Return ``patches`` of act(q + up(t)), t the first C channels of the coarser map's shares."""
    ys = y[:, None] + dy[None, :]
    xs = column[:, None] + dx[None, :]
    inside = (ys >= 0) & (ys < H) & (xs >= 0) & (xs < W) & live[None, :]
    fine = tl.load(q + (ys * W + xs) * C + channel[None, :], mask=inside, other=0.0)
    at = _above(ys, H, 2, EXACT) * (W // 2) + _above(xs, W, 2, EXACT)
    coarse = tl.load(shares + at * (2 * C) + channel[None, :], mask=inside, other=0.0)
    # Zero outside the picture stays zero.
    return leaky(fine.to(tl.float32) + coarse.to(tl.float32), SLOPE).to(q.dtype.element_ty)


@triton.jit
def _plus_shares(
    acc, s2, s4, s8, x, y, column, inside, H, W,
    FIRST: tl.constexpr, COUNT: tl.constexpr, C: tl.constexpr, SLOPE: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Return act(acc + up(u2) + up(u4) + up(u8)) + x; u are the last C channels of the shares."""
    n = (FIRST + tl.arange(0, COUNT))[None, :]
    at = _above(y, H, 2, EXACT) * (W // 2) + _above(column, W, 2, EXACT)
    acc += tl.load(s2 + at[:, None] * (2 * C) + C + n, mask=inside, other=0.0)
    at = _above(y, H, 4, EXACT) * (W // 4) + _above(column, W, 4, EXACT)
    acc += tl.load(s4 + at[:, None] * (2 * C) + C + n, mask=inside, other=0.0)
    at = _above(y, H, 8, EXACT) * (W // 8) + _above(column, W, 8, EXACT)
    acc += tl.load(s8 + at[:, None] * (2 * C) + C + n, mask=inside, other=0.0)
    return leaky(acc, SLOPE) + tl.load(x + (y * W + column)[:, None] * C + n, mask=inside, other=0.0)


@triton.jit
def _store(to, part0, part1, inside, N0: tl.constexpr, N1: tl.constexpr):
    kind = to.dtype.element_ty
    tl.store(to + tl.arange(0, N0)[None, :], part0.to(kind), mask=inside)
    if N1 > 0:
        tl.store(to + (N0 + tl.arange(0, N1))[None, :], part1.to(kind), mask=inside)


@triton.jit
def _step(
    source, shares, weights, bias, scratch, ending, ending_bias, s2, s4, s8, x, out, top, left, H, W,
    STEP: tl.constexpr, C: tl.constexpr, LENGTH: tl.constexpr, READ: tl.constexpr, WRITE: tl.constexpr,
    EXACT: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr,
    SLOPE: tl.constexpr, BLOCK_M: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Compute one convolution of a chain over the tile and the halo that the convolutions after it need."""
    LAST: tl.constexpr = STEP == LENGTH - 1
    HALO: tl.constexpr = LENGTH - 1 - STEP
    WIDE: tl.constexpr = TILE_W + 2 * HALO
    AREA: tl.constexpr = (TILE_H + 2 * HALO) * WIDE
    ROOM: tl.constexpr = (TILE_H + 2 * LENGTH - 2) * (TILE_W + 2 * LENGTH - 2) * C
    # An ending multiplies by this map: the matrix units want a power of two of its channels.
    P0: tl.constexpr = K if LAST and WRITE > 0 else N0
    P1: tl.constexpr = 0 if LAST and WRITE > 0 else N1  # pyright: ignore[reportAssignmentType]
    kind = out.dtype.element_ty
    for start in range(0, AREA, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        y, column = top - HALO + m // WIDE, left - HALO + m % WIDE
        a0, a1 = zeros(BLOCK_M, P0, P1)
        for first in range(0, 9 * C, BLOCK_K):
            k = first + tl.arange(0, BLOCK_K)
            dy, dx = inner_taps(k // C)
            channel, live = k % C, k < 9 * C
            if STEP > 0:
                # The region of the step before is a pixel wider on every side.
                ys, xs = y[:, None] + dy[None, :], column[:, None] + dx[None, :]
                inside = (ys >= 0) & (ys < H) & (xs >= 0) & (xs < W) & live[None, :] & (m < AREA)[:, None]
                at = (ys - top + HALO + 1) * (WIDE + 2) + xs - left + HALO + 1
                before = scratch + (STEP - 1) % 2 * ROOM
                a = tl.load(before + at * C + channel[None, :], mask=inside, other=0.0)
            elif READ == 1:
                a = _fused_patches(source, shares, y, column, dy, dx, channel, live, H, W, C, SLOPE, EXACT)
            else:
                a = patches(source, y, column, dy, dx, channel, live, H, W, C)
            a0, a1 = multiply(a, weights + STEP * ROWS * K, k, a0, a1, 0, K, P0, P1)
        a0 = leaky(with_bias(a0, bias, STEP * K, P0), SLOPE)
        inside = ((y >= 0) & (y < H) & (column >= 0) & (column < W) & (m < AREA))[:, None]
        pixel = (y * W + column)[:, None]
        if LAST and WRITE == 1:
            c0, c1 = zeros(BLOCK_M, N0, N1)
            c0, c1 = multiply(a0.to(kind), ending, tl.arange(0, K), c0, c1, 0, 2 * C, N0, N1)
            d0, d1 = zeros(BLOCK_M, N0, N1)
            d0, d1 = multiply(a0.to(kind), ending, tl.arange(0, K), d0, d1, C, 2 * C, N0, N1)
            to = out + pixel * (2 * C)
            _store(to, c0, c1, inside, N0, N1)
            _store(to + C, d0, d1, inside, N0, N1)
        elif LAST and WRITE == 2:
            c0, c1 = zeros(BLOCK_M, N0, N1)
            c0, c1 = multiply(a0.to(kind), ending, tl.arange(0, K), c0, c1, 0, C, N0, N1)
            c0 = with_bias(c0, ending_bias, 0, N0)
            c0 = _plus_shares(c0, s2, s4, s8, x, y, column, inside, H, W, 0, N0, C, SLOPE, EXACT)
            if N1 > 0:
                c1 = with_bias(c1, ending_bias, N0, N1)
                c1 = _plus_shares(c1, s2, s4, s8, x, y, column, inside, H, W, N0, N1, C, SLOPE, EXACT)
            _store(out + pixel * C, c0, c1, inside, N0, N1)
        else:
            if N1 > 0:
                a1 = leaky(with_bias(a1, bias, STEP * K + N0, N1), SLOPE)
            if LAST:
                _store(out + pixel * C, a0, a1, inside, N0, N1)
            else:
                _store(scratch + STEP % 2 * ROOM + m[:, None] * C, a0, a1, inside, N0, N1)


@triton.jit(do_not_specialize=["H", "W"])
def chain_kernel(
    source, shares, weights, bias, scratch, ending, ending_bias, s2, s4, s8, x, out, H, W,
    C: tl.constexpr, LENGTH: tl.constexpr, READ: tl.constexpr, WRITE: tl.constexpr, EXACT: tl.constexpr,
    N0: tl.constexpr, N1: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, SLOPE: tl.constexpr,
    BLOCK_M: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    top, left = tile_corner(W, TILE_H, TILE_W)
    scratch += tl.program_id(0).to(tl.int64) * (2 * (TILE_H + 2 * LENGTH - 2) * (TILE_W + 2 * LENGTH - 2) * C)
    for step in tl.static_range(LENGTH):  # pyright: ignore[reportGeneralTypeIssues]
        _step(
            source, shares, weights, bias, scratch, ending, ending_bias, s2, s4, s8, x, out, top, left, H, W,
            step, C, LENGTH, READ, WRITE, EXACT, N0, N1, K, ROWS, SLOPE, BLOCK_M, TILE_H, TILE_W, BLOCK_K,
        )  # fmt: skip
        if step < LENGTH - 1:
            # What this program wrote to its scratch memory is read by its other threads next.
            tl.debug_barrier()


def chain_call(
    channels: int, length: int, reads: str, writes: str, exact: bool, config: LaunchConfig
) -> Call:
    """Return a launch; pointers that it does not use may be any.

    Args:
        length: convolutions in this launch.
        reads: ``map`` (H x W x C) or ``fusion`` (act(source + up(shares))).
        writes: ``map``; ``shares`` (H x W x 2C: for the next finer fusion, for fusion_all); ``sum`` (y).
        exact: H and W are multiples of 8, so that nearest upsampling is a shift.
    """
    n0, n1 = split_columns(channels)
    constants = {"C": channels, "LENGTH": length, "READ": READS[reads], "WRITE": WRITES[writes]}
    constants |= {"EXACT": exact, "N0": n0, "N1": n1, "K": power_of_two(channels)}
    constants |= {"ROWS": padded_k(9 * channels), "SLOPE": SLOPE}
    region = (config.tile_h + 2 * length - 2) * (config.tile_w + 2 * length - 2)
    constants |= {"BLOCK_M": min(MOST_ROWS, power_of_two(region))}
    return Call(CHAIN.name, constants, config)


def scratch_elements(call: Call, height: int, width: int) -> int:
    """Return the elements of the scratch memory of a chain over H x W pixels."""
    config, more = call.config, 2 * int(call.constants["LENGTH"]) - 2
    room = (config.tile_h + more) * (config.tile_w + more) * int(call.constants["C"])
    return call.grid(height, width)[0] * 2 * room if more else 0


def _recut(call: Call, config: LaunchConfig) -> Call:
    constants = call.constants
    reads, writes = (
        next(name for name, number in names.items() if number == constants[constant])
        for names, constant in ((READS, "READ"), (WRITES, "WRITE"))
    )
    channels, length = int(constants["C"]), int(constants["LENGTH"])
    return chain_call(channels, length, reads, writes, bool(constants["EXACT"]), config)


def parts(scale: int, lengths: Sequence[int]) -> Iterator[tuple[int, int, str, str]]:
    """Yield (first convolution, how many, what is read, what is written) of the launches of a PFFB's scale."""
    first = 0
    for length in lengths:
        last = first + length == 4
        written = "map" if not last else "sum" if scale == 1 else "shares"
        yield first, length, "fusion" if first == 0 and scale < 8 else "map", written
        first += length


def _chain_plain(given: Operands) -> Plain:
    channels, length, reads, writes = (given[name] for name in ("C", "LENGTH", "READ", "WRITE"))
    size, slope, rounded = (given["H"], given["W"]), given.real("SLOPE"), given.round

    def up(shares: Tensor, half: int) -> Tensor:
        return F.interpolate(shares[:, half * channels :][:, :channels], size=size, mode="nearest")

    def run(image: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        following = iter(rest)
        if reads == READS["fusion"]:
            image = rounded(F.leaky_relu(image + up(next(following), 0), slope))
        for _ in range(length):
            image = F.conv2d(image, next(following), next(following), padding=1)
            image = rounded(F.leaky_relu(image, slope))
        if writes == WRITES["shares"]:
            image = F.conv2d(image, next(following))
        elif writes == WRITES["sum"]:
            image = F.conv2d(image, next(following), next(following))
            for _ in range(3):
                image = image + up(next(following), 1)
            image = F.leaky_relu(image, slope) + next(following)
        return (image,)

    def shares(name: str, by: int) -> Tensor:
        return given.map(name, 2 * channels, size[0] // by, size[1] // by)

    arguments = [given.map("source", channels)]
    arguments += [shares("shares", 2)] if reads == READS["fusion"] else []
    columns = given["K"]
    rows, biases = given.weight("weights").view(-1, columns), given.weight("bias")
    for i in range(length):
        weight = given.conv_weight(rows[i * given["ROWS"] :], channels, channels, 3)
        arguments += [weight, biases[i * columns :][:channels]]
    if writes == WRITES["shares"]:
        ending = given.weight("ending").view(-1, 2 * channels)
        arguments.append(given.conv_weight(ending, channels, 2 * channels, 1))
    elif writes == WRITES["sum"]:
        ending = given.weight("ending").view(-1, channels)
        arguments.append(given.conv_weight(ending, channels, channels, 1))
        arguments.append(given.weight("ending_bias")[:channels])
        arguments += [shares(name, by) for name, by in (("s2", 2), ("s4", 4), ("s8", 8))]
        arguments.append(given.map("x", channels))
    return run, arguments


CHAIN = Kernel(
    "chain.chain", chain_kernel, reads="source shares s2 s4 s8 x", weights="weights ending",
    biases="bias ending_bias", writes="out", scratch="scratch",
    constants="C LENGTH READ WRITE EXACT N0 N1 K ROWS SLOPE BLOCK_M", plain=_chain_plain,
    columns=lambda constants: max(int(constants["N0"]) + int(constants["N1"]), int(constants["K"])), modelled=True,
    recut=_recut, scratch_elements=scratch_elements,
)  # fmt: skip

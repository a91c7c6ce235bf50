"""Large frames in overlapping tiles of one shape, blended without seams.

Along each axis the tiles' origins are multiples of the network's granularity (its pooling grids keep their
phase), spread evenly so that every pair of neighbours shares at least the overlap, the last tile ending where
the frame ends. A tile's weight rises as a squared sine from its interior edges and is one at the frame's own
edges; per axis the weights of all tiles are normalised to sum to one, so their products do in the plane, and
a network that looks at single pixels gives what it gives on the whole frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..base.errors import InputError
from .frames import quantise, to_float


@dataclass(frozen=True)
class Axis:
    """The tiles along one axis, in pixels.

    size: of every tile. origins: where they start, ascending.
    weights: float32, number of tiles x size; at every pixel of the axis they sum to one.
    """

    size: int
    origins: tuple[int, ...]
    weights: np.ndarray


@dataclass(frozen=True)
class TileGrid:
    """The cut of a frame into tiles: every row of them crossed with every column."""

    rows: Axis
    columns: Axis


def plan_tiles(
    height: int, width: int, sides: tuple[int, int], *, granularity: int, overlap: int, discard: int = 0
) -> TileGrid:
    """Cut a padded frame into tiles of the height and width of ``sides`` (less along an axis that is shorter).

    Args:
        height, width, sides, overlap: pixels, multiples of ``granularity``; sides of which the frame has more are
            more than twice ``overlap``.
        discard: pixels at a tile's interior edges that get no weight at all, at most half of ``overlap``. With
            the reach of a network's receptive field the tiled frame equals the whole one.

    Raises:
        InputError: sizes that break these rules.
    """
    lengths = ("height", height), ("width", width), ("tile height", sides[0]), ("tile width", sides[1])
    for name, value in (*lengths, ("tile overlap", overlap)):
        if value < 0 or value % granularity:
            raise InputError(
                f"The {name} of {value} px is not a multiple of the network's granularity, {granularity}."
            )
    if any(side <= 2 * overlap for side, length in zip(sides, (height, width), strict=True) if side < length):
        raise InputError(
            f"Tiles of {sides[0]}x{sides[1]} px are too small: neighbours share {overlap} px; take more than "
            f"{2 * overlap}."
        )
    if not 0 <= 2 * discard <= overlap:
        raise InputError(f"Tiles that share {overlap} px cannot leave {discard} px at either edge unused.")
    rows, columns = (
        _plan_axis(length, side, granularity, overlap, discard)
        for length, side in zip((height, width), sides, strict=True)
    )
    return TileGrid(rows, columns)


def run_tiled(batch: np.ndarray, grid: TileGrid, run: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Run a batch tile by tile and blend.

    Args:
        batch: N x H x W x 3, uint8 or float32 in [0, 1]; H and W are what ``grid`` was planned for.
        run: takes and returns one float32 tile, 1 x rows.size x columns.size x 3. Tiles of uint8 frames are float
            too: blending is done before the one rounding to uint8.

    Returns:
        The clean batch in the shape and dtype of ``batch``; beside it, one float32 frame and a tile live.
    """
    out = np.empty_like(batch)
    rows, columns = grid.rows, grid.columns
    for frame, target in zip(batch, out, strict=True):
        blended = np.zeros(frame.shape, np.float32)
        for y, row_weight in zip(rows.origins, rows.weights, strict=True):
            for x, column_weight in zip(columns.origins, columns.weights, strict=True):
                area = (slice(y, y + rows.size), slice(x, x + columns.size))
                clean = run(to_float(frame[area])[None])[0]
                blended[area] += clean * (row_weight[:, None, None] * column_weight[None, :, None])
        target[...] = blended if batch.dtype.kind == "f" else quantise(blended, batch.dtype)
    return out


def _plan_axis(length: int, side: int, granularity: int, overlap: int, discard: int) -> Axis:
    if length <= side:
        return Axis(length, (0,), np.ones((1, length), np.float32))
    count = -(-(length - side) // (side - overlap)) + 1
    # Rounding down keeps steps at most side - overlap, which is itself a multiple of the granularity.
    steps = (length - side) // granularity
    origins = tuple(steps * i // (count - 1) * granularity for i in range(count))

    from_edge = np.arange(side) + 0.5
    ramp = overlap - 2 * discard
    rise = (
        np.clip((from_edge - discard) / ramp, 0.0, 1.0) if ramp else (from_edge > discard).astype(np.float64)
    )
    rise = np.sin(0.5 * np.pi * rise) ** 2
    weights = np.empty((count, side))
    total = np.zeros(length)
    for i, origin in enumerate(origins):
        weights[i] = (rise if i else 1.0) * (rise[::-1] if i + 1 < count else 1.0)
        total[origin : origin + side] += weights[i]
    for weight, origin in zip(weights, origins, strict=True):
        weight /= total[origin : origin + side]
    return Axis(side, origins, weights.astype(np.float32))

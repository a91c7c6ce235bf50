from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from derain_engine.base.errors import InputError
from derain_engine.engine.tiling import plan_tiles, run_tiled


def pictures(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(7).random((count, height, width, 3), dtype=np.float32)


def blur(batch: np.ndarray, reach: int) -> np.ndarray:
    """Return a mean over (2 reach + 1)^2 pixels that sees zeros outside, as a convolution with zero padding does."""
    taps = 2 * reach + 1
    for axis in (1, 2):
        widths = [(0, 0)] * 4
        widths[axis] = (reach, reach)
        padded = np.pad(batch, widths)
        batch = np.lib.stride_tricks.sliding_window_view(padded, taps, axis).mean(-1, dtype=np.float64)
    return batch.astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(
    granularity=st.sampled_from([1, 8, 32]),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    side=st.integers(1, 20),
    overlap=st.integers(0, 6),
    discard=st.integers(0, 40),
)
def test_plans_keep_their_promises(granularity, height, width, side, overlap, discard):
    assume(side > 2 * overlap and 2 * discard <= overlap * granularity)
    height, width = height * granularity, width * granularity
    sides = (height, width)
    grid = plan_tiles(
        height,
        width,
        (side * granularity, side * granularity),
        granularity=granularity,
        overlap=overlap * granularity,
        discard=discard,
    )
    for axis, length in zip((grid.rows, grid.columns), sides, strict=True):
        assert axis.size == min(length, side * granularity)
        assert axis.origins[0] == 0 and axis.origins[-1] + axis.size == length
        assert all(origin % granularity == 0 for origin in axis.origins)
        steps = np.diff(axis.origins)
        assert np.all(steps > 0) and np.all(axis.size - steps >= overlap * granularity)
        total = np.zeros(length)
        for origin, weight in zip(axis.origins, axis.weights, strict=True):
            assert np.all(weight >= 0)
            if origin > 0:
                assert not weight[:discard].any()
            if origin + axis.size < length:
                assert not weight[axis.size - discard :].any()
            total[origin : origin + axis.size] += weight
        np.testing.assert_allclose(total, 1.0, atol=1e-6)


def test_no_tile_is_wasted():
    grid = plan_tiles(96, 256, (96, 96), granularity=32, overlap=32)
    assert grid.rows.origins == (0,)
    assert grid.columns.origins == (0, 32, 96, 160)  # spread evenly, as far as the granularity allows
    assert len(grid.rows.origins) * len(grid.columns.origins) == 4


def test_weights_change_smoothly():
    axis = plan_tiles(32, 1024, (256, 256), granularity=32, overlap=96).columns
    # The steepest squared sine over 96 px rises by pi / 2 / 96 a pixel, alone or against its neighbour.
    assert np.abs(np.diff(axis.weights, axis=1)).max() < 1.5 * np.pi / 2 / 96


@pytest.mark.parametrize("shape", [(96, 96), (96, 352), (224, 160)])
def test_pointwise_networks_do_not_notice_tiles(shape):
    batch = pictures(2, *shape)
    seen = []

    def network(tile):
        seen.append(tile)
        return 0.7 * tile + 0.1

    grid = plan_tiles(shape[0], shape[1], (96, 96), granularity=32, overlap=32)
    np.testing.assert_allclose(run_tiled(batch, grid, network), 0.7 * batch + 0.1, atol=1e-6)
    assert {tile.shape for tile in seen} == {(1, 96, 96, 3)}
    assert all(tile.dtype == np.float32 and tile.flags.c_contiguous for tile in seen)
    assert len(seen) == 2 * len(grid.rows.origins) * len(grid.columns.origins)


def test_uint8_frames_are_blended_before_they_are_rounded():
    levels = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 16, 16, 3)
    batch = np.tile(levels, (1, 6, 12, 1))
    grid = plan_tiles(96, 192, (96, 96), granularity=32, overlap=32)
    assert run_tiled(batch, grid, lambda tile: tile).dtype == np.uint8
    np.testing.assert_array_equal(run_tiled(batch, grid, lambda tile: tile), batch)
    # A gain and an offset that leave [0, 1] and hit no tie: clamped, then rounded as a session does it.
    expected = np.floor(255 * np.clip(1.3 * (batch / 255) - 0.13, 0, 1) + 0.5).astype(np.uint8)
    out = run_tiled(batch, grid, lambda tile: np.float32(1.3) * tile - np.float32(0.13))
    np.testing.assert_array_equal(out, expected)


def test_a_finite_reach_within_the_discarded_edge_is_exact():
    batch = pictures(1, 160, 288)
    whole = blur(batch, 12)
    grid = plan_tiles(160, 288, (96, 96), granularity=32, overlap=32, discard=12)
    np.testing.assert_allclose(run_tiled(batch, grid, lambda tile: blur(tile, 12)), whole, atol=1e-6)
    # Without it the blending reaches where the tile's own edge is seen.
    grid = plan_tiles(160, 288, (96, 96), granularity=32, overlap=32)
    assert np.abs(run_tiled(batch, grid, lambda tile: blur(tile, 12)) - whole).max() > 1e-3


def test_blending_hides_seams_that_abutting_tiles_show():
    batch = pictures(1, 96, 288)
    whole = blur(batch, 6)

    def worst(overlap):
        grid = plan_tiles(96, 288, (96, 96), granularity=32, overlap=overlap)
        return np.abs(run_tiled(batch, grid, lambda tile: blur(tile, 6)) - whole).max()

    assert worst(0) > 0.2  # half of the window sees zeros at a seam
    assert worst(32) < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 100}, "height of 100 px is not a multiple"),
        ({"width": 90}, "width of 90 px is not a multiple"),
        ({"sides": (100, 96)}, "tile height of 100 px is not a multiple"),
        ({"overlap": 20}, "tile overlap of 20 px is not a multiple"),
        ({"overlap": -32}, "tile overlap of -32 px"),
        ({"sides": (96, 64)}, "too small: neighbours share 32 px; take more than 64"),
        ({"discard": 17}, "cannot leave 17 px"),
        ({"discard": -1}, "cannot leave -1 px"),
    ],
)
def test_plans_that_cannot_work_are_refused(arguments, message):
    sound = {"height": 128, "width": 128, "sides": (96, 96), "granularity": 32, "overlap": 32}
    with pytest.raises(InputError, match=message):
        plan_tiles(**{**sound, **arguments})

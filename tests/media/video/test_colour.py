"""YUV and RGB: known colours of every matrix and range, siting of chroma, and what has to stay to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from derain_engine.base.errors import InputError
from derain_engine.media.video.colour import (
    Coding,
    add_difference,
    coding_of,
    rgb_from_yuv,
    to_rgb,
    yuv_from_rgb,
)

BT709, BT601, BT2020, LIMITED, FULL = 1, 6, 9, 1, 2
#: (matrix, range, bits) -> codes of red, green and blue at 100 %, worked out by hand.
PATCHES = {
    (BT709, LIMITED, 8): [(63, 102, 240), (173, 42, 26), (32, 240, 118)],
    (BT601, LIMITED, 8): [(81, 90, 240), (145, 54, 34), (41, 240, 110)],
    (BT2020, LIMITED, 8): [(74, 97, 240), (164, 47, 25), (29, 240, 119)],
    (BT709, FULL, 8): [(54, 99, 255), (182, 30, 12), (18, 255, 116)],
    (BT601, FULL, 8): [(76, 85, 255), (150, 44, 21), (29, 255, 107)],
    (BT2020, FULL, 8): [(67, 92, 255), (173, 36, 11), (15, 255, 118)],
    (BT709, LIMITED, 10): [(250, 409, 960), (691, 167, 105), (127, 960, 471)],
    (BT2020, LIMITED, 10): [(294, 387, 960), (658, 189, 100), (116, 960, 476)],
}
LAYOUTS = ("420", "422", "444")


def coding(
    layout: str = "444", bits: int = 8, matrix: int = BT709, colour_range: int = LIMITED, **more: int
) -> Coding:
    deep = "" if bits == 8 else f"{bits}le"
    return coding_of(
        f"yuv{layout}p{deep}", matrix=matrix, colour_range=colour_range, width=64, height=48, **more
    )


def noise(kind: Coding, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    across, down = (1 + halved for halved in kind.halved)
    chroma = -(-height // down), -(-width // across)
    return [
        generator.integers(0, kind.peak + 1, size, kind.sample) for size in ((height, width), chroma, chroma)
    ]


@pytest.mark.parametrize(("matrix", "colour_range", "bits"), PATCHES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_patches_have_their_colours_both_ways(layout: str, matrix: int, colour_range: int, bits: int) -> None:
    kind = coding(layout, bits, matrix, colour_range)
    for channel, values in enumerate(PATCHES[matrix, colour_range, bits]):
        planes = [np.full_like(plane, value) for plane, value in zip(noise(kind, 6, 8), values, strict=True)]
        colour = np.zeros(3)
        colour[channel] = 1
        rgb = to_rgb(planes, kind).astype(np.float64) / (255 if bits == 8 else 1)
        # A code of a patch is rounded, which in RGB is at most two steps of its depth.
        assert np.abs(rgb - colour).max() <= 2.2 / kind.peak
        black = [np.full_like(planes[0], 0 if kind.full else 16 << (bits - 8))]
        black += [np.full_like(plane, 1 << (bits - 1)) for plane in planes[1:]]
        dark = to_rgb(black, kind)
        assert dark.max() <= 1e-6
        bright = np.broadcast_to(colour, dark.shape)
        bright = (bright * 255).astype(np.uint8) if bits == 8 else bright.astype(np.float32)
        assert add_difference(black, dark, bright, kind)
        for plane, value in zip(black, values, strict=True):
            # Cb and Cr of 255.5 in full range are kept at the largest code.
            assert np.abs(plane.astype(int) - value).max() <= (1 if kind.full else 0)


@pytest.mark.parametrize("matrix", [1, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("colour_range", [LIMITED, FULL])
def test_the_two_matrices_undo_each_other(matrix: int, colour_range: int) -> None:
    kind = coding(matrix=matrix, colour_range=colour_range, bits=10)
    assert np.allclose(rgb_from_yuv(kind)[:, :3] @ yuv_from_rgb(kind), np.eye(3), atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (33, 65), (48, 64)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("siting", [1, 2, 3, 4])
def test_what_the_engine_leaves_alone_stays_to_the_bit(
    size: tuple[int, int], layout: str, bits: int, siting: int
) -> None:
    """Colours outside of RGB's gamut and codes outside of the range included: noise is full of them."""
    kind = coding(layout, bits, siting=siting)
    planes = noise(kind, *size)
    before = [plane.copy() for plane in planes]
    rgb = to_rgb(planes, kind)
    assert rgb.shape == (*size, 3)
    assert not add_difference(planes, rgb, rgb.copy(), kind)
    changed = rgb.copy()
    changed[0, 0] = 1 - changed[0, 0] if bits > 8 else 255 - changed[0, 0]
    assert add_difference(planes, rgb, changed, kind)
    for plane, old, reach in zip(planes, before, (1, 2, 2), strict=True):
        same = plane == old
        same[:reach, :reach] = True
        assert same.all()


def upsampled(plane: np.ndarray, kind: Coding, height: int, width: int) -> np.ndarray:
    """Interpolate between the positions where samples lie."""
    result = plane.astype(np.float64)
    for axis, length, halved, on in (
        (1, width, kind.halved[0], kind.cosited[0]),
        (0, height, kind.halved[1], kind.cosited[1]),
    ):
        if halved:
            at = 2 * np.arange(result.shape[axis]) + (0 if on else 0.5)
            result = np.apply_along_axis(
                lambda line, at=at, n=length: np.interp(np.arange(n), at, line), axis, result
            )
    return result


@pytest.mark.parametrize("size", [(7, 13), (32, 48)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("siting", [1, 2, 3, 4])
def test_rgb_is_the_formula_in_float64(size: tuple[int, int], layout: str, bits: int, siting: int) -> None:
    kind = coding(layout, bits, siting=siting)
    planes = noise(kind, *size)
    yuv = [planes[0].astype(np.float64), *(upsampled(plane, kind, *size) for plane in planes[1:])]
    ones = np.ones(size)
    expected = np.clip(np.stack([*yuv, ones], -1) @ rgb_from_yuv(kind).T, 0, 1)
    rgb = to_rgb(planes, kind) / (255 if bits == 8 else 1)
    # Chroma between samples is rounded at most twice, and weighs up to 2.2; the result is rounded once.
    assert np.abs(rgb - expected).max() <= 3 / kind.peak


def test_a_difference_of_chroma_goes_to_the_samples_that_lie_near() -> None:
    rainy = np.zeros((4, 8, 3), np.float32)
    clean = rainy.copy()
    clean[:, 3, 2] = 0.5
    unit = 0.5 * yuv_from_rgb(coding(bits=10))[1, 2]
    for siting, weights in {1: (0, 0.25, 0.25, 0), 2: (0, 0.5, 0, 0)}.items():
        kind = coding("422", 10, siting=siting)
        planes = [np.full_like(plane, 512) for plane in noise(kind, 4, 8)]
        add_difference(planes, rainy, clean, kind)
        assert np.abs(planes[1] - 512 - unit * np.array(weights)).max() <= 0.5


@pytest.mark.parametrize("bits", [8, 10])
def test_planar_rgb_is_taken_in_its_order(bits: int) -> None:
    kind = coding_of("gbrp" if bits == 8 else "gbrp10le", matrix=0, colour_range=2, width=4, height=4)
    planes = [np.full((4, 4), value, kind.sample) for value in (100, 50, 200)]
    rgb = to_rgb(planes, kind)
    scale = 1 if bits == 8 else kind.peak
    assert np.allclose(rgb[0, 0] * scale, [200, 100, 50])
    step = np.uint8(10) if bits == 8 else np.float32(10 / 1023)
    assert add_difference(planes, rgb, rgb + step, kind)
    assert [int(plane[0, 0]) for plane in planes] == [110, 60, 210]


def test_codes_never_leave_their_depth() -> None:
    for bits in (8, 10):
        kind = coding(bits=bits)
        planes = [np.full_like(plane, kind.peak) for plane in noise(kind, 4, 4)]
        rgb = np.zeros((4, 4, 3), np.uint8 if bits == 8 else np.float32)
        bright = rgb + np.ones((), rgb.dtype) * (255 if bits == 8 else 1)
        assert add_difference(planes, rgb, bright.astype(rgb.dtype), kind)
        assert planes[0].max() == kind.peak


def test_a_frame_that_says_nothing_is_taken_for_what_players_take_it() -> None:
    kinds = [
        coding_of("yuv420p", matrix=2, colour_range=0, width=width, height=height)
        for width, height in ((720, 576), (1280, 720))
    ]
    assert [kind.kr for kind in kinds] == [0.299, 0.2126]
    assert not kinds[0].full
    assert kinds[0].cosited == (True, False)
    assert coding(matrix=BT2020).cosited == (True, True)
    assert coding_of("yuvj420p", matrix=5, colour_range=0, width=4, height=4).full
    assert replace(kinds[0], full=True).peak == 255


@pytest.mark.parametrize(
    ("pix_fmt", "matrix", "siting", "words"),
    [("yuv411p", 1, 0, "--pix-fmt"), ("yuv420p", 8, 0, "matrix 8"), ("yuv420p", 1, 6, "location 6")],
)
def test_what_is_not_known_is_refused(pix_fmt: str, matrix: int, siting: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        coding_of(pix_fmt, matrix=matrix, colour_range=1, width=64, height=48, siting=siting)

"""The native library's pixels against NumPy: fp32 and float64 formulas, and the padding of engine/frames.py."""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from derain_engine.base.sizes import padded_side
from derain_engine.engine.frames import quantise

from ...helpers import pad_frame

# For the sake of the build, 10 s on one core.
pytestmark = pytest.mark.slow

SIZES = [(1, 1), (7, 13), (16, 17), (20, 40), (33, 65), (64, 32)]
#: Kr and Kb of ITU-R BT.601, BT.709 and BT.2020.
LUMA = {
    "BT601_525": (0.299, 0.114),
    "BT601_625": (0.299, 0.114),
    "BT709": (0.2126, 0.0722),
    "BT2020": (0.2627, 0.0593),
}
COLOURS = list(itertools.product(LUMA, ("LIMITED", "FULL")))


class Plane:
    """Rows of pixels with a pitch of their own, in memory that shows what else was written.

    pixels: rows x columns x values, in the middle of the memory.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        pixels = np.ascontiguousarray(pixels)
        self.shape = (len(pixels) + 2, pixels[0].nbytes)
        self.pitch = (self.shape[1] // 16 + 2) * 16
        memory = np.full(self.shape[0] * self.pitch + 15, 0xA5, np.uint8)
        start = -memory.ctypes.data % 16
        self.memory = memory[start : start + self.shape[0] * self.pitch]
        strides = (self.pitch, *pixels.strides[1:])
        self.pixels = np.ndarray(pixels.shape, pixels.dtype, self.memory, self.pitch, strides)
        self.pixels[...] = pixels

    def surroundings(self) -> np.ndarray:
        """Return the memory without the pixels."""
        rows, row_bytes = self.shape
        around = self.memory.reshape(rows, self.pitch).copy()
        around[1:-1, :row_bytes] = 0
        return around


@dataclass
class Operand:
    """An argument of the library: its planes, and the struct that describes them."""

    planes: tuple[Plane, ...]
    struct: str
    rest: tuple[int | str, ...]


def rgb8(pixels: np.ndarray, order: str = "RGB") -> Operand:
    plane, (height, width) = Plane(pixels), pixels.shape[:2]
    return Operand((plane,), "rgb8", (plane.pitch, width, height, order))


def nv12(luma: np.ndarray, chroma: np.ndarray, matrix: str, codes: str) -> Operand:
    """Planes of a frame. luma: H x W. chroma: H/2 x W/2 x 2, halves rounded up."""
    y, uv, (height, width) = Plane(luma), Plane(chroma), luma.shape
    return Operand((y, uv), "nv12", (y.pitch, uv.pitch, width, height, matrix, codes))


def frame(values: np.ndarray) -> Operand:
    plane, (height, width, channels) = Plane(values.astype(np.float16)), values.shape
    return Operand((plane,), "frame", (plane.pitch, width, height, channels))


def on_host(library, name: str, *operands: Operand | None) -> None:
    """Run an entry point on the host; only the pixels of the last operand may change."""
    planes = [plane for operand in operands if operand for plane in operand.planes]
    before = [(plane.memory.copy(), plane.surroundings()) for plane in planes]
    addresses = {plane: plane.memory.ctypes.data for plane in planes}
    status = library(f"{name}_host", *structs(library, operands, addresses))
    assert status == 0, library.text(status)
    targets = operands[-1].planes if operands[-1] else ()
    for plane, (memory, surroundings) in zip(planes, before, strict=True):
        assert np.array_equal(plane.surroundings(), surroundings)
        assert plane in targets or np.array_equal(plane.memory, memory)


def on_device(library, name: str, *operands: Operand | None) -> None:
    """Return the same on the GPU, through PyTorch's memory and stream."""
    import torch

    planes = [plane for operand in operands if operand for plane in operand.planes]
    memories = {plane: torch.from_numpy(plane.memory).cuda() for plane in planes}
    addresses = {plane: memory.data_ptr() for plane, memory in memories.items()}
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    status = library(name, *structs(library, operands, addresses), stream)
    assert status == 0, library.text(status)
    for plane, memory in memories.items():
        plane.memory[:] = memory.cpu().numpy()


def structs(library, operands, addresses: dict[Plane, int]) -> list[ctypes.Structure | None]:
    """Return the structs of planes. addresses: of each plane's memory; its first row lies one pitch further."""
    return [
        o and library.struct(o.struct, *(addresses[plane] + plane.pitch for plane in o.planes), *o.rest)
        for o in operands
    ]


@pytest.fixture(scope="module")
def library(make_native):
    # The driver compiles this one for whatever GPU there is.
    return make_native(CUDAARCHS="75-virtual")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(8)


def empty_frame(size: tuple[int, int], channels: int) -> Operand:
    """Return a frame of NaN for an image of this size."""
    return frame(np.full((padded_side(size[0], 32), padded_side(size[1], 32), channels), np.nan, np.float16))


def noise_frame(rng: np.random.Generator, size: tuple[int, int], channels: int) -> np.ndarray:
    """Return a padded frame of values in and around [0, 1], and of what else fp16 can be."""
    values = rng.uniform(-0.3, 1.3, (padded_side(size[0], 32), padded_side(size[1], 32), channels))
    values[rng.random(values.shape) < 0.1] = np.nan
    values[rng.random(values.shape) < 0.1] = np.inf
    values[rng.random(values.shape) < 0.1] = -np.inf
    return values.astype(np.float16)


def clean_rgb(values: np.ndarray, rain: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """Cropped float32 RGB, with 0 for NaN; still beyond [0, 1]."""
    values = values[: size[0], : size[1], :3].astype(np.float32)
    if rain is not None:
        with np.errstate(invalid="ignore"):
            values = values - rain[: size[0], : size[1], :3].astype(np.float32)
    return np.where(np.isnan(values), np.float32(0), values)


def ycbcr_matrix(matrix: str) -> np.ndarray:
    """Return the matrix from R'G'B' to Y'CbCr with chroma in [-0.5, 0.5], 3 x 3 in float64."""
    kr, kb = LUMA[matrix]
    y = np.array([kr, 1 - kr - kb, kb])
    return np.stack([y, ([0, 0, 1] - y) / (2 * (1 - kb)), ([1, 0, 0] - y) / (2 * (1 - kr))])


def code_scale(codes: str) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and steps of the codes of Y', Cb and Cr."""
    if codes == "LIMITED":
        return np.array([16.0, 128, 128]), np.array([219.0, 224, 224])
    return np.array([0.0, 128, 128]), np.array([255.0, 255, 255])


def half(side: int) -> int:
    return (side + 1) // 2


def assert_nearest_codes(codes: np.ndarray, exact: np.ndarray) -> None:
    """Check that each code is a nearest one to the float64 value, which fp32 may misplace by a little at a tie."""
    assert np.abs(codes - exact).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("channels", [4, 8])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("size", SIZES)
def test_packed_pixels_become_the_padded_frame_of_the_house(library, rng, size, order, channels) -> None:
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    target = empty_frame(size, channels)
    on_host(library, "rgb8_to_frame", rgb8(pixels, order), target)
    rgb = pixels if order == "RGB" else pixels[..., ::-1]
    padded, _ = pad_frame(rgb[None].astype(np.float32) / 255, 32, 1)
    values = target.planes[0].pixels
    assert np.array_equal(values[..., :3], padded[0].astype(np.float16))
    assert not values[..., 3:].any() and not np.signbit(values[..., 3:]).any()


def test_all_256_values_are_the_nearest_halves(library) -> None:
    pixels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    target = empty_frame((16, 16), 4)
    on_host(library, "rgb8_to_frame", rgb8(pixels), target)
    assert np.array_equal(target.planes[0].pixels[:16, :16, :3], (pixels / 255).astype(np.float16))


@pytest.mark.parametrize("with_rain", [False, True])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("size", SIZES)
def test_frames_become_cropped_packed_pixels(library, rng, size, order, with_rain) -> None:
    values = noise_frame(rng, size, 4)
    rain = noise_frame(rng, size, 8) if with_rain else None
    target = rgb8(np.zeros((*size, 3), np.uint8), order)
    layer = None if rain is None else frame(rain)
    on_host(library, "frame_to_rgb8", frame(values), layer, target)
    expected = quantise(clean_rgb(values, rain, size), np.uint8)
    assert np.array_equal(target.planes[0].pixels, expected if order == "RGB" else expected[..., ::-1])


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("size", SIZES)
def test_nv12_becomes_a_padded_frame(library, rng, size, colour) -> None:
    height, width = size
    luma = rng.integers(0, 256, size, np.uint8)
    chroma = rng.integers(0, 256, (half(height), half(width), 2), np.uint8)
    target = empty_frame(size, 4)
    on_host(library, "nv12_to_frame", nv12(luma, chroma, *colour), target)

    spread = chroma.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    offset, steps = code_scale(colour[1])
    codes = (np.concatenate([luma[..., None], spread], axis=2) - offset) / steps
    rgb = np.clip(codes @ np.linalg.inv(ycbcr_matrix(colour[0])).T, 0, 1)
    padded, _ = pad_frame(rgb[None], 32, 1)
    # The nearest half, or at a tie its neighbour: fp32 moves a value by less than 1e-6.
    errors = np.abs(target.planes[0].pixels[..., :3] - padded[0])
    assert (errors <= np.abs(padded[0].astype(np.float16) - padded[0]) + 1e-6).all()
    assert not target.planes[0].pixels[..., 3].any()


@pytest.mark.parametrize("with_rain", [False, True])
@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("size", SIZES)
def test_frames_become_cropped_nv12(library, rng, size, colour, with_rain) -> None:
    height, width = size
    values = noise_frame(rng, size, 8)
    rain = noise_frame(rng, size, 4) if with_rain else None
    target = nv12(np.zeros(size, np.uint8), np.zeros((half(height), half(width), 2), np.uint8), *colour)
    layer = None if rain is None else frame(rain)
    on_host(library, "frame_to_nv12", frame(values), layer, target)

    ycbcr = np.clip(clean_rgb(values, rain, size), 0, 1).astype(np.float64) @ ycbcr_matrix(colour[0]).T
    offset, steps = code_scale(colour[1])
    assert_nearest_codes(target.planes[0].pixels, offset[0] + steps[0] * ycbcr[..., 0])
    for y, x in np.ndindex(half(height), half(width)):
        mean = ycbcr[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean(axis=(0, 1))[1:]
        exact = np.minimum(offset[1:] + steps[1:] * mean, 255)
        assert_nearest_codes(target.planes[1].pixels[y, x], exact)


@pytest.mark.parametrize(
    ("colour", "rgb", "codes"),
    [
        (("BT601_525", "LIMITED"), (1, 0, 0), (81, 90, 240)),
        (("BT601_625", "LIMITED"), (0, 1, 0), (145, 54, 34)),
        (("BT709", "LIMITED"), (1, 0, 0), (63, 102, 240)),
        (("BT709", "LIMITED"), (0, 0, 1), (32, 240, 118)),
        (("BT2020", "LIMITED"), (1, 0, 0), (74, 97, 240)),
        (("BT601_525", "FULL"), (0, 0, 1), (29, 255, 107)),
        (("BT709", "FULL"), (1, 1, 1), (255, 128, 128)),
        (("BT709", "LIMITED"), (0, 0, 0), (16, 128, 128)),
    ],
)
def test_primaries_have_their_published_codes(library, colour, rgb, codes) -> None:
    target = nv12(np.zeros((2, 2), np.uint8), np.zeros((1, 1, 2), np.uint8), *colour)
    on_host(library, "frame_to_nv12", frame(np.tile([*rgb, 0], (2, 2, 1))), None, target)
    assert (target.planes[0].pixels == codes[0]).all()
    assert tuple(target.planes[1].pixels[0, 0]) == codes[1:]


@pytest.mark.parametrize("colour", COLOURS)
def test_nv12_comes_back_unchanged(library, rng, colour) -> None:
    """Near grey, where RGB need not be clamped, codes survive fp16 and the mean over four pixels."""
    luma = rng.integers(70, 180, (33, 65), np.uint8)
    chroma = rng.integers(108, 148, (17, 33, 2), np.uint8)
    between, target = empty_frame((33, 65), 4), nv12(luma * 0, chroma * 0, *colour)
    on_host(library, "nv12_to_frame", nv12(luma, chroma, *colour), between)
    on_host(library, "frame_to_nv12", between, None, target)
    assert np.array_equal(target.planes[0].pixels, luma)
    assert np.array_equal(target.planes[1].pixels, chroma)


@pytest.mark.parametrize("size", SIZES)
def test_the_device_computes_the_same_bits(library, rng, size) -> None:
    if not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("PyTorch finds no GPU")
    luma = rng.integers(0, 256, size, np.uint8)
    chroma = rng.integers(0, 256, (half(size[0]), half(size[1]), 2), np.uint8)
    pixels = rng.integers(0, 256, (*size, 3), np.uint8)
    values, rain = noise_frame(rng, size, 4), noise_frame(rng, size, 8)
    calls = [
        lambda: ("rgb8_to_frame", rgb8(pixels, "BGR"), empty_frame(size, 4)),
        lambda: ("nv12_to_frame", nv12(luma, chroma, "BT601_525", "FULL"), empty_frame(size, 8)),
        lambda: ("frame_to_rgb8", frame(values), frame(rain), rgb8(pixels)),
        lambda: ("frame_to_nv12", frame(values), frame(rain), nv12(luma, chroma, "BT709", "LIMITED")),
    ]
    for call in calls:
        ours, theirs = call(), call()
        on_host(library, *ours)
        on_device(library, *theirs)
        for here, there in zip(ours[-1].planes, theirs[-1].planes, strict=True):
            assert np.array_equal(here.memory, there.memory)

from __future__ import annotations

import numpy as np
import pytest
import torch

from derain_engine.base.errors import InputError
from derain_engine.base.sizes import padded_side
from derain_engine.kernels.pixels import nv12
from derain_engine.kernels.pixels.nv12 import Nv12
from derain_engine.media.video.colour import add_difference, coding_of, to_rgb

from ..helpers import pad_frame

pytestmark = pytest.mark.usefixtures("interpreter")

FP32, FP16 = torch.float32, torch.float16
KINDS = [
    Nv12(0.299, 0.114),
    Nv12(full=True),
    Nv12(0.2627, 0.0593, bits=10, down=True),
    Nv12(bits=10, across=False),
    Nv12(across=False, down=True, full=True),
]
SIZES = [(1, 1, 8), (7, 13, 8), (16, 32, 16), (33, 65, 32), (3, 40, 32), (1, 6, 4), (18, 17, 32)]
#: Every kind at odd sizes, every size in some kind.
CASES = [((7, 13, 8), kind) for kind in KINDS] + [
    (size, KINDS[number % len(KINDS)]) for number, size in enumerate(SIZES)
]


def planes(height: int, width: int, kind: Nv12, gap: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise over every code, as words; lines lie ``gap`` elements further apart than they are long."""
    rng = np.random.default_rng(height * width)
    half = -(-height // 2), -(-width // 2)
    dtype, shift = (np.uint8, 0) if kind.bits == 8 else (np.uint16, 6)
    luma = rng.integers(0, 1 << kind.bits, (height, width + gap)).astype(dtype) << shift
    chroma = rng.integers(0, 1 << kind.bits, (half[0], 2 * half[1] + gap)).astype(dtype) << shift
    pairs = torch.from_numpy(chroma)[:, : 2 * half[1]].unflatten(1, (half[1], 2))
    return torch.from_numpy(luma)[:, :width], pairs


def codes(words: torch.Tensor, kind: Nv12) -> np.ndarray:
    return (words.cpu().numpy() >> (0 if kind.bits == 8 else 6)).astype(np.float64)


def taps(length: int, on: bool) -> np.ndarray:
    """Return length x chroma's length: how luma positions are interpolated from chroma, by distance alone."""
    half = -(-length // 2)
    at = 2.0 * np.arange(half) + (0 if on else 0.5)
    weights = np.zeros((length, half))
    for luma in range(length):
        place = min(max(luma, at[0]), at[-1])
        distances = np.abs(at - place)
        weights[luma] = np.maximum(1 - distances / 2, 0)
    return weights


def means(length: int, on: bool) -> np.ndarray:
    """Return chroma's length x length: what a chroma sample takes of luma positions, edges repeated."""
    half = -(-length // 2)
    weights = np.zeros((half, length))
    for sample in range(half):
        for step, weight in ((-1, 0.25), (0, 0.5), (1, 0.25)) if on else ((0, 0.5), (1, 0.5)):
            weights[sample, min(max(2 * sample + step, 0), length - 1)] += weight
    return weights


def matrix(kind: Nv12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """H.273, 8.3, in float64: RGB in [0, 1] to Y'CbCr signals, codes of 1 and codes of 0."""
    kr, kb = kind.kr, kind.kb
    luma = np.array([kr, 1 - kr - kb, kb])
    to_yuv = np.stack([luma, (np.eye(3)[2] - luma) / (2 * (1 - kb)), (np.eye(3)[0] - luma) / (2 * (1 - kr))])
    unit, peak = 1 << (kind.bits - 8), (1 << kind.bits) - 1
    if kind.full:
        return to_yuv, np.array([peak] * 3), np.array([0, (peak + 1) / 2, (peak + 1) / 2])
    return to_yuv, np.array([219, 224, 224]) * unit, np.array([16, 128, 128]) * unit


def exact_rgb(luma: torch.Tensor, chroma: torch.Tensor, kind: Nv12) -> np.ndarray:
    """H x W x 3 float64, clipped."""
    height, width = luma.shape
    up = [
        taps(height, kind.down) @ codes(chroma, kind)[..., i] @ taps(width, kind.across).T for i in range(2)
    ]
    to_yuv, ones, zeros = matrix(kind)
    signal = (np.stack([codes(luma, kind), *up], 2) - zeros) / ones
    return np.clip(signal @ np.linalg.inv(to_yuv).T, 0, 1)


@pytest.mark.parametrize(("size", "kind"), CASES, ids=str)
@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
def test_video_becomes_padded_maps(size, kind, dtype, device, cut):
    height, width, granularity = size
    luma, chroma = planes(height, width, kind, gap=5 if dtype == FP32 else 0)
    to_height, to_width = (padded_side(side, granularity) for side in (height, width))
    found = nv12.nv12_in(
        luma.to(device), chroma.to(device), to_height, to_width, dtype, kind, config=cut(32, 64, 4)
    )
    exact, _ = pad_frame(exact_rgb(luma, chroma, kind)[None].astype(np.float32), granularity, 1)
    assert found.shape == (to_height, to_width, 4) and found.dtype == dtype
    tolerance = 2e-6 if dtype == FP32 else 5e-4
    assert np.abs(found.cpu().float().numpy()[..., :3] - exact[0]).max() < tolerance
    assert not found[..., 3].any()


@pytest.mark.parametrize(("size", "kind"), CASES, ids=str)
def test_the_difference_is_added_to_the_codes(size, kind, device, cut):
    height, width, granularity = size
    luma, chroma = planes(height, width, kind, gap=3)
    torch.manual_seed(1)
    rain = torch.randn(padded_side(height, granularity), padded_side(width, granularity), 3) * 0.2
    found = nv12.nv12_out(luma.to(device), chroma.to(device), rain.to(device), kind, config=cut(16, 32, 4))
    rgb = exact_rgb(luma, chroma, kind)
    difference = np.clip(rgb - rain[:height, :width].double().numpy(), 0, 1) - rgb
    to_yuv, ones, _ = matrix(kind)
    change = difference @ to_yuv.T * ones
    down, across = means(height, kind.down), means(width, kind.across)
    changes = change[..., 0], np.stack([down @ change[..., i] @ across.T for i in (1, 2)], 2)
    peak = (1 << kind.bits) - 1
    for new, old, delta in zip(found, (luma, chroma), changes, strict=True):
        assert new.dtype == old.dtype and new.shape == old.shape
        wanted = np.clip(codes(old, kind) + delta, 0, peak)
        # Rounded to the nearest code, but for ties that fp32 sees on the other side.
        assert np.abs(codes(new, kind) - wanted).max() < 0.5 + 1e-3
        assert kind.bits == 8 or not (new.cpu().numpy() & 63).any()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_no_rain_leaves_every_code(kind, device, cut):
    luma, chroma = planes(33, 65, kind)
    none = torch.zeros(64, 96, 3, dtype=FP16).to(device)
    new, new_chroma = nv12.nv12_out(luma.to(device), chroma.to(device), none, kind, config=cut(32, 64, 4))
    assert torch.equal(new.cpu(), luma) and torch.equal(new_chroma.cpu(), chroma)


def test_it_is_what_video_does_on_the_cpu(device, cut):
    """Within the bytes that the way over the CPU rounds to: RGB to 8 bits, chroma between its samples too."""
    kind = Nv12()
    luma, chroma = planes(34, 66, kind)
    coding = coding_of("yuv420p", matrix=1, colour_range=1, width=66, height=34)
    apart = [luma.numpy().copy(), *(np.ascontiguousarray(chroma[..., i].numpy()) for i in range(2))]
    rainy = to_rgb(apart, coding)
    found = nv12.nv12_in(luma.to(device), chroma.to(device), 34, 66, FP32, kind, config=cut(64, 128, 4))
    assert np.abs(found.cpu().numpy()[..., :3] * 255 - rainy).max() < 2.7
    clean = np.clip(rainy.astype(int) - 40, 0, 255).astype(np.uint8)
    add_difference(apart, rainy, clean, coding)
    rain = torch.full((34, 66, 3), 40 / 255).to(device)
    new, new_chroma = nv12.nv12_out(luma.to(device), chroma.to(device), rain, kind, config=cut(32, 64, 4))
    assert np.abs(new.cpu().numpy().astype(int) - apart[0]).max() <= 2
    assert max(np.abs(new_chroma[..., i].cpu().numpy().astype(int) - apart[i + 1]).max() for i in (0, 1)) <= 2


def test_rain_that_is_not_a_number_leaves_black(device):
    """Treat it as everywhere: NaN is 0, and never a code out of range."""
    luma, chroma = torch.full((2, 2), 200, dtype=torch.uint8), torch.full((1, 1, 2), 128, dtype=torch.uint8)
    rain = torch.full((2, 2, 3), torch.nan)
    new, _ = nv12.nv12_out(luma.to(device), chroma.to(device), rain.to(device))
    assert new.cpu().unique().tolist() == [16]


@pytest.mark.parametrize(
    ("luma", "chroma", "kind", "message"),
    [
        ((8, 8), (4, 4, 2), Nv12(bits=9), "8 bits and P010 has 10"),
        ((8, 8), (4, 4, 2), Nv12(bits=10), "uint16"),
        ((8, 8), (4, 3, 2), Nv12(), "4 x 4 x 2"),
        ((7, 9), (4, 4, 2), Nv12(), "4 x 5 x 2"),
        ((8, 8, 1), (4, 4, 2), Nv12(), "height x width"),
        ((0, 8), (0, 4, 2), Nv12(), "height x width"),
    ],
)
def test_other_planes_are_refused(luma, chroma, kind, message, device):
    given = [torch.zeros(shape, dtype=torch.uint8).to(device) for shape in (luma, chroma)]
    with pytest.raises(InputError, match=message):
        nv12.nv12_in(given[0], given[1], 8, 16, FP16, kind)
    with pytest.raises(InputError, match=message):
        nv12.nv12_out(given[0], given[1], torch.zeros(8, 16, 3).to(device), kind)


def test_what_does_not_fit_is_refused(device):
    given = [torch.zeros(shape, dtype=torch.uint8).to(device) for shape in ((8, 8), (4, 4, 2))]
    with pytest.raises(InputError, match="8x8 does not fit into 16x7"):
        nv12.nv12_in(given[0], given[1], 7, 16, FP16)
    with pytest.raises(InputError, match="at least 8 x 8 x 3"):
        nv12.nv12_out(given[0], given[1], torch.zeros(7, 8, 3).to(device))

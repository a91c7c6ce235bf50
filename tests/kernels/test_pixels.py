from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from derain_engine.base.errors import InputError
from derain_engine.base.sizes import padded_side
from derain_engine.engine.frames import quantise
from derain_engine.kernels import pixels
from derain_engine.kernels.plain import run_plain

from ..helpers import pad_frame

pytestmark = pytest.mark.usefixtures("interpreter")

FP32, FP16, BF16, UINT8 = torch.float32, torch.float16, torch.bfloat16, torch.uint8
LAYOUTS = list(itertools.product([False, True], [False, True]))
#: Frames and the granularity they are padded to: by nothing, by reflection, by the edge, one way each; as many pixels
#: as are missing, and one more.
SIZES = [
    (1, 1, 8),
    (7, 13, 8),
    (7, 13, 32),
    (16, 32, 16),
    (33, 65, 32),
    (3, 40, 32),
    (16, 17, 32),
    (17, 16, 32),
]


def picture(height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """H x W x 3, RGB. Floats beyond [0, 1] too."""
    torch.manual_seed(height + width)
    if dtype == UINT8:
        return torch.randint(256, (height, width, 3), dtype=UINT8)
    return (torch.rand(height, width, 3) * 1.6 - 0.3).to(dtype)


def laid_out(image: torch.Tensor, planar: bool, bgr: bool) -> torch.Tensor:
    image = image.flip(2) if bgr else image
    return (image.permute(2, 0, 1) if planar else image).contiguous()


def rain_layer(height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Return rain of both signs, and nowhere where its 255th part would decide whether to round up: a GPU may multiply
    and add in one rounding."""
    layer = torch.randn(height, width, 3) * 0.3
    layer = layer.to(dtype)
    tied = ((layer.float() * 255) % 1 - 0.5).abs() < 1e-3
    return layer.masked_fill(tied, 0)


def plain_out(
    frame: torch.Tensor, rain: torch.Tensor, planar: bool = False, bgr: bool = False
) -> torch.Tensor:
    """Compute the frame without its rain as the record says."""
    out, size = torch.empty_like(frame), frame.shape[1:] if planar else frame.shape[:2]
    call = pixels.frame_out_call(planar, bgr, frame.dtype == UINT8, pixels.PIXELS_CONFIG)
    run_plain(call, [frame.flatten(), rain.flatten(), out.view(-1)], (*size, rain.shape[1]))
    return out


def assert_padded_as_by_frames(found, image, granularity):
    """Check that the map has the picture, padded as engine/frames.py does, in RGB, and zeros beside it."""
    padded, _ = pad_frame(image.float().numpy()[None], granularity, 1)
    scale = 255 if image.dtype == UINT8 else 1
    exact = torch.from_numpy(padded[0]) / scale
    assert found.shape == (*exact.shape[:2], 4)
    # To within the last bit: a GPU may divide by 255 less exactly.
    torch.testing.assert_close(
        found[..., :3].cpu(), exact.to(found.dtype), rtol=torch.finfo(found.dtype).eps, atol=0
    )
    assert not found[..., 3].any()


@pytest.mark.parametrize(("height", "width", "granularity"), SIZES)
@pytest.mark.parametrize(("planar", "bgr"), LAYOUTS)
@pytest.mark.parametrize(("kind", "dtype"), [(UINT8, FP16), (FP32, FP32)], ids=str)
def test_frames_become_padded_maps(height, width, granularity, planar, bgr, kind, dtype, device, cut):
    image = picture(height, width, kind)
    frame = laid_out(image, planar, bgr)
    to_height, to_width = (padded_side(side, granularity) for side in (height, width))
    config = cut(32, 64, pixels.MAP_CHANNELS)
    found = pixels.frame_in(
        frame.to(device), to_height, to_width, dtype, planar=planar, bgr=bgr, config=config
    )
    assert found.dtype == dtype
    assert_padded_as_by_frames(found, image, granularity)
    plain = torch.empty(to_height, to_width, 4, dtype=dtype)
    call = pixels.frame_in_call(planar, bgr, kind == UINT8, pixels.PIXELS_CONFIG)
    run_plain(call, [frame.flatten(), plain.view(-1)], (to_height, to_width, height, width))
    assert_padded_as_by_frames(plain, image, granularity)


@pytest.mark.parametrize("dtype", [FP32, FP16, BF16], ids=str)
@pytest.mark.parametrize("kind", [UINT8, FP32, FP16, BF16], ids=str)
def test_every_kind_of_frame(kind, dtype, device):
    image = picture(9, 37, kind)
    found = pixels.frame_in(image.to(device), 16, 48, dtype)
    assert_padded_as_by_frames(found, image, 16)


@pytest.mark.parametrize(("height", "width", "granularity"), SIZES)
@pytest.mark.parametrize(("planar", "bgr"), LAYOUTS)
@pytest.mark.parametrize(("kind", "dtype"), [(UINT8, FP16), (FP32, FP32)], ids=str)
def test_rain_is_taken_from_frames(height, width, granularity, planar, bgr, kind, dtype, device, cut):
    image = picture(height, width, kind)
    frame = laid_out(image, planar, bgr)
    rain = rain_layer(padded_side(height, granularity), padded_side(width, granularity), dtype)
    config = cut(32, 64, pixels.MAP_CHANNELS)
    found = pixels.frame_out(frame.to(device), rain.to(device), planar=planar, bgr=bgr, config=config)
    assert torch.equal(found.cpu(), plain_out(frame, rain, planar, bgr))
    # Our own rounding, by NumPy.
    value = image.float() / 255 if kind == UINT8 else image
    clean = (value - rain[:height, :width].float()).numpy()
    exact = torch.from_numpy(quantise(clean, np.uint8) if kind == UINT8 else clean)
    assert torch.equal(found.cpu(), laid_out(exact, planar, bgr))


@pytest.mark.parametrize("dtype", [FP32, FP16, BF16], ids=str)
@pytest.mark.parametrize("kind", [UINT8, FP32, FP16, BF16], ids=str)
def test_rain_is_taken_from_every_kind_of_frame(kind, dtype, device):
    frame, rain = picture(9, 37, kind), rain_layer(16, 48, dtype)
    found = pixels.frame_out(frame.to(device), rain.to(device))
    assert found.dtype == kind
    assert torch.equal(found.cpu(), plain_out(frame, rain))


@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
def test_bytes_are_clamped_and_nan_is_black(dtype, device):
    frame = torch.full((2, 3, 3), 128, dtype=UINT8)
    values = [torch.nan, torch.inf, -torch.inf, 0.6, -0.6, 0.0]
    rain = torch.tensor(values, dtype=dtype).view(2, 1, 3).expand(2, 3, 3).contiguous()
    found = pixels.frame_out(frame.to(device), rain.to(device)).cpu()
    assert found[:, 0].flatten().tolist() == [0, 0, 255, 0, 255, 128]
    assert torch.equal(found, plain_out(frame, rain))


def test_floats_come_as_they_are(device):
    frame = torch.tensor([2.5, -1.0, torch.nan, torch.inf, 0.5, 0.0]).view(1, 2, 3)
    found = pixels.frame_in(frame.to(device), 1, 2, FP32).cpu()
    torch.testing.assert_close(found[..., :3], frame, rtol=0, atol=0, equal_nan=True)
    clean = pixels.frame_out(frame.to(device), torch.ones(1, 2, 3).to(device)).cpu()
    torch.testing.assert_close(clean, frame - 1, rtol=0, atol=0, equal_nan=True)


def test_no_rain_leaves_every_byte(device):
    frame = torch.arange(256, dtype=UINT8).repeat_interleave(3).view(8, 32, 3)
    assert torch.equal(pixels.frame_out(frame.to(device), torch.zeros(8, 32, 3).to(device)).cpu(), frame)


def frames(*shape: int, dtype: torch.dtype = UINT8) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype)


@pytest.mark.parametrize(
    ("frame", "planar", "message"),
    [
        (frames(3, 8, 8), False, "contiguous, height x width x 3"),
        (frames(8, 8, 3), True, "contiguous, 3 x height x width"),
        (frames(8, 8, 4), False, "height x width x 3"),
        (frames(1, 8, 8, 3), False, "height x width x 3"),
        (frames(0, 8, 3), False, "height x width x 3"),
        (frames(8, 16, 3)[:, :8], False, "contiguous"),
        (frames(8, 8, 3, dtype=torch.float64), False, r"not torch\.float64"),
        (frames(8, 8, 3, dtype=torch.int16), False, r"not torch\.int16"),
    ],
)
def test_other_frames_are_refused(frame, planar, message, device):
    with pytest.raises(InputError, match=message):
        pixels.frame_in(frame.to(device), 8, 8, FP16, planar=planar)
    with pytest.raises(InputError, match=message):
        pixels.frame_out(frame.to(device), torch.zeros(8, 8, 3).to(device), planar=planar)


@pytest.mark.parametrize(("height", "width"), [(7, 16), (16, 7)])
def test_frames_that_do_not_fit_are_refused(height, width, device):
    with pytest.raises(InputError, match=f"8x8 does not fit into {width}x{height}"):
        pixels.frame_in(frames(8, 8, 3).to(device), height, width, FP16)


@pytest.mark.parametrize(
    ("rain", "message"),
    [
        (frames(7, 16, 3, dtype=FP16), "at least 8 x 8 x 3"),
        (frames(16, 7, 3, dtype=FP16), "at least 8 x 8 x 3"),
        (frames(8, 8, 4, dtype=FP16), "at least 8 x 8 x 3"),
        (frames(8, 8, 3), r"not in torch\.uint8"),
        (frames(8, 16, 3, dtype=FP16)[:, :8], "contiguous"),
    ],
)
def test_other_rain_layers_are_refused(rain, message, device):
    with pytest.raises(InputError, match=message):
        pixels.frame_out(frames(8, 8, 3).to(device), rain.to(device))

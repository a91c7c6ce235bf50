from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from derain_engine.base.errors import InputError
from derain_engine.kernels import conv

pytestmark = pytest.mark.usefixtures("interpreter")

CHANNELS = [16, 24, 32, 48]
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16


def weights(channels: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(channels)
    weight = torch.randn(columns, channels, 3, 3) * 1.6 / (9 * channels) ** 0.5
    return weight, torch.randn(columns)


def reference(stack, weight, bias, addend):
    """Compute y and y + addend by PyTorch's convolution, in the precision of the arguments."""
    image = stack.permute(0, 3, 1, 2).flatten(0, 1)[None]
    y = F.leaky_relu(F.conv2d(image, weight, bias, padding=1), 0.2)[0].movedim(0, -1).contiguous()
    return y, None if addend is None else y + addend


@pytest.fixture
def check(device, assert_bounded):
    """Compares y and y + addend over a stack whose last slab ends in ``padding`` channels that count for nothing."""

    def check(slabs, channels, columns, dtype, height, width, add=False, padding=0, config=None):
        weight, bias = weights(slabs * channels - padding, columns)
        stack = torch.randn(slabs, height, width, channels)
        addend = torch.randn(height, width, columns) if add else None
        image = F.pad(weight, (0, 0, 0, 0, 0, padding))
        exact = reference(stack, image, bias, addend)
        low = None if addend is None else addend.to(dtype)
        plain = reference(stack.to(dtype), image.to(dtype), bias.to(dtype), low)
        packed = {name: w.to(device) for name, w in conv.pack(weight, bias, dtype, padding).items()}
        low = None if low is None else low.to(device)
        found = conv.conv3x3(stack.to(device, dtype), packed, columns, low, config)
        assert_bounded(found[0], exact[0], plain[0])
        assert (found[1] is None) == (not add)
        if add:
            assert_bounded(found[1], exact[1], plain[1])

    return check


@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_convolution_is_that_of_pytorch(channels, dtype, check, cut):
    check(1, channels, channels, dtype, 7, 13, config=cut(8, 16))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (32, 32), (33, 65)])
@pytest.mark.parametrize(("channels", "dtype"), [(24, FP16), (16, FP32)], ids=str)
def test_maps_of_any_size(channels, dtype, height, width, check, cut):
    check(1, channels, channels, dtype, height, width, config=cut(16, 32))


def test_usual_tiles_meet(check):
    check(2, 16, 24, FP16, 9, 17, add=True)


def test_bfloat16(check, cut):
    check(2, 16, 24, BF16, 7, 13, add=True, config=cut(8, 16))


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(("slabs", "channels", "columns"), [(3, 24, 32), (2, 48, 24), (5, 16, 16)])
def test_several_slabs(slabs, channels, columns, add, check, cut):
    check(slabs, channels, columns, FP32, 9, 13, add=add, config=cut(16, 16))


@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
def test_rain_layer_of_three_columns(dtype, check, cut):
    check(1, 24, 3, dtype, 9, 17, add=True, config=cut(8, 16))


@pytest.mark.parametrize(("channels", "padding"), [(4, 1), (8, 5)])
def test_picture_with_channels_that_count_for_nothing(channels, padding, check, cut):
    check(1, channels, 24, FP32, 9, 13, padding=padding, config=cut(16, 16))


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 65)])
@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_maps_of_any_size_and_all_widths(channels, dtype, height, width, check, cut):
    check(2, channels, channels, dtype, height, width, add=True, config=cut(16, 32))


def maps(*shape: int, dtype: torch.dtype = FP32) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype)


@pytest.mark.parametrize(
    ("stack", "columns", "addend", "message"),
    [
        (maps(4, 4, 16), 24, None, "slabs x height x width x channels"),
        (maps(0, 4, 4, 16), 24, None, "none of them 0"),
        (maps(1, 0, 4, 16), 24, None, "none of them 0"),
        (maps(1, 4, 16, 4).mT, 24, None, "must be contiguous"),
        (maps(1, 4, 4, 16, dtype=torch.int8), 24, None, r"not in torch\.int8"),
        (maps(1, 4, 4, 16, dtype=FP16), 24, None, r"weights .* are torch\.bfloat16"),
        (maps(2, 4, 4, 16), 24, None, r"weights are \(192, 24\), not \(320, 24\)"),
        (maps(1, 4, 4, 16), 16, None, r"weights are \(192, 24\), not \(192, 16\)"),
        (maps(1, 4, 4, 16), 24, maps(4, 4, 16), r"addend is \(4, 4, 16\); it must be \(4, 4, 24\)"),
        (maps(1, 4, 4, 16), 24, maps(4, 4, 24, dtype=FP16), r"addend is torch\.float16"),
        (maps(1, 4, 4, 16), 24, maps(4, 4, 48)[..., :24], "addend must be a contiguous map"),
    ],
)
def test_what_cannot_be_is_refused(stack, columns, addend, message, device):
    packed = conv.pack(*weights(16, 24), BF16 if stack.dtype == FP16 else FP32)
    addend = None if addend is None else addend.to(device)
    with pytest.raises(InputError, match=message):
        conv.conv3x3(stack.to(device), {name: w.to(device) for name, w in packed.items()}, columns, addend)


def test_columns_that_no_tile_has_are_refused(device):
    packed = {name: w.to(device) for name, w in conv.pack(*weights(16, 20), FP32).items()}
    with pytest.raises(InputError, match="cannot tile 20 channels"):
        conv.conv3x3(maps(1, 4, 4, 16).to(device), packed, 20)


def test_work_is_counted():
    assert conv.flops(3, 5, 16, slabs=2, columns=24) == 2 * 15 * 9 * 32 * 24

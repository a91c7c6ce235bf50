from __future__ import annotations

import pytest
import torch

from derain_engine.base.errors import InputError
from derain_engine.kernels import transposed

pytestmark = pytest.mark.usefixtures("guarded_launch", "interpreter")

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16


@pytest.mark.parametrize(
    ("dtype", "height", "width", "channels", "columns"),
    [
        (FP32, 1, 1, 16, 8),
        (FP32, 7, 13, 24, 24),
        (FP16, 7, 13, 16, 8),
        (FP16, 17, 9, 80, 48),
        (BF16, 3, 5, 32, 16),
    ],
    ids=str,
)
def test_four_places_of_every_pixel(dtype, height, width, channels, columns, device, assert_bounded, cut):
    torch.manual_seed(channels)
    weight = torch.randn(channels, columns, 2, 2) / channels**0.5
    bias, image = torch.randn(columns), torch.randn(height, width, channels)
    exact = transposed.reference(image, weight, bias)
    plain = transposed.reference(image.to(dtype), weight.to(dtype), bias.to(dtype))
    packed = {name: each.to(device) for name, each in transposed.pack(weight, bias, dtype).items()}
    found = transposed.conv(image.to(dtype).to(device), packed, columns, cut(8, 16))
    assert found.shape == (2 * height, 2 * width, columns)
    assert_bounded(found, exact, plain)


def test_other_weights_and_widths_are_refused(device):
    packed = transposed.pack(torch.zeros(16, 8, 2, 2), torch.zeros(8), FP32)
    packed = {name: each.to(device) for name, each in packed.items()}
    with pytest.raises(InputError, match=r"weights are \(256, 8\), not \(512, 8\)"):
        transposed.conv(torch.zeros(2, 2, 80, device=device), packed, 8)
    with pytest.raises(InputError, match="cannot tile 56 channels"):
        transposed.conv_call(16, 56, transposed.heuristic("transposed.conv", 16))

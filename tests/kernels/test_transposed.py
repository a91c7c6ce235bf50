from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from derain_engine.base.errors import InputError
from derain_engine.kernels import transposed

pytestmark = pytest.mark.usefixtures("interpreter")

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16


def reference(image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Compute the same by PyTorch's convolution, in the precision of its arguments."""
    y = F.conv_transpose2d(image.permute(2, 0, 1)[None], weight, bias, stride=2)
    return y[0].permute(1, 2, 0).contiguous()


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
    exact = reference(image, weight, bias)
    plain = reference(image.to(dtype), weight.to(dtype), bias.to(dtype))
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
        transposed.conv_call(16, 56, transposed.CONV.config(16))

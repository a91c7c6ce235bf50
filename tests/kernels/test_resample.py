from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from derain_engine.base.errors import InputError
from derain_engine.kernels import resample

pytestmark = pytest.mark.usefixtures("interpreter")

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
#: From, to: halved, quartered, doubled, quadrupled, kept, other ratios, from and to single pixels.
RESIZES = [
    ((32, 32), (16, 16)),
    ((32, 32), (8, 8)),
    ((8, 8), (16, 16)),
    ((8, 8), (32, 32)),
    ((7, 13), (7, 13)),
    ((33, 65), (16, 32)),
    ((16, 32), (33, 65)),
    ((7, 13), (33, 65)),
    ((33, 65), (7, 13)),
    ((13, 5), (3, 31)),
    ((1, 1), (7, 13)),
    ((7, 13), (1, 1)),
    ((1, 9), (5, 1)),
]


def reference(source: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Compute the same by PyTorch, in the precision of its argument."""
    image = F.interpolate(source.permute(0, 3, 1, 2), (height, width), mode="bilinear", align_corners=False)
    return image.permute(0, 2, 3, 1).contiguous()


@pytest.fixture
def check(device, assert_bounded):
    def check(slabs, size, to, channels, dtype, out=None, config=None):
        torch.manual_seed(0)
        source, (height, width) = torch.randn(slabs, *size, channels), to
        exact = reference(source, height, width)
        plain = reference(source.to(dtype), height, width)
        found = resample.bilinear(source.to(device, dtype), height, width, out, config)
        assert out is None or found is out
        assert_bounded(found.contiguous(), exact, plain)

    return check


@pytest.mark.parametrize("dtype", [FP32, FP16, BF16], ids=str)
@pytest.mark.parametrize(("size", "to"), RESIZES)
def test_resizing_is_that_of_pytorch(size, to, dtype, check, cut):
    check(1, size, to, 16, dtype, config=cut(16, 64, 16))


@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
@pytest.mark.parametrize("channels", [4, 24, 32, 48])
def test_slabs_of_any_width(channels, dtype, check):
    check(3, (7, 13), (9, 17), channels, dtype)


@pytest.mark.parametrize("first", [0, 24, 48])
def test_into_some_channels_of_wider_pixels(first, device, check):
    wide = torch.zeros(1, 9, 17, 72, device=device)
    check(1, (7, 13), (9, 17), 24, FP32, wide[..., first : first + 24])
    wide[..., first : first + 24] = 0
    assert not wide.any()


def test_into_slabs_of_a_larger_stack(device, check):
    stack = torch.zeros(5, 9, 17, 24, device=device)
    check(2, (7, 13), (9, 17), 24, FP32, stack[1:3])
    assert not stack[[0, 3, 4]].any()


def maps(*shape: int, dtype: torch.dtype = FP32) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype)


@pytest.mark.parametrize(
    ("source", "size", "out", "message"),
    [
        (maps(4, 4, 16), (2, 2), None, "slabs x height x width x channels"),
        (maps(0, 4, 4, 16), (2, 2), None, "none of them 0"),
        (maps(1, 4, 0, 16), (2, 2), None, "none of them 0"),
        (maps(1, 4, 16, 4).mT, (2, 2), None, "must be contiguous"),
        (maps(1, 4, 4, 16, dtype=torch.uint8), (2, 2), None, r"not in torch\.uint8"),
        (maps(1, 4, 4, 16), (0, 2), None, "resized to 0 x 2 pixels"),
        (maps(1, 4, 4, 16), (2, -1), None, "resized to 2 x -1 pixels"),
        (maps(1, 4, 4, 16), (2, 2), maps(2, 2, 16), r"out must be \(1, 2, 2, 16\)"),
        (maps(1, 4, 4, 16), (2, 2), maps(1, 2, 3, 16), r"out must be \(1, 2, 2, 16\)"),
        (maps(1, 4, 4, 16), (2, 2), maps(1, 2, 3, 16)[:, :, :2], "rows of pixels without gaps"),
        (maps(1, 4, 4, 16), (2, 2), maps(1, 2, 2, 16, dtype=FP16), "in the source's dtype"),
        (maps(2, 4, 4, 16), (2, 2), maps(2, 2, 2, 32)[..., :16], "whole where there are several slabs"),
        (maps(2, 4, 4, 16), (2, 2), maps(4, 2, 2, 16)[::2], "whole where there are several slabs"),
    ],
)
def test_what_cannot_be_is_refused(source, size, out, message, device):
    height, width = size
    with pytest.raises(InputError, match=message):
        resample.bilinear(source.to(device), height, width, None if out is None else out.to(device))


def test_work_is_counted():
    assert resample.flops(3, 5, 24, slabs=2) == 9 * 15 * 24 * 2

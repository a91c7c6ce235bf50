from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from derain_engine.base.errors import InputError
from derain_engine.kernels import dense

pytestmark = pytest.mark.usefixtures("interpreter")

CHANNELS = [16, 24, 32, 48]
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16


def weights(channels: int, slabs: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(channels)
    weight = torch.randn(channels, slabs * channels, 1, 1) * 1.6 / (slabs * channels) ** 0.5
    return weight, torch.randn(channels)


def reference(stack, weight, bias, slabs, addend):
    """Compute the same by PyTorch's convolution, in the precision of the arguments."""
    image = stack[:slabs].permute(0, 3, 1, 2).flatten(0, 1)[None]
    y = F.leaky_relu(F.conv2d(image, weight, bias), 0.2)[0].movedim(0, -1).contiguous()
    return y if addend is None else y + addend


@pytest.fixture
def check(device, assert_bounded):
    """Compares y = act(conv1x1(first slabs) + b) + addend, put where ``place`` says: into a map of its own, the
    last slab, or a ``slice`` of the channels of a map that is three times as wide."""

    def check(channels, dtype, height, width, slabs=2, spare=1, add=False, place=None, config=None):
        weight, bias = weights(channels, slabs)
        stack = torch.randn(slabs + spare, height, width, channels)
        addend = torch.randn(height, width, channels) if add else None
        exact = reference(stack, weight, bias, slabs, addend)
        low = None if addend is None else addend.to(dtype)
        plain = reference(stack.to(dtype), weight.to(dtype), bias.to(dtype), slabs, low)
        packed = {name: w.to(device) for name, w in dense.pack(weight, bias, dtype).items()}
        stack = stack.to(device, dtype)
        stack[slabs:] = torch.nan  # not yet made
        out = None
        if place == "slab":
            out = stack[slabs - 1]
        elif place:
            out = torch.zeros(height, width, 3 * channels, dtype=dtype, device=device)[..., place]
        low = None if low is None else low.to(device)
        found = dense.dense1x1(stack, packed, slabs, low, out, config)
        assert out is None or found is out
        assert_bounded(found.contiguous(), exact, plain)

    return check


@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_convolution_is_that_of_pytorch(channels, dtype, check):
    check(channels, dtype, 7, 13)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (32, 32), (33, 65)])
@pytest.mark.parametrize(("channels", "dtype"), [(24, FP16), (48, FP32)], ids=str)
def test_maps_of_any_size(channels, dtype, height, width, check, cut):
    check(channels, dtype, height, width, config=cut(16, 32), add=True)


def test_bfloat16(check, cut):
    check(24, BF16, 7, 13, add=True, config=cut(8, 16))


@pytest.mark.parametrize("slabs", [1, 2, 5, 11])
def test_first_slabs_alone(slabs, check, cut):
    check(24, FP32, 7, 13, slabs, spare=2, config=cut(8, 16))


@pytest.mark.parametrize("add", [False, True])
def test_in_place_onto_a_slab(add, check):
    check(24, FP32, 9, 17, slabs=3, add=add, place="slab")


@pytest.mark.parametrize("place", [slice(24), slice(24, 48), slice(48, 72)], ids=str)
@pytest.mark.parametrize("add", [False, True])
def test_into_part_of_wider_pixels(add, place, check, cut):
    check(24, FP16, 9, 17, add=add, place=place, config=cut(8, 16))


def maps(*shape: int, dtype: torch.dtype = FP32) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype)


@pytest.mark.parametrize(
    ("stack", "given", "message"),
    [
        (maps(4, 4, 16), {}, "2 or more x height x width x channels"),
        (maps(1, 4, 4, 16), {}, "2 or more x height"),
        (maps(2, 4, 16, 4).mT, {}, "stack must be contiguous"),
        (maps(2, 4, 4, 16), {"slabs": 0}, "slabs 1 or more"),
        (maps(8, 4, 4, 16), {"slabs": 5}, r"weights are \(64, 16\), not \(128, 16\)"),
        (maps(2, 4, 4, 24), {}, r"weights are \(64, 16\), not \(64, 24\)"),
        (maps(2, 4, 0, 16), {}, "none of them 0"),
        (maps(2, 4, 4, 16, dtype=FP16), {}, r"weights .* are torch\.bfloat16"),
        (maps(2, 4, 4, 16), {"addend": maps(4, 4, 8)}, r"must be \(4, 4, 16\)"),
        (maps(2, 4, 4, 16), {"addend": maps(4, 4, 16, dtype=FP16)}, r"addend is torch\.float16"),
        (maps(2, 4, 4, 16), {"addend": maps(4, 4, 32)[..., :16]}, "addend must be a contiguous map"),
        (maps(2, 4, 4, 16), {"out": maps(4, 5, 16)}, r"must be \(4, 4, 16\)"),
        (maps(2, 4, 4, 16), {"out": maps(4, 5, 16)[:, :4]}, "without gaps between rows"),
        (maps(2, 4, 4, 16), {"out": maps(4, 4, 16, dtype=FP16)}, "in the stack's dtype"),
        (maps(2, 4, 4, 16), {"out": maps(4, 16, 4).mT}, "rows of pixels"),
    ],
)
def test_what_cannot_be_is_refused(stack, given, message, device):
    packed = dense.pack(*weights(16, 2), BF16 if stack.dtype == FP16 else FP32)
    packed = {name: w.to(device) for name, w in packed.items()}
    slabs = given.get("slabs", 2)
    addend, out = (given[name].to(device) if name in given else None for name in ("addend", "out"))
    with pytest.raises(InputError, match=message):
        dense.dense1x1(stack.to(device), packed, slabs, addend, out)


def test_work_is_counted():
    assert dense.flops(3, 5, 24, slabs=4) == 2 * 15 * 4 * 24**2

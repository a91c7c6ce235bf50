from __future__ import annotations

import pytest
import torch

from derain_engine.base.errors import InputError
from derain_engine.kernels import mffb
from derain_engine.models.ssid_kd import MFFB

pytestmark = pytest.mark.usefixtures("interpreter")

CHANNELS = [16, 24, 32, 48]
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
#: Of the larger maps, which take the interpreter seconds each.
FAST = {(24, FP32, 32, 32), (24, FP16, 33, 65)}


def block(channels: int) -> dict[str, torch.Tensor]:
    """Return a state dict whose convolutions matter."""
    torch.manual_seed(channels)
    state = MFFB(channels).state_dict()
    return {name: 1.6 * tensor if tensor.ndim > 1 else 4 * tensor for name, tensor in state.items()}


def reference(x: torch.Tensor, state: dict[str, torch.Tensor], slope: float) -> torch.Tensor:
    """Run the network's own block in the precision of its arguments."""
    module = MFFB(x.shape[2], "leaky_relu" if slope else "relu").to(x.dtype)
    module.load_state_dict(state)
    with torch.no_grad():
        return module(x.movedim(-1, 0)[None])[0].movedim(0, -1).contiguous()


@pytest.fixture
def check(device, assert_bounded):
    def check(channels, dtype, height, width, config=None, slope=mffb.SLOPE):
        state, x = block(channels), torch.randn(height, width, channels)
        exact = reference(x, state, slope)
        plain = reference(x.to(dtype), {name: w.to(dtype) for name, w in state.items()}, slope)
        packed = {name: w.to(device) for name, w in mffb.pack(state, dtype).items()}
        configs = config and (config, config)
        assert_bounded(mffb.mffb(x.to(device, dtype), packed, slope, configs), exact, plain)

    return check


@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_block_is_that_of_pytorch(channels, dtype, check, cut):
    check(channels, dtype, 7, 13, cut(8, 16))


@pytest.mark.parametrize("channels", CHANNELS)
def test_single_pixel(channels, check, cut):
    check(channels, FP16, 1, 1, cut(4, 4))


def test_bfloat16(check, cut):
    check(24, BF16, 7, 13, cut(8, 16))


@pytest.mark.parametrize(("channels", "dtype"), [(16, FP16), (24, FP32)], ids=str)
def test_usual_tiles_meet(channels, dtype, check):
    check(channels, dtype, 9, 17)


def test_relu(check, cut):
    check(16, FP32, 7, 13, cut(8, 16), slope=0.0)


@pytest.mark.parametrize(
    ("channels", "dtype", "height", "width"),
    [
        pytest.param(
            channels, dtype, *size, marks=() if (channels, dtype, *size) in FAST else pytest.mark.slow
        )
        for channels in CHANNELS
        for dtype in (FP32, FP16)
        for size in ((32, 32), (33, 65))
    ],
    ids=str,
)
def test_larger_maps(channels, dtype, height, width, check, cut):
    check(channels, dtype, height, width, cut(32, 64))


@pytest.mark.parametrize(
    ("x", "channels", "message"),
    [
        (torch.zeros(1, 4, 4, 16), 16, "height x width x channels"),
        (torch.zeros(0, 4, 16), 16, "none of them 0"),
        (torch.zeros(4, 16, 4).mT, 16, "contiguous"),
        (torch.zeros(4, 4, 16, dtype=torch.float64), 16, r"not in torch\.float64"),
        (torch.zeros(4, 4, 16), 24, r"last_bias are \(24,\), not \(16,\)"),
        (torch.zeros(4, 4, 20), 20, "cannot tile 20 channels"),
        (torch.zeros(4, 4, 16, dtype=FP16), 16, r"weights .* are torch\.bfloat16"),
    ],
)
def test_what_cannot_be_is_refused(x, channels, message, device):
    packed = mffb.pack(block(channels), BF16 if x.dtype == FP16 else FP32)
    with pytest.raises(InputError, match=message):
        mffb.mffb(x.to(device), {name: w.to(device) for name, w in packed.items()})


def test_work_is_counted():
    # 3x3 and 5x5 on C, on 2C, and the 1x1: multiply-adds of a pixel in C squared.
    assert mffb.flops(3, 5, 24) == (2 * 15 * 24**2 * (9 + 25), 2 * 15 * 24**2 * (4 * (9 + 25) + 4))

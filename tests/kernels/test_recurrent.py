from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from derain_engine.base.errors import InputError
from derain_engine.kernels import recurrent
from derain_engine.kernels.gemm import pack_taps
from derain_engine.kernels.recurrent import GATES

pytestmark = pytest.mark.usefixtures("interpreter")

FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16


def weights(channels: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.randn(columns, channels, 3, 3) * 1.6 / (9 * channels) ** 0.5
    return weight, torch.randn(columns) * 0.5


def conv2d(maps, weight, bias):
    image = torch.cat(list(maps), 2).permute(2, 0, 1)[None]
    return F.conv2d(image, weight, bias, padding=1)[0].permute(1, 2, 0)


def reference(maps, weight, bias, addend, before, after):
    """Compute the convolution by PyTorch's operators, in the precision of the arguments."""
    y = conv2d(maps, weight, bias)
    y = y.relu() if before else y
    y = y if addend is None else y + addend[..., : y.shape[2]]
    return (y.relu() if after else y).contiguous()


def lstm_reference(x, hidden, cell, weights, biases):
    """Compute (hidden state, cell) by PyTorch's operators, in the precision of the arguments."""
    sums = {gate: conv2d([x, hidden], weights[gate], biases[gate]) for gate in GATES}
    cell = sums["f"].sigmoid() * cell + sums["i"].sigmoid() * sums["g"].tanh()
    return (sums["o"].sigmoid() * cell.tanh()).contiguous(), cell.contiguous()


@pytest.fixture
def check(device, assert_bounded):
    """Compares a convolution over one or two maps. parts: as ``pack_taps`` takes them. added: of an addend's pixels."""

    def check(parts, columns, dtype, height, width, config=None, pixel=0, added=0, before=False, after=False):
        torch.manual_seed(columns)
        weight, bias = weights(sum(real for real, _ in parts), columns)
        wide = torch.cat(
            [
                F.pad(part, (0, 0, 0, 0, 0, full - real))
                for part, (real, full) in zip(
                    weight.split([real for real, _ in parts], 1), parts, strict=True
                )
            ],
            1,
        )
        maps = [torch.randn(height, width, full) for _, full in parts]
        addend = torch.randn(height, width, added) if added else None
        if addend is not None and added > columns:
            addend[..., columns:] = 0
        exact = reference(maps, wide, bias, addend, before, after)
        low = [each.to(dtype) for each in maps]
        low_addend = None if addend is None else addend.to(dtype)
        plain = reference(low, wide.to(dtype), bias.to(dtype), low_addend, before, after)
        packed = {name: w.to(device) for name, w in pack_taps(weight, bias, dtype, parts).items()}
        first, *rest = (each.to(device) for each in low)
        second = rest[0] if rest else None
        low_addend = None if low_addend is None else low_addend.to(device)
        found = recurrent.conv(
            first, second, packed, columns, low_addend, pixel=pixel, before=before, after=after, config=config
        )
        assert_bounded(found[..., :columns].contiguous(), exact, plain)
        assert found.shape[2] == (pixel or columns) and not found[..., columns:].any()

    return check


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 13), (33, 65)])
@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
def test_picture_and_estimate(dtype, height, width, check, cut):
    check([(3, 4), (3, 4)], 32, dtype, height, width, before=True, config=cut(16, 32))


@pytest.mark.parametrize("dtype", [FP16, BF16], ids=str)
def test_residual_block(dtype, check, cut):
    check([(32, 32)], 32, dtype, 9, 17, added=32, before=True, after=True, config=cut(8, 16))


@pytest.mark.parametrize(("pixel", "added"), [(4, 4), (3, 4), (3, 0), (4, 0)])
def test_estimates_in_wider_pixels(pixel, added, check, cut):
    check([(32, 32)], 3, FP32, 7, 13, pixel=pixel, added=added, config=cut(8, 16))


def test_columns_of_two_powers_and_unlike_maps(check, cut):
    check([(16, 16), (24, 24)], 24, FP32, 5, 9, config=cut(8, 16))


def test_usual_tiles_meet(check):
    check([(32, 32)], 32, FP16, 9, 17, before=True)


@pytest.fixture
def gates():
    torch.manual_seed(1)
    made = {gate: weights(32, 16) for gate in GATES}
    return {gate: w for gate, (w, _) in made.items()}, {gate: b for gate, (_, b) in made.items()}


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize(
    ("dtype", "height", "width"), [(FP32, 7, 13), (FP16, 9, 17), (BF16, 3, 5), (FP16, 1, 1)], ids=str
)
def test_lstm(dtype, height, width, start, gates, device, assert_bounded, cut):
    torch.manual_seed(2)
    x, hidden, cell = (torch.randn(height, width, 16) for _ in range(3))
    if start:
        hidden, cell = torch.zeros_like(hidden), torch.zeros_like(cell)
    weight, bias = gates
    exact = lstm_reference(x, hidden, cell, weight, bias)
    x, hidden, cell = (each.to(dtype) for each in (x, hidden, cell))
    plain = lstm_reference(
        x,
        hidden,
        cell,
        {g: w.to(dtype) for g, w in weight.items()},
        {g: b.to(dtype) for g, b in bias.items()},
    )
    packed = {name: w.to(device) for name, w in recurrent.pack_gates(weight, bias, dtype).items()}
    x, hidden, cell = (each.to(device) for each in (x, hidden, cell))
    if start:
        # What is there before the first step counts for nothing.
        cell = torch.full_like(cell, torch.nan)
    found = recurrent.lstm(x, None if start else hidden, cell, packed, cut(8, 16))
    assert_bounded(found, exact[0], plain[0])
    assert_bounded(cell, exact[1], plain[1])


def maps(*shape: int, dtype: torch.dtype = FP32) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype)


def test_what_cannot_be_is_refused(gates, device):
    weight, bias = weights(32, 16)
    packed = {k: w.to(device) for k, w in pack_taps(weight, bias, FP32, [(16, 16)] * 2).items()}
    x = maps(4, 5, 16).to(device)
    for second, columns, addend, pixel, message in (
        (x[:3], 16, None, 0, "All maps must be of 4 x 5 pixels"),
        (None, 16, None, 0, r"weights are \(384, 16\), not \(192, 16\)"),
        (x, 24, None, 0, r"weights are \(384, 16\), not \(384, 24\)"),
        (x, 16, maps(4, 5, 8).to(device), 0, "pixels of 16 to 16 elements"),
        (x, 16, None, 32, "pixels of 16 to 16 elements"),
        (x.half(), 16, None, 0, "second is torch.float16"),
    ):
        with pytest.raises(InputError, match=message):
            recurrent.conv(x, second, packed, columns, addend, pixel=pixel)
    gate = {k: w.to(device) for k, w in recurrent.pack_gates(gates[0], gates[1], FP32).items()}
    with pytest.raises(InputError, match=r"x, hidden and cell must all be \(4, 5, 16\)"):
        recurrent.lstm(x, x[:3], x.clone(), gate)
    with pytest.raises(InputError, match=r"takes 8, 16, 32, .* channels, not 24"):
        recurrent.lstm_call(24, recurrent.LSTM.config(24))


def test_work_is_counted():
    assert recurrent.flops(3, 5, 64, 128) == 2 * 15 * 9 * 64 * 128

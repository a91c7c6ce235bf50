from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch

from derain_engine.base.errors import InputError
from derain_engine.kernels import chain, pffb
from derain_engine.kernels.launch import LaunchConfig
from derain_engine.models.ssid_kd import PFFB

pytestmark = pytest.mark.usefixtures("interpreter")

CHANNELS = [16, 24, 32, 48]
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
SCALES = (1, 2, 4, 8)
MOST_ROWS = chain.MOST_ROWS


def block(channels: int) -> dict[str, torch.Tensor]:
    """Return a state dict in which every scale matters."""
    torch.manual_seed(channels)
    state = PFFB(channels).state_dict()
    return {name: 1.6 * tensor if tensor.ndim > 1 else 4 * tensor for name, tensor in state.items()}


def alike(length: Sequence[int]) -> dict[int, Sequence[int]]:
    return dict.fromkeys(SCALES, length)


def reference(x: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Run the network's own block in the precision of its arguments."""
    module = PFFB(x.shape[2]).to(x.dtype)
    module.load_state_dict(state)
    with torch.no_grad():
        return module(x.movedim(-1, 0)[None])[0].movedim(0, -1).contiguous()


@pytest.fixture
def check(device, cut, assert_bounded, monkeypatch):
    """Runs a block of which the interpreter makes tiles of 8 x 16, or of the size given, and compares it."""
    if cut(8, 16):
        monkeypatch.setattr(chain, "MOST_ROWS", 512)

    def check(
        channels: int,
        dtype: torch.dtype,
        height: int,
        width: int,
        lengths: Mapping[int, Sequence[int]] = pffb.DEFAULT_LENGTHS,
        tile: tuple[int, int] = (8, 16),
        configs: Mapping[str, LaunchConfig] | None = None,
    ) -> None:
        state, x = block(channels), torch.randn(height, width, channels)
        exact = reference(x, state)
        plain = reference(x.to(dtype), {name: w.to(dtype) for name, w in state.items()})
        packed = {name: w.to(device) for name, w in pffb.pack(state, dtype).items()}
        configs = configs or {"chain": cut(*tile), "pyramid": cut(32, 32)}
        assert_bounded(pffb.pffb(x.to(device, dtype), packed, lengths, configs), exact, plain)

    return check


@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_block_is_that_of_pytorch(channels, dtype, check):
    """Pools drop a row and a column, and nearest upsampling is no shift."""
    check(channels, dtype, 9, 13)


def test_smallest_map(check):
    check(16, FP32, 8, 8)


def test_bfloat16(check):
    check(24, BF16, 9, 13)


def test_usual_tiles_meet(check, monkeypatch):
    monkeypatch.setattr(chain, "MOST_ROWS", MOST_ROWS)
    check(16, FP16, 17, 18, configs={"other": LaunchConfig()})


@pytest.mark.parametrize(
    ("channels", "dtype", "height", "width"), [(24, FP16, 32, 32), (16, FP32, 33, 65)], ids=str
)
def test_larger_maps(channels, dtype, height, width, check):
    check(channels, dtype, height, width, tile=(16, 32))


@pytest.mark.parametrize("lengths", [(4,), (2, 2), (1, 1, 1, 1), (1, 3), (3, 1)], ids=str)
def test_chains_may_be_cut_anywhere(lengths, check):
    check(16, FP32, 17, 9, alike(lengths), tile=(16, 8))


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(4,), (2, 2), (1, 1, 1, 1)], ids=str)
def test_cut_chains_of_many_tiles(lengths, check):
    check(48, FP16, 33, 17, alike(lengths))


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 17), (33, 65)])
@pytest.mark.parametrize(("channels", "dtype"), [(16, FP16), (24, FP32), (32, FP16), (48, FP32)], ids=str)
def test_larger_maps_of_all_widths(channels, dtype, height, width, check):
    check(channels, dtype, height, width, tile=(16, 32))


@pytest.mark.parametrize("dtype", [FP32, FP16], ids=str)
def test_every_scale_is_felt(dtype):
    """Show that the comparisons can see a scale that is missing: it moves the block by more than they allow."""
    state, x = block(24), torch.randn(33, 17, 24)
    exact = reference(x, state)
    plain = reference(x.to(dtype), {name: w.to(dtype) for name, w in state.items()})
    allowed = max(1e-4, 2 * (plain.float() - exact).abs().max().item() + 2e-3 * (dtype == FP16))
    for share in range(1, 4):
        changed = {name: tensor.clone() for name, tensor in state.items()}
        changed["fusion_all.0.weight"][:, share * 24 : (share + 1) * 24] = 0
        assert (reference(x, changed) - exact).abs().max() > 5 * allowed


def test_scratch_memory_is_that_of_its_programs():
    call = chain.chain_call(24, 4, "map", "map", False, LaunchConfig(8, 16))
    # Two regions with a halo of 3 pixels, for 2 x 2 programs.
    assert chain.scratch_elements(call, 9, 17) == 4 * 2 * (8 + 6) * (16 + 6) * 24
    alone = chain.chain_call(24, 1, "map", "map", False, LaunchConfig(8, 16))
    assert chain.scratch_elements(alone, 9, 17) == 0


def packed(channels: int, dtype: torch.dtype = FP32) -> dict[str, torch.Tensor]:
    return pffb.pack(block(channels), dtype)


@pytest.mark.parametrize(
    ("x", "channels", "lengths", "message"),
    [
        (torch.zeros(1, 1, 16), 16, (4,), "pools by 8; a map of 1 x 1 pixels is too small"),
        (torch.zeros(7, 13, 16), 16, (4,), "7 x 13 pixels is too small"),
        (torch.zeros(13, 7, 16), 16, (4,), "13 x 7 pixels is too small"),
        (torch.zeros(8, 16), 16, (4,), "height x width x channels"),
        (torch.zeros(8, 16, 8).mT, 16, (4,), "contiguous"),
        (torch.zeros(8, 8, 16, dtype=torch.int32), 16, (4,), r"not in torch\.int32"),
        (torch.zeros(8, 8, 16, dtype=FP16), 16, (4,), r"not torch\.float16"),
        (torch.zeros(8, 8, 16), 24, (4,), r"ending1_bias are \(24,\), not \(16,\)"),
        (torch.zeros(8, 8, 20), 20, (4,), "cannot tile 20 channels"),
        (torch.zeros(8, 8, 16), 16, (2, 1), "must add up to 4 convolutions"),
        (torch.zeros(8, 8, 16), 16, (4, 1), "must add up to 4 convolutions"),
    ],
)
def test_what_cannot_be_is_refused(x, channels, lengths, message, device):
    weights = packed(channels, BF16 if x.dtype == FP16 else FP32)
    with pytest.raises(InputError, match=message):
        pffb.pffb(x.to(device), {name: w.to(device) for name, w in weights.items()}, alike(lengths))


def test_work_is_counted():
    # 9 x 17 pixels, 4 x 8, 2 x 4 and 1 x 2; four 3x3 a scale, and the shares of the fusions.
    unit = 2 * 24**2
    assert pffb.flops(9, 17, 24) == {
        "pyramid": unit * (153 + 32 + 8),
        "chain1": unit * 153 * 37,
        "chain2": unit * 32 * 38,
        "chain4": unit * 8 * 38,
        "chain8": unit * 2 * 38,
    }

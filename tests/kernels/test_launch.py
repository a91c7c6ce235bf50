from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from derain_engine.base.errors import InputError
from derain_engine.kernels.launch import Call, LaunchConfig, check_maps, check_shapes
from derain_engine.kernels.record import Kernel, kernels


@triton.jit
def fill_kernel(x, out, H, W, FIRST: tl.constexpr, COUNT: tl.constexpr, TILE_H, TILE_W, BLOCK_K):
    """Write out[FIRST : FIRST + COUNT] = x[0]."""
    at = FIRST + tl.arange(0, 16)
    tl.store(out + at, tl.load(x), mask=at < FIRST + COUNT)


FILL = Kernel("test.fill", fill_kernel, reads="x", writes="out", constants="FIRST COUNT", plain=None)


@pytest.mark.parametrize(
    ("first", "count", "caught"), [(0, 8, False), (-1, 8, True), (0, 9, True), (1, 8, True)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
def test_writing_beside_an_output_is_caught(first, count, caught, dtype, device):
    """Try the guards that the tests of all kernels stand on."""
    x, out = torch.ones(1, dtype=dtype, device=device), torch.zeros(8, dtype=dtype, device=device)
    call = Call("test.fill", {"FIRST": first, "COUNT": count}, LaunchConfig())
    if caught:
        with pytest.raises(AssertionError, match="wrote 1 values outside its output"):
            FILL.launch(call, [x, out], (1, 1))
    else:
        FILL.launch(call, [x, out], (1, 1))
        assert torch.equal(out, torch.ones_like(out))


def test_writing_beside_a_part_of_an_output_is_caught(device):
    x, wide = torch.ones(1, device=device), torch.zeros(8, 2, device=device)
    call = Call("test.fill", {"FIRST": 0, "COUNT": 8}, LaunchConfig())
    with pytest.raises(AssertionError, match="wrote 4 values outside its output"):
        FILL.launch(call, [x, wide[:, 0]], (1, 1))


def test_what_is_not_written_stays_nan(device):
    x, out = torch.ones(1, device=device), torch.zeros(8, device=device)
    FILL.launch(Call("test.fill", {"FIRST": 0, "COUNT": 7}, LaunchConfig()), [x, out], (1, 1))
    assert out.isnan().tolist() == [False] * 7 + [True]


@pytest.mark.parametrize(
    ("size", "programs"), [((1, 1), 1), ((8, 16), 1), ((9, 16), 2), ((8, 17), 2), ((33, 65), 25)]
)
def test_grid_covers_the_map(size, programs):
    assert Call("any", {}, LaunchConfig(8, 16)).grid(*size) == (programs, 1, 1)
    assert Call("any", {}, LaunchConfig(8, 16), planes=3).grid(*size) == (programs, 3, 1)


def test_compile_time_arguments_are_those_of_kernel_and_configuration():
    call = Call("any", {"C": 24, "SLOPE": 0.2}, LaunchConfig(4, 32, 64))
    assert call.compile_time() == {"C": 24, "SLOPE": 0.2, "TILE_H": 4, "TILE_W": 32, "BLOCK_K": 64}


@pytest.mark.parametrize("channels", [16, 24, 32, 48])
@pytest.mark.parametrize("kernel", kernels(), ids=lambda kernel: kernel.name)
def test_usual_configurations_are_powers_of_two_that_divide_the_packed_rows(kernel, channels):
    config = kernel.config(channels)
    assert all(n & (n - 1) == 0 for n in (config.tile_h, config.tile_w, config.block_k, config.warps))
    assert 64 % config.block_k == 0
    if kernel.tiles:
        assert (config.tile_h, config.tile_w) in kernel.tiles
    if kernel.name == "pffb.pyramid":
        assert config.tile_h == config.tile_w in (16, 32)
    if kernel.frames:
        assert config.block_k == 4


def maps(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_maps_and_weights_that_fit(dtype):
    weights = {"matrix": maps(4, 4, dtype=dtype), "bias": maps(4, dtype=torch.float32)}
    assert check_maps({"x": maps(7, 13, 24, dtype=dtype), "y": maps(1, 2, 3, dtype=dtype)}, weights) == (
        7,
        13,
        24,
    )


@pytest.mark.parametrize(
    ("given", "weights", "message"),
    [
        ([maps(4, 4, 8, dtype=torch.float64)], {}, r"fp16, bf16 or fp32, not in torch\.float64"),
        ([maps(4, 8)], {}, "map0 must be a contiguous map"),
        ([maps(4, 4, 8), maps(1, 4, 4, 8)], {}, "map1 must be a contiguous map"),
        ([maps(4, 4, 0)], {}, "none of them 0"),
        ([maps(4, 8, 8)[:, ::2]], {}, "map0 must be a contiguous map"),
        (
            [maps(4, 4, 8), maps(4, 4, 8, dtype=torch.float32)],
            {},
            "map1 is torch.float32 on cpu, not torch.float16",
        ),
        (
            [maps(4, 4, 8), maps(4, 4, 8).to("meta")],
            {},
            "map1 is torch.float16 on meta, not torch.float16 on cpu",
        ),
        ([maps(4, 4, 8)], {"w": maps(2, dtype=torch.bfloat16)}, "weights w are torch.bfloat16 on cpu"),
        ([maps(4, 4, 8)], {"w": maps(2).to("meta")}, "weights w are torch.float16 on meta"),
    ],
)
def test_what_does_not_fit_is_refused(given, weights, message):
    with pytest.raises(InputError, match=message):
        check_maps({f"map{i}": tensor for i, tensor in enumerate(given)}, weights)


def test_weights_of_another_shape_are_refused():
    weights = {"w": maps(64, 24), "bias": maps(24)}
    check_shapes(weights, {"w": (64, 24)})
    with pytest.raises(InputError, match=r"weights bias are \(24,\), not \(32,\)"):
        check_shapes(weights, {"w": (64, 24), "bias": (32,)})

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import nn

from derain_engine.base.errors import BuildError, BundleError
from derain_engine.engine.backends.fused.emulation import FusedEmulation
from derain_engine.models.registry import create, spec_of
from derain_engine.models.spec import clean_image
from derain_engine.plan import Plan, lower
from derain_engine.plan.describe import describe
from derain_engine.plan.executors import run_by_torch, run_by_triton
from derain_engine.plan.stored import from_json, to_json

NAMES = ("prn", "prn-r", "prenet", "prenet-r", "prenet-lstm", "prenet-x", "vrgnet")
SIZES = [(1, 1), (7, 13), (33, 65)]


def network(name: str, stages: int = 2) -> nn.Module:
    torch.manual_seed(0)
    made = create(spec_of(name, {"stages": stages})).eval().requires_grad_(False)
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.mul_(1.6)
    return made


def picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(1))


def clean(made: nn.Module, image: torch.Tensor) -> torch.Tensor:
    return clean_image(made(image.permute(2, 0, 1)[None]))[0].permute(1, 2, 0)


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_is_lowered_to_what_it_computes(name: str) -> None:
    made, image = network(name, stages=3), picture(9, 17)
    plan = lower(made, "fp32")
    found = image - run_by_torch(plan, image).map(plan.rain)[0]
    expected = clean(made, image)
    assert (expected - image).abs().max() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pictures_of_any_size(height: int, width: int) -> None:
    made, image = network("prenet"), picture(height, width)
    plan = lower(made, "fp32", code=True)
    memory = run_by_torch(plan, image)
    torch.testing.assert_close(image - memory.map(plan.rain)[0], clean(made, image), rtol=1e-5, atol=1e-5)
    assert plan.code is not None and memory.map(plan.code.buffer).shape == (1, height, width, 32)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_halves_are_close(dtype: Any) -> None:
    made, image = network("prenet", stages=3), picture(16, 24)
    plan = lower(made, dtype)
    error = (image - run_by_torch(plan, image).map(plan.rain)[0].float() - clean(made, image)).abs().max()
    assert 0 < error < (1e-2 if dtype == "fp16" else 8e-2)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs in Triton's interpreter")
@pytest.mark.parametrize("name", ["prenet", pytest.param("vrgnet", marks=pytest.mark.slow)])
def test_the_kernels_compute_the_plan(name: str) -> None:
    made, image = network(name), picture(7, 13)
    plan = lower(made, "fp32")
    found = image - run_by_triton(plan, image).map(plan.rain)[0]
    torch.testing.assert_close(found, clean(made, image), rtol=1e-5, atol=1e-5)


def test_launches_and_work_are_the_networks() -> None:
    """Count 13 launches a stage; a stage's multiplications less what the first state of zeros saves."""
    plan = lower(network("prenet", stages=6), "fp16")
    assert len(plan.steps) == 6 * 13
    saved = 9 * 32 * (4 * 64 - 3 * 32)
    assert sum(step.flops for step in plan.steps) == 2 * 32**2 * (1_010_880 - saved)
    kernels = [step.call.kernel for step in plan.steps]
    assert kernels.count("recurrent.lstm") == 6 and set(kernels) == {"recurrent.lstm", "recurrent.conv"}
    # conv0, the blocks, the estimate's and the rain's head, the first and the other steps of the LSTM.
    assert len(plan.calls()) == 7


def test_weights_are_stored_once_however_many_stages() -> None:
    few, many = (len(lower(network("prenet", stages), "fp16").weights) for stages in (2, 7))
    assert few == many
    recursive = len(lower(network("prenet-r", 2), "fp16").weights)
    assert few - recursive == pytest.approx(8 * 320 * 32 * 2, rel=0.02)


def test_a_plan_comes_back_from_its_bytes_and_runs() -> None:
    made = network("prenet-lstm")
    plan = lower(made, "fp16")
    again = from_json(to_json(plan), plan.weights)
    assert again == plan and again.granularity == 1
    assert f"{len(plan.steps)} launches" in describe(plan, 7, 13)
    image = picture(5, 6)
    found = FusedEmulation(again).run(image.numpy()[None])
    assert abs(torch.from_numpy(found[0]) - clean(made, image)).max() < 1e-2


def test_levels_need_sides_that_they_divide() -> None:
    made = lower(create(spec_of("ssid-kd", {"channels": [8, 8, 8], "units": [1, 1, 1]})).eval(), "fp16")
    data = to_json(made).replace(b'"granularity":32', b'"granularity":8')
    with pytest.raises(BundleError, match="a level below"):
        from_json(data, made.weights)
    old: Plan = from_json(to_json(made).replace(b'"granularity":32,', b""), made.weights)
    assert old == made


def test_a_gru_is_refused() -> None:
    with pytest.raises(BuildError, match="an LSTM and no GRU"):
        lower(network("prenet-gru"))

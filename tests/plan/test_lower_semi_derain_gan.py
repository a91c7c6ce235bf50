from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import nn

from derain_engine.base.errors import BuildError, BundleError
from derain_engine.engine.backends.fused.emulation import FusedEmulation
from derain_engine.models.registry import create, spec_of
from derain_engine.models.semi_derain_gan import PRESETS
from derain_engine.plan import lower
from derain_engine.plan.executors import run_by_torch, run_by_triton
from derain_engine.plan.stored import from_json, to_json


def network(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    config = {"iterations": 2, "width": 8, "base": 8, "levels": 2, **changes}
    made = create(spec_of("semi-derain-gan", config)).eval().requires_grad_(False)
    for module in made.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.mul_(1.6)
    return made


def picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(1))


def clean(made: nn.Module, image: torch.Tensor) -> torch.Tensor:
    return made(image.permute(2, 0, 1)[None])[0].permute(1, 2, 0)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 80), (48, 16)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"residual": True, "levels": 4},
        {"domain": "synthetic", "levels": 3, "iterations": 1},
        # Columns of 96 take two launches.
        {"base": 48, "levels": 1, "iterations": 1},
    ],
    ids=str,
)
def test_networks_are_lowered_to_what_they_compute(changes: dict[str, Any], height: int, width: int) -> None:
    made, image = network(**changes), picture(height, width)
    plan = lower(made, "fp32", code=True)
    memory = run_by_torch(plan, image)
    expected = clean(made, image)
    assert (expected - image).abs().max() > 0.05
    torch.testing.assert_close(image - memory.map(plan.rain)[0], expected, rtol=1e-5, atol=1e-5)
    step = 1 << changes.get("levels", 2)
    assert plan.granularity == step and plan.code is not None
    assert memory.map(plan.code.buffer).shape[1:3] == (height // step, width // step)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="runs in Triton's interpreter")
@pytest.mark.parametrize(
    "changes",
    [{"iterations": 1}, pytest.param({"residual": True, "base": 48}, marks=pytest.mark.slow)],
    ids=str,
)
def test_the_kernels_compute_the_plan(changes: dict[str, Any]) -> None:
    made, image = network(**changes), picture(8, 20)
    plan = lower(made, "fp32")
    found = image - run_by_triton(plan, image).map(plan.rain)[0]
    torch.testing.assert_close(found, clean(made, image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_halves_are_close(dtype: Any) -> None:
    made, image = network(), picture(16, 24)
    plan = lower(made, dtype)
    error = (image - run_by_torch(plan, image).map(plan.rain)[0].float() - clean(made, image)).abs().max()
    assert 0 < error < (2e-2 if dtype == "fp16" else 1e-1)


def test_launches_and_weights_of_the_presets() -> None:
    """Twelve convolutions and an LSTM an iteration, after one for the first mask; weights are stored once."""
    for name, config in PRESETS.items():
        made = create(spec_of("semi-derain-gan", config)).eval()
        plan = lower(made, "fp16")
        kernels = [step.call.kernel for step in plan.steps]
        assert kernels.count("recurrent.lstm") == config.iterations
        assert (
            kernels.count("pool.maximum") == config.levels
            and kernels.count("transposed.conv") >= config.levels
        )
        masks = sum(step.name.startswith(("mask", "iteration")) for step in plan.steps)
        assert masks == 1 + 13 * config.iterations
        parameters = sum(each.numel() for each in made.parameters())
        assert len(plan.weights) < 1.2 * 2 * parameters + 2**17, name


def test_a_plan_comes_back_from_its_bytes_and_runs() -> None:
    made = network(levels=3)
    plan = lower(made, "fp16")
    again = from_json(to_json(plan), plan.weights)
    assert again == plan and again.granularity == 8
    image = picture(16, 24)
    found = FusedEmulation(again).run(image.numpy()[None])
    assert abs(torch.from_numpy(found[0]) - clean(made, image)).max() < 2e-2
    less = to_json(plan).replace(b'"granularity":8', b'"granularity":4')
    with pytest.raises(BundleError, match="a level below"):
        from_json(less, plan.weights)


def test_widths_that_no_kernel_has_are_refused() -> None:
    for changes in ({"base": 7}, {"width": 24}):
        with pytest.raises(BuildError, match="channels"):
            lower(network(**changes))

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from derain_engine.base.errors import BuildError, InputError
from derain_engine.engine.verify import FP32_MAX_ABS, HALF_MAX_ABS, HALF_PSNR
from derain_engine.kernels.launch import LaunchConfig
from derain_engine.kernels.record import heuristic
from derain_engine.models.ssid_kd import PRESETS, SSIDKD, SSIDKDConfig
from derain_engine.plan import lower
from derain_engine.plan.executors import run_by_torch, run_by_triton
from derain_engine.plan.memory import Memory
from derain_engine.plan.program import Plan, View

from .networks import picture, strong

SMALL = SSIDKDConfig((16, 24, 32), (2, 2, 2))


def results(plan: Plan, memory: Memory) -> tuple[torch.Tensor, torch.Tensor]:
    """Rain layer and innermost map, C x H x W in fp32."""
    assert plan.code is not None
    maps = memory.map(plan.rain)[0], memory.map(plan.code.buffer)[plan.code.slab]
    rain, code = (found.permute(2, 0, 1).float() for found in maps)
    return rain, code


def assert_equals(network: SSIDKD, plan: Plan, memory: Memory, image: torch.Tensor) -> None:
    with torch.inference_mode():
        reference = network(image.permute(2, 0, 1)[None])
    for found, expected in zip(results(plan, memory), (reference.rain[0], reference.code[0]), strict=True):
        assert expected.std() > 0.05, "a map that is flat would prove nothing"
        error = (found - expected).abs()
        if plan.dtype == "fp32":
            assert error.max() <= FP32_MAX_ABS * max(1.0, float(expected.abs().max()))
        else:
            scale = max(1.0, float(expected.abs().max()))
            assert error.max() <= HALF_MAX_ABS * scale
            assert 20 * torch.log10(scale / error.square().mean().sqrt()) >= HALF_PSNR


@pytest.mark.parametrize("size", [(128, 128), (96, 160)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_the_plan_of_sid_equals_the_network(size: tuple[int, int]) -> None:
    network, image = strong(PRESETS["sid"]), picture(*size)
    plan = lower(network, "fp32", code=True)
    assert_equals(network, plan, run_by_torch(plan, image), image)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        SSIDKDConfig((16, 16, 16), (1, 1, 1)),
        SSIDKDConfig((24, 16, 48), (3, 1, 2), shared_units=False),
        SSIDKDConfig((16, 24, 16), (1, 2, 1), blocks="pffb"),
        SSIDKDConfig((16, 24, 16), (1, 2, 1), blocks="mffb", activation="relu"),
    ],
    ids=str,
)
@pytest.mark.parametrize("nominal", [(64, 64), (2048, 2048)], ids=["small", "large"])
def test_plans_of_other_networks_equal_them(config: SSIDKDConfig, nominal: tuple[int, int]) -> None:
    network, image = strong(config), picture(32, 96)
    plan = lower(network, "fp32", code=True, nominal=nominal)
    assert_equals(network, plan, run_by_torch(plan, image), image)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_stays_within_the_bounds(dtype) -> None:
    network, image = strong(SSIDKDConfig((16, 16, 16), (1, 1, 1))), picture(64, 64)
    plan = lower(network, dtype, code=True)
    memory = run_by_torch(plan, image)
    assert memory.map(plan.rain).dtype == {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    reference = network(image.permute(2, 0, 1)[None]).rain[0]
    error = results(plan, memory)[0] - reference
    assert error.abs().max() <= HALF_MAX_ABS
    assert -20 * torch.log10(error.square().mean().sqrt()) >= HALF_PSNR


def large_tiles(kernel: str, channels: int, level: int) -> LaunchConfig:
    """Few programs and turns of the inner loop: the interpreter's cost is by the operation, not by its size."""
    if kernel == "chain.chain":
        return LaunchConfig(16, 16, 64)
    return LaunchConfig(32, 32, 64 if not kernel.startswith("resample") else 16)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.slow
def test_a_whole_network_runs_in_the_kernels(dtype) -> None:
    network = strong(SSIDKDConfig((16, 16, 16), (1, 1, 1)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    image = picture(32, 32).to(device)
    # A GPU's programs have too little memory for such tiles.
    configure = heuristic if device == "cuda" else large_tiles
    plan = lower(network, dtype, code=True, nominal=(2048, 2048), configure=configure)
    memory = run_by_triton(plan, image)
    by_torch = run_by_torch(plan, image)
    for found, expected in zip(results(plan, memory), results(plan, by_torch), strict=True):
        assert expected.isfinite().all()
        assert (found - expected).abs().max() <= (1e-5 if dtype == "fp32" else 2e-2)
    if dtype == "fp32":
        assert_equals(network.to(device), plan, memory, image)


def test_sid_takes_few_launches() -> None:
    """Count two more, which put a frame in and take it out."""
    plan = lower(SSIDKD(PRESETS["sid"]), "fp16")
    assert len(plan.steps) + 2 <= 510
    kernels = [step.call.kernel for step in plan.steps]
    assert kernels.count("mffb.stage1") == kernels.count("mffb.stage2") == kernels.count("pffb.pyramid") == 42
    # One 1x1 for every unit but the five whose result nothing reads.
    assert kernels.count("dense.dense1x1") == 42 - 5


def test_work_is_the_networks_without_what_is_dead_or_shared_out() -> None:
    """Count 3 925 443 multiply-adds a pixel, 9 760 of them dead; the PFFB's 1x1 on concatenations cost 6.625 C^2 a
    pixel of their scale and 2.96875 C^2 as shares; the picture's fourth channel is not counted; resizing is."""
    plan = lower(SSIDKD(PRESETS["sid"]), "fp16")
    products = sum(step.flops for step in plan.steps if step.call.kernel != "resample.bilinear") / 2 / 32**2
    pffb = 20 * 24**2 + 16 * 32**2 / 4 + 6 * 48**2 / 16
    assert products == pytest.approx(3_925_443 - 9_760 - (6.625 - 2.96875) * pffb, rel=1e-9)


def test_weights_of_shared_units_are_stored_once() -> None:
    shared, apart = (
        len(lower(SSIDKD(SSIDKDConfig((16, 16, 16), (4, 1, 1), shared_units=yes)), "fp16").weights)
        for yes in (True, False)
    )
    unit = 328 * 16**2 * 2
    assert apart - shared == pytest.approx(6 * unit, rel=0.3)


def test_a_step_that_reads_what_nothing_wrote_is_seen() -> None:
    plan = lower(strong(SMALL), "fp32")
    broken = dataclasses.replace(
        plan, steps=tuple(s for s in plan.steps if not s.name.endswith("units.0.mffb.1"))
    )
    assert run_by_torch(broken, picture(32, 32)).map(broken.rain).isnan().any()


def test_networks_and_options_that_it_does_not_know_are_refused() -> None:
    with pytest.raises(BuildError, match="no Conv2d network"):
        lower(nn.Conv2d(3, 3, 1))
    plain = SSIDKDConfig((16, 16, 16), (1, 1, 1))
    for option, config in (
        ("pyramid", dataclasses.replace(plain, pyramid="maxpool")),
        ("pffb_entry", dataclasses.replace(plain, pffb_entry="resblock")),
    ):
        with pytest.raises(BuildError, match=f"no {option}="):
            lower(SSIDKD(config))
    with pytest.raises(InputError, match="cannot tile 20 channels"):
        lower(SSIDKD(SSIDKDConfig((20, 16, 16), (1, 1, 1))))


@pytest.mark.parametrize("size", [(33, 32), (32, 0), (16, 32)])
def test_sides_that_are_no_multiples_are_refused(size: tuple[int, int]) -> None:
    plan = lower(SSIDKD(SSIDKDConfig((16, 16, 16), (1, 1, 1))))
    with pytest.raises(InputError, match="multiples of 32"):
        Memory(plan, *size)


def test_the_code_is_kept_only_where_it_is_asked_for() -> None:
    plan = lower(strong(SMALL))
    assert plan.code is None and isinstance(lower(strong(SMALL), code=True).code, View)


def test_configurations_are_asked_for_by_kernel_channels_and_level() -> None:
    asked = set()

    def configure(kernel: str, channels: int, level: int) -> LaunchConfig:
        asked.add((kernel, channels, level))
        if (kernel, channels, level) == ("chain.chain", 24, 2):
            return LaunchConfig(16, 16, 16, 8, 2)
        return heuristic(kernel, channels, level)

    plan, plain = lower(SSIDKD(SMALL), configure=configure), lower(SSIDKD(SMALL))
    steps = {(s.call.kernel, s.call.constants["C"], int(str(s.sizes[0])[1:])) for s in plan.steps}
    assert asked == steps and len(asked) > 25
    for step, other in zip(plan.steps, plain.steps, strict=True):
        changed = (
            step.call.kernel == "chain.chain" and step.call.constants["C"] == 24 and step.sizes[0] == "h2"
        )
        assert (step.call.config == LaunchConfig(16, 16, 16, 8, 2)) == changed
        # The lengths are the cost model's either way, and so are the tiles of what was not measured.
        assert step.call.constants.get("LENGTH") == other.call.constants.get("LENGTH")
        assert changed or step.call == other.call

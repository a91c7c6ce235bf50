from __future__ import annotations

import pytest
import torch

from derain_engine.base.errors import InputError
from derain_engine.bench.kernels import launches
from derain_engine.bench.kernels.alike import alike
from derain_engine.bench.kernels.ceilings import Ceilings
from derain_engine.bench.kernels.launches import Times, measure_launches

CEILINGS = Ceilings("cuda", "fp16", 2000.0, 500.0, 1, 1, 1, None)


@pytest.fixture
def measure(rig, gpu, memory, monkeypatch, cuda):
    """Rivals run at once, where a GPU captures them, and take 20 and 15 ticks."""
    monkeypatch.setattr(launches, "measure_ceilings", lambda *_, **__: CEILINGS)

    def captured(function, arguments):
        def run():
            function(*arguments)
            for _ in range(15 if getattr(function, "compiled", False) else 20):
                next(cuda._time)

        return run

    def compiler(function, **options):
        assert options == {"mode": "max-autotune-no-cudagraphs", "dynamic": False}

        def run(*arguments):
            return function(*arguments)

        run.compiled = True
        return run

    monkeypatch.setattr(launches, "captured", captured)
    monkeypatch.setattr(torch, "compile", compiler)

    def run(*kernels, compiled=True, progress=lambda stage, done: None):
        return measure_launches(
            rig,
            memory,
            compile_calls=gpu.compile_calls,
            kernels=kernels,
            runs=2,
            compiled=compiled,
            progress=progress,
        )

    return run


def test_rows_say_what_was_measured(measure, memory, rig):
    told = []
    found = measure(progress=lambda *about: told.append(about))
    kinds = alike(memory)
    assert len(found.rows) == len(kinds) and found.failed is None and found.ceilings == CEILINGS
    for row, each in zip(found.rows, kinds, strict=True):
        assert (row.kernel, row.channels, row.level) == each.key and row.step == each.step.name
        assert row.launches == each.launches and [row.height, row.width] == each.sizes[:2]
        assert row.kernel_ms == Times(5.5, 5.5, 5.5)
        assert row.eager_ms.median_ms == 10.5 and row.compiled_ms is not None
        assert row.compiled_ms.median_ms == 8.0 and row.verified
        # Of 32x64 pixels: twice 32x32.
        assert row.flops == 2 * each.step.flops
        assert row.bytes == 2 * each.step.map_bytes + each.step.weight_bytes
        assert row.tflop_s == pytest.approx(row.flops / 5.5e-3 / 1e12)
        assert row.gb_s == pytest.approx(row.bytes / 5.5e-3 / 1e9)
        assert row.of_matmul == pytest.approx(row.tflop_s / 500)
        assert row.of_copy == pytest.approx(row.gb_s / 2000)
    steps = len(memory.plan.steps)
    assert found.sum_ms("kernel_ms") == pytest.approx(5.5 * steps)
    assert found.sum_ms("eager_ms") == pytest.approx(10.5 * steps)
    # Ten ticks a launch, and one for the only event.
    assert found.frame_ms is not None and found.frame_ms.median_ms == 0.5 * (10 * steps + 1)
    assert {"measuring ceilings", "timing mffb.stage1", "timing the whole plan"} <= {
        stage for stage, _ in told
    }


def test_one_kernel_alone(measure):
    found = measure("mffb.stage1", compiled=False)
    assert {row.kernel for row in found.rows} == {"mffb.stage1"} and len(found.rows) == 3
    assert found.frame_ms is None and found.sum_ms("compiled_ms") is None
    with pytest.raises(InputError, match=r"no kernel mffb\.stage3; it has chain\.chain, conv\.conv3x3"):
        measure("mffb.stage3")


def test_what_is_wrong_is_not_verified(measure, gpu):
    gpu.wrong = lambda call: call.constants["C"] == 24
    found = measure("mffb.stage1", compiled=False)
    assert [row.verified for row in found.rows] == [row.channels != 24 for row in found.rows]


def test_a_compiler_that_fails_is_told_once_and_left_out(measure, monkeypatch):
    tried = []

    def fails(function, **_):
        tried.append(function)
        raise RuntimeError("no C compiler\nsecond line")

    monkeypatch.setattr(torch, "compile", fails)
    found = measure("mffb.stage1")
    assert found.failed == "RuntimeError: no C compiler" and len(tried) == 1
    assert all(row.compiled_ms is None for row in found.rows)

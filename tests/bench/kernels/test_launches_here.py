from __future__ import annotations

import contextlib

import pytest

from derain_engine.base.errors import InputError
from derain_engine.bench.kernels import launches
from derain_engine.kernels import tuned
from derain_engine.kernels.launch import LaunchConfig
from derain_engine.plan import Dtype

from ...plan.networks import strong
from .conftest import SMALL

BEST = LaunchConfig(4, 16, 16, 4, 2)


@pytest.fixture
def measured(rig, monkeypatch, tmp_path):
    """Measures on the stand-in, for which one configuration was tuned; without PyTorch's rivals."""

    def measure_launches(rig, memory, **options):
        calls = [step.call for step in memory.plan.steps]
        return options, options["compile_calls"](calls, "fp16", ["sm_90"]), memory

    monkeypatch.setattr(launches, "find_networks", lambda names: [strong(SMALL)])
    monkeypatch.setattr(launches, "measure_launches", measure_launches)
    monkeypatch.setattr(tuned, "DATA", tmp_path / "tuned.json")
    entry = tuned.Entry("mffb.stage1", 16, 1, BEST, 2.0, 1.0)
    about = ("580.1", "13.0", "3.6.0", 512, 512, "2026", "kernels tune")
    tuned.save([tuned.TuningRun("Stand-in 9000", "sm_90", "fp16", *about, entries=(entry,))], tuned.DATA)

    def run(shape: tuple[int, int] = (32, 64), precision: Dtype = "fp16"):
        return launches.measure_here(
            "small",
            shape,
            precision,
            kernels=("mffb.stage1",),
            compiled=False,
            runs=7,
            rig=lambda: contextlib.nullcontext(rig),
            compile_calls=lambda calls, *_: calls,
            device="cpu",
        )

    return run


def test_kernels_are_cut_as_was_measured_on_this_gpu(measured):
    (options, calls, memory), facts = measured()
    assert options["kernels"] == ("mffb.stage1",) and options["runs"] == 7 and not options["compiled"]
    assert (memory.height, memory.width, memory.plan.dtype) == (32, 64, "fp16")
    assert {c.constants["C"] for c in calls if c.kernel == "mffb.stage1" and c.config == BEST} == {16}
    assert {"gpu": "Stand-in 9000", "target": "sm_90"}.items() <= facts.items() and facts["torch"][
        0
    ].isdigit()
    (_, calls, memory), _ = measured(precision="bf16")
    assert memory.plan.dtype == "bf16" and BEST not in {call.config for call in calls}


def test_sides_that_are_no_multiples_are_refused(measured):
    with pytest.raises(InputError, match="multiples of 32, not 33x32"):
        measured(shape=(32, 33))

from __future__ import annotations

import numpy as np
import pytest

from derain_engine.base.errors import BackendUnavailable
from derain_engine.bench.kernels import rig as module
from derain_engine.bench.kernels.alike import alike
from derain_engine.device import driver


def test_works_take_turns_and_the_cache_is_cold(cuda, rig):
    order = []

    def work(name, ticks):
        def run():
            order.append((name, cuda.called("cuMemsetD8Async")))
            for _ in range(ticks):
                next(cuda._time)

        return run

    times = rig.time([work("a", 4), work("b", 9)], 3)
    # Half a millisecond a tick, and one for the event itself.
    np.testing.assert_array_equal(times, [[2.5] * 3, [5.0] * 3])
    assert [name for name, _ in order[:6]] == ["a"] * 3 + ["b"] * 3
    assert order[6:] == [("a", 1), ("b", 2), ("a", 3), ("b", 4), ("a", 5), ("b", 6)]
    fills = [call for call in cuda.calls if call[0] == "cuMemsetD8Async"]
    assert all(nbytes == 64 for _, _, _, nbytes, _ in fills) and len({call[2] for call in fills}) == 3
    assert not cuda.events


def test_a_launch_is_the_devices_and_can_be_captured(cuda, rig, gpu, memory):
    each = next(each for each in alike(memory) if each.key[0] == "mffb.stage1")
    kernel = gpu.compile(each.step.call, "fp16", "sm_90")
    work = rig.launcher(kernel, each.pointers(each.step.call), each.sizes)
    work()
    assert gpu.launched == [each.step.call] and rig.context.launches == 1
    (launch,) = (call for call in cuda.calls if call[0] == "cuLaunchKernel")
    assert launch[2:8] == (*each.step.call.grid(*each.sizes[:2]), 128, 1, 1)
    graph = rig.captured(work)
    assert len(gpu.launched) == 1
    graph()
    graph()
    assert len(gpu.launched) == 3


def test_facts_are_the_machines(rig, tmp_path, monkeypatch):
    table = tmp_path / "version"
    table.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n"
        "GCC version:  gcc version 12.3.0\n"
    )
    monkeypatch.setattr(module, "_DRIVER_TABLE", table)
    facts = rig.facts()
    assert {
        "gpu": "Stand-in 9000",
        "target": "sm_90",
        "driver": "580.95.05",
        "cuda": "13.4",
    }.items() <= facts.items()
    assert facts["triton"][0].isdigit()
    monkeypatch.setattr(module, "_DRIVER_TABLE", tmp_path / "none")
    assert rig.facts()["driver"] == "unknown"


def test_a_pytorch_without_cuda_is_told(cuda, monkeypatch):
    monkeypatch.setattr(module, "driver", driver)
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match=r"PyTorch \(.*without CUDA"), module.open_rig():
        pass


def test_a_machine_without_a_gpu_is_told(monkeypatch):
    monkeypatch.setattr(driver, "unavailable", lambda: "no GPU here")
    with pytest.raises(BackendUnavailable, match="no GPU here"), module.open_rig():
        pass

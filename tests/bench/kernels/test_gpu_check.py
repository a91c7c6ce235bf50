"""The one-go check of a GPU, on a GPU that is none."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from derain_engine.base.errors import BackendUnavailable, VerificationError
from derain_engine.bench import gpu_check
from derain_engine.engine.backends import get
from derain_engine.models.registry import spec_of
from derain_engine.plan import memory as memory_module

from ...plan.networks import strong
from .conftest import SMALL


@pytest.fixture
def small(monkeypatch):
    network = strong(SMALL)
    checkpoint = SimpleNamespace(network=network, spec=spec_of("ssid-kd", SMALL), weights_sha256="0" * 64)
    monkeypatch.setattr(gpu_check, "find_checkpoint", lambda model: checkpoint)
    return checkpoint


def kernels(rig, gpu, memory, monkeypatch) -> list[gpu_check.GpuCheck]:
    monkeypatch.setattr(memory_module, "Memory", lambda *_: memory)
    return list(
        gpu_check.check_kernels(
            "small",
            "fp16",
            rig=lambda: contextlib.nullcontext(rig),
            compile_calls=gpu.compile_calls,
            device="cpu",
        )
    )


def test_every_kernel_is_tried(small, rig, gpu, memory, monkeypatch):
    found = kernels(rig, gpu, memory, monkeypatch)
    assert found and all(outcome.passed for outcome in found)
    tried = " ".join(outcome.what for outcome in found)
    assert all(step.call.kernel in tried for step in memory.plan.steps)


def test_a_wrong_kernel_is_named(small, rig, gpu, memory, monkeypatch):
    gpu.wrong = lambda call: call.kernel == "mffb.stage2"
    found = kernels(rig, gpu, memory, monkeypatch)
    assert {outcome.passed for outcome in found} == {True, False}
    assert all(outcome.passed == ("mffb.stage2" not in outcome.what) for outcome in found)


class Emulated:
    """The fused backend, run by PyTorch's operators; off by ``error``."""

    def __init__(self, error: float = 0.0) -> None:
        self.error, self.backend = error, get("fused")

    def compile(self, network: Any, spec: Any, options: Any) -> Any:
        assert options.gpu == "current"
        return self.backend.compile(network, spec, replace(options, gpu=None))

    def open(self, artefact: Any, options: Any) -> Any:
        session = self.backend.emulate(artefact)
        assert session is not None

        def run(batch: np.ndarray) -> np.ndarray:
            result = session.run(batch)
            return result + np.float32(self.error) if batch.dtype == np.float32 else result

        return SimpleNamespace(
            run=run, close=session.close, precision=session.precision, parallelism=1, available_memory=None
        )


@pytest.mark.parametrize(("error", "passed"), [(0.0, True), (0.05, False), (np.nan, False)])
def test_networks_are_compared_at_every_size(small, monkeypatch, error, passed):
    monkeypatch.setattr(gpu_check, "get", lambda name: Emulated(error))
    sizes = ((32, 32), (33, 65))
    found = list(gpu_check.check_network("small", "fp16", sizes, reference_on="cpu"))
    assert [outcome.what for outcome in found[:2]] == ["small fp16: 32x32", "small fp16: 33x65"]
    assert [outcome.passed for outcome in found[:2]] == [passed, passed]
    # In 8 bits nothing is off.
    assert [outcome.found for outcome in found[2:]] == ["equal", "equal"]
    if passed:
        assert "dB" in found[0].found


def test_frames_that_come_out_otherwise_are_counted():
    one, other = np.zeros((2, 2, 3)), np.ones((2, 2, 3))
    assert gpu_check._equal("a", [one, one], [one, one]) == gpu_check.GpuCheck("a", True, "equal")
    assert gpu_check._equal("a", [one, one], [one, other]) == gpu_check.GpuCheck("a", False, "1 of 2 differ")


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, VerificationError.exit_code)])
def test_each_outcome_has_its_line(monkeypatch, capsys, passed, code):
    outcome = gpu_check.GpuCheck("a kernel", passed, "as it is")
    monkeypatch.setattr(gpu_check, "check_kernels", lambda *_: iter([outcome]))
    monkeypatch.setattr(gpu_check, "check_network", lambda *_: iter([]))
    assert gpu_check.main(["--here", "--network", "sid", "--precision", "fp16"]) == code
    assert capsys.readouterr().out == f"{'ok  ' if passed else 'FAIL'} a kernel: as it is\n"


def test_what_a_fault_ends_is_told_and_the_rest_checked(monkeypatch, capsys):
    def faulty(*_):
        yield gpu_check.GpuCheck("a kernel", True, "as it is")
        raise RuntimeError("illegal address")

    monkeypatch.setattr(gpu_check, "check_kernels", faulty)
    monkeypatch.setattr(
        gpu_check, "check_network", lambda *_: iter([gpu_check.GpuCheck("all", True, "equal")])
    )
    code = gpu_check.main(["--here", "--network", "sid", "--precision", "fp16"])
    assert code == VerificationError.exit_code
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "ok   a kernel: as it is",
        "FAIL sid fp16: kernels: RuntimeError: illegal address",
        "ok   all: equal",
    ]


@pytest.mark.parametrize(("codes", "code"), [((0, 0), 0), ((0, 4), 4), ((-11, 0), 4)])
def test_networks_have_processes_of_their_own(monkeypatch, capsys, rig, codes, code):
    asked, left = [], list(codes)

    def run(command, **_):
        asked.append(command[command.index("--network") + 1 :: 2])
        return SimpleNamespace(returncode=left.pop(0))

    monkeypatch.setattr(gpu_check, "open_rig", lambda: contextlib.nullcontext(rig))
    monkeypatch.setattr(gpu_check.subprocess, "run", run)
    arguments = ["--network", "sid", "--network", "sid-lite", "--precision", "bf16"]
    assert gpu_check.main(arguments) == code
    assert asked == [["sid", "bf16"], ["sid-lite", "bf16"]]
    told = capsys.readouterr().out
    assert "Stand-in 9000" in told and ("all passed" in told) == (code == 0)
    assert ("ended with -11" in told) == (-11 in codes)


def test_without_a_gpu_it_leaves_with_3(monkeypatch, capsys):
    @contextlib.contextmanager
    def missing():
        raise BackendUnavailable("There is no GPU.")
        yield

    monkeypatch.setattr(gpu_check, "open_rig", missing)
    assert gpu_check.main([]) == BackendUnavailable.exit_code == 3
    assert "There is no GPU." in capsys.readouterr().err

"""Engines whose launches were measured on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from derain_engine.base.progress import Progress
from derain_engine.engine.backends.base import CompileOptions
from derain_engine.engine.backends.fused import backend, payload
from derain_engine.engine.backends.fused.payload import StoredKernel
from derain_engine.kernels.launch import Configure
from derain_engine.kernels.record import heuristic
from derain_engine.models.ssid_kd import SSIDKD
from derain_engine.plan import Plan

from ....device.conftest import StandIn
from ..conftest import SPEC


def test_each_gpu_gets_the_launches_that_were_measured_for_it(
    cuda: StandIn, fused_network: SSIDKD, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None, str]] = []
    compiled: dict[str, Plan] = {}

    def configure_for(target: str, name: str | None, precision: str) -> Configure:
        asked.append((target, name, precision))
        return (lambda *of: replace(heuristic(*of), stages=1)) if target == "sm_80" else heuristic

    def compile_for(plan: Plan, gpu: str, progress: Progress) -> list[StoredKernel]:
        compiled[gpu] = plan
        return []

    monkeypatch.setattr(backend, "configure_for", configure_for)
    monkeypatch.setattr(backend.fused_kernels, "compile_for", compile_for)
    artefact = backend.backend.compile(fused_network, SPEC, CompileOptions(gpu="sm_80,sm_90"))
    # The name is known of the GPU that is here alone.
    assert asked == [("sm_80", None, "fp16"), ("sm_90", "Stand-in 9000", "fp16")]
    assert "fused/sm_80/plan.json" in artefact.payloads and "fused/sm_90/plan.json" not in artefact.payloads
    for gpu, measured in (("sm_80", True), ("sm_90", False)):
        calls = payload.read_plan(artefact.payloads, gpu).calls()
        assert calls == compiled[gpu].calls()
        assert all(call.config.stages == 1 for call in calls) == measured

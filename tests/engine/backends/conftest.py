"""The fused backend on the stand-in for the CUDA driver: a small network, its plan, its engine, an open session."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from derain_engine.engine.backends.base import Artefact, CompileOptions, RunOptions
from derain_engine.engine.backends.fused import kernels
from derain_engine.engine.backends.fused.backend import backend
from derain_engine.engine.backends.gpu_session import GpuSession
from derain_engine.models.registry import spec_of
from derain_engine.models.ssid_kd import SSIDKD, SSIDKDConfig
from derain_engine.plan import Plan, lower

from ...device.conftest import StandIn, cubin, cuda
from ...helpers import strong
from .fused_stand_in import StandInCompiler

__all__ = ["cubin", "cuda"]

SPEC = spec_of("ssid-kd", SSIDKDConfig((16, 16, 16), (1, 1, 1)))


@pytest.fixture(scope="session")
def fused_network() -> SSIDKD:
    return strong(SSIDKDConfig((16, 16, 16), (1, 1, 1)))


@pytest.fixture(scope="session")
def fused_plan(fused_network: SSIDKD) -> Plan:
    return lower(fused_network, "fp16")


@pytest.fixture(scope="session")
def _made(
    fused_network: SSIDKD, fused_plan: Plan, cubin: Callable[..., bytes]
) -> tuple[StandInCompiler, Artefact]:
    compiler = StandInCompiler(fused_plan, cubin)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "compile_calls", compiler)
        return compiler, backend.compile(fused_network, SPEC, CompileOptions("fp16", gpu="sm_90"))


@pytest.fixture
def compiler(
    cuda: StandIn, _made: tuple[StandInCompiler, Artefact], monkeypatch: pytest.MonkeyPatch
) -> StandInCompiler:
    """Put a stand-in into the compiler's place. It has been asked for nothing."""
    compiler, _ = _made
    compiler.run_on(cuda)
    compiler.asked.clear()
    monkeypatch.setattr(kernels, "compile_calls", compiler)
    return compiler


@pytest.fixture
def fused_artefact(compiler: StandInCompiler, _made: tuple[StandInCompiler, Artefact]) -> Artefact:
    """Return an artefact in fp16, with kernels for sm_90, which is what the stand-in is."""
    return _made[1]


@pytest.fixture
def fused_session(fused_artefact: Artefact) -> Iterator[GpuSession]:
    session = backend.open(fused_artefact, RunOptions())
    yield session
    session.close()
    # pytest keeps the session; its context goes when nothing refers to it.
    vars(session).clear()

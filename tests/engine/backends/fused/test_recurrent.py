"""A recurrent network as a fused engine on the stand-in for the CUDA driver: frames of any size, without padding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from derain_engine.engine import verify
from derain_engine.engine.backends.base import CompileOptions, RunOptions
from derain_engine.engine.backends.fused import kernels
from derain_engine.engine.backends.fused.backend import backend
from derain_engine.engine.backends.fused.emulation import FusedEmulation
from derain_engine.models.registry import create, spec_of
from derain_engine.plan import lower

from ....device.conftest import StandIn
from ..fused_stand_in import StandInCompiler


@pytest.mark.parametrize("name", ["prenet", "prenet-x"])
def test_frames_of_any_size_are_the_plan_to_the_bit(
    name: str, cuda: StandIn, cubin: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    spec = spec_of(name, {"stages": 2})
    network = create(spec).eval().requires_grad_(False)
    plan = lower(network, "fp16")
    compiler = StandInCompiler(plan, cubin)
    compiler.run_on(cuda)
    monkeypatch.setattr(kernels, "compile_calls", compiler)
    artefact = backend.compile(network, spec, CompileOptions("fp16", gpu="sm_90"))
    session = backend.open(artefact, RunOptions())
    try:
        for shape in ((1, 1, 1, 3), (2, 7, 13, 3), (1, 33, 65, 3)):
            batch = np.random.default_rng(0).random(shape, dtype=np.float32)
            clean = session.run(batch)
            np.testing.assert_array_equal(clean, FusedEmulation(plan).run(batch))
            expected = verify.reference_output(network, batch)
            assert np.abs(clean - expected).max() < verify.HALF_MAX_ABS
            assert session.launches == 2 * 13 + 2
    finally:
        session.close()
        vars(session).clear()

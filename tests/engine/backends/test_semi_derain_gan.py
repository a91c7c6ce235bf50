"""Semi-DerainGAN on every backend, at three sizes, against its network in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from derain_engine.engine import backends
from derain_engine.engine.backends.base import CompileOptions, RunOptions
from derain_engine.engine.backends.tensorrt.emulation import TensorRTEmulation
from derain_engine.export.half import to_half
from derain_engine.export.onnx import check_onnx, export_onnx
from derain_engine.models.registry import create, spec_of

from ...helpers import strong

SIZES = [(16, 16), (32, 80), (48, 16)]
SPEC = spec_of("semi-derain-gan", {"iterations": 2, "width": 8, "base": 8, "levels": 3})


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return strong(SPEC, seed=0)


def batch(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).random((2, height, width, 3), dtype=np.float32)


def expected(network: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        clean = network(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    assert clean.std() > 0.01
    return clean


def assert_fp32(found: np.ndarray, reference: np.ndarray) -> None:
    assert np.abs(found - reference).max() <= 1e-5 * max(1, np.abs(reference).max())


@pytest.mark.parametrize("name", [pytest.param("openvino", marks=pytest.mark.slow), "reference"])
def test_backends_of_the_cpu(name: str, network: nn.Module) -> None:
    backend = backends.get(name)
    artefact = backend.compile(network, SPEC, CompileOptions("fp32"))
    session = backend.open(artefact, RunOptions(threads=1))
    for size in SIZES:
        images = batch(*size)
        assert_fp32(session.run(images), expected(network, images))
    session.close()


@pytest.mark.slow
def test_onnx_and_what_tensorrt_makes_of_it_in_fp16(network: nn.Module) -> None:
    """Unrolling leaves no recurrence, and the graph that TensorRT gets is within the bounds of fp16."""
    model = export_onnx(network, SPEC)
    assert check_onnx(model, network, SPEC) <= 1e-5
    kinds = [node.op_type for node in model.graph.node]
    assert not {"Loop", "Scan", "LSTM", "ConstantOfShape", "Expand"} & set(kinds)
    # Of either iteration twelve and the gates, of which the first one's state of zeros leaves three.
    assert kinds.count("Conv") == (12 + 3) + (12 + 4) + 2 * 4 + 2 * 3 + 1
    assert kinds.count("ConvTranspose") == 3
    session = TensorRTEmulation(to_half(model).model.SerializeToString(), "fp16")
    for size in SIZES:
        images = batch(*size)
        error = session.run(images) - expected(network, images)
        assert 0 < np.abs(error).max() <= 2e-2 and np.square(error).mean() <= 1e-5
    session.close()


@pytest.mark.slow
def test_the_domain_is_in_the_weights_that_are_exported() -> None:
    spec = spec_of("semi-derain-gan", {**SPEC.config, "domain": "synthetic"})
    made = create(spec).eval().requires_grad_(False)
    names = {each.name for each in export_onnx(made, spec).graph.initializer}
    assert any(name.startswith("g_s.") for name in names) and not any(
        name.startswith("g_r.") for name in names
    )

"""Every network as an ONNX model: the same function at sizes that it was not traced at."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from derain_engine.export.emulation import CpuGraph, fp32_emulation
from derain_engine.export.exportable import exportable
from derain_engine.export.free_sizes import drop_zeros
from derain_engine.export.half import to_half
from derain_engine.export.onnx import check_onnx, export_onnx
from derain_engine.models.prenet import VARIANTS
from derain_engine.models.registry import create, spec_of
from derain_engine.models.spec import ModelSpec, clean_image


def strong(spec: ModelSpec, gain: float = 1.6) -> nn.Module:
    torch.manual_seed(0)
    network = create(spec).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.mul_(gain)
    return network


@functools.cache
def exported(name: str, stages: int) -> tuple[onnx.ModelProto, nn.Module, ModelSpec]:
    """Export a recurrent network once for all tests, which leave it as it is."""
    spec = spec_of(name, {"stages": stages})
    network = strong(spec)
    return export_onnx(network, spec), network, spec


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"rainy": image})[0])


def assert_same(model: onnx.ModelProto, network: nn.Module, shape: tuple[int, ...], least: float) -> None:
    image = np.random.default_rng(1).random(shape, dtype=np.float32)
    with torch.inference_mode():
        expected = clean_image(network(torch.from_numpy(image))).numpy()
    found = run(model, image)
    assert found.shape == expected.shape and np.abs(expected - image).max() > least
    assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize(
    "name", ["prenet", pytest.param("prenet-gru", marks=pytest.mark.slow), "prn-r", "vrgnet"]
)
def test_recurrent_networks(name: str) -> None:
    model, network, spec = exported(name, 2)
    assert check_onnx(model, network, spec) <= 1e-5
    for shape in ((1, 3, 1, 1), (2, 3, 7, 13), (1, 3, 33, 65)):
        assert_same(model, network, shape, 0.05)
    assert not {"Loop", "Scan", "ConstantOfShape", "Expand"} & {node.op_type for node in model.graph.node}
    whole = {name.removeprefix("network.") for name, _ in network.named_parameters()}
    for each in model.graph.initializer:
        assert each.name.partition("[")[0] in whole or each.data_type == TensorProto.INT64, each.name


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("prenet", "prn-r", "vrgnet")])
def test_the_other_variants(name: str) -> None:
    spec = spec_of(name, {"stages": 3})
    network = strong(spec)
    assert_same(export_onnx(network, spec), network, (1, 3, 9, 17), 0.05)


@pytest.mark.slow
def test_rescan() -> None:
    spec = spec_of("rescan", {"stages": 2})
    network = strong(spec)
    assert_same(export_onnx(network, spec), network, (2, 3, 9, 17), 0.02)


def test_the_first_state_of_zeros_costs_nothing() -> None:
    """Leave half of the columns of the first stage's gates, and no forget gate."""
    spec = spec_of("prenet", {"stages": 1})
    model = export_onnx(strong(spec), spec)
    weights = {each.name: list(each.dims) for each in model.graph.initializer}
    assert weights["conv_i.0.weight[:, 0:32]"] == [32, 32, 3, 3]
    assert not any(name.startswith("conv_f") for name in weights)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 1 + 3 + 10 + 1


def test_zeros_that_something_else_reads_stay() -> None:
    """Concatenate them behind x for a ReLU, and give a sum with them as the graph's output."""
    zeros = helper.make_node("ConstantOfShape", ["shape"], ["zeros"], name="z")
    nodes = [
        zeros,
        helper.make_node("Mul", ["x", "zeros"], ["none"], name="m"),
        helper.make_node("Concat", ["x", "none"], ["both"], name="c", axis=1),
        helper.make_node("Relu", ["both"], ["y"], name="r"),
        helper.make_node("Add", ["zeros", "x"], ["z_out"], name="a"),
    ]
    kind = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [kind("x", TensorProto.FLOAT, [1, 2, 3, 4])],
        [kind("y", TensorProto.FLOAT, [1, 4, 3, 4]), kind("z_out", TensorProto.FLOAT, [1, 2, 3, 4])],
        [helper.make_tensor("shape", TensorProto.INT64, [4], [1, 2, 3, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    channels = {"x": 2, "zeros": 2, "none": 2, "both": 4, "y": 4, "z_out": 2}
    drop_zeros(model.graph, channels)
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, same = session.run(None, {"x": x})
    np.testing.assert_array_equal(y, np.concatenate([x.clip(0), 0 * x], 1))
    np.testing.assert_array_equal(same, x)


def test_fp16_of_a_recurrent_network_keeps_the_last_sum_in_fp32() -> None:
    model = exported("prenet", 2)[0]
    half = to_half(model)
    assert len(half.kept) == 1
    image = np.random.default_rng(3).random((1, 3, 16, 16), dtype=np.float32)
    found = CpuGraph(fp32_emulation(half.model)).run(image)[0]
    expected = run(model, image)
    assert 0 < np.abs(found - expected).max() < 5e-3


def test_nledn_in_its_form_for_any_size_is_the_same_network() -> None:
    spec = spec_of("nledn", {})
    network = strong(spec, 1.3)
    twin = exportable(network)
    assert type(twin) is not type(network)
    assert all(a is b for a, b in zip(twin.parameters(), network.parameters(), strict=True))
    torch.manual_seed(3)
    # Flat, so that maxima come again and again; and not.
    for image in (torch.full((1, 3, 32, 48), 0.5), torch.rand(2, 3, 32, 16)):
        with torch.inference_mode():
            torch.testing.assert_close(twin(image), network(image), rtol=0, atol=2e-6)


@pytest.mark.slow
def test_nledn() -> None:
    spec = spec_of("nledn", {})
    network = strong(spec, 1.3)
    model = export_onnx(network, spec)
    assert check_onnx(model, network, spec) <= 1e-5
    assert_same(model, network, (2, 3, 48, 80), 0.02)
    assert not {"Loop", "SequenceAt", "SplitToSequence"} & {node.op_type for node in model.graph.node}

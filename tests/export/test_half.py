"""Graphs in fp32 as graphs in fp16: which tensor has which type, and what the numbers become."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from derain_engine.base.errors import BuildError
from derain_engine.export.emulation import CpuGraph, fp32_emulation
from derain_engine.export.half import LARGEST, to_half

from .graphs import convolution, graph, only_cast, pictures, residual, types


def run(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    return CpuGraph(model).run(batch)[0]


def test_maps_and_weights_are_fp16_and_the_edges_fp32() -> None:
    model = residual()
    before = model.SerializeToString()
    half = to_half(model)
    assert model.SerializeToString() == before
    kinds = types(half.model)
    assert (kinds["rainy"], kinds["clean"]) == ("fp32", "fp32")
    assert {kinds[name] for name in ("map", "lit", "rain", "w1/fp16", "w2/fp16")} == {"fp16"}
    # What reads the picture and writes the result at once hides no rounding.
    assert half.kept == ("Sub_3",)
    assert only_cast(half.model, TensorProto.FLOAT16) == only_cast(half.model, TensorProto.FLOAT) == 1
    assert {each.name for each in half.model.graph.initializer} == {"w1/fp16", "w2/fp16"}
    assert not half.saturated
    batch = pictures()
    error = np.abs(run(fp32_emulation(half.model), batch) - run(model, batch))
    assert 0 < error.max() < 2e-3


def test_kept_nodes_are_fp32_with_casts_where_types_meet() -> None:
    half = to_half(residual(), keep={"Conv_0", "Relu_1"})
    kinds = types(half.model)
    assert half.kept == ("Conv_0", "Relu_1", "Sub_3")
    assert kinds["map"] == kinds["lit"] == kinds["w1"] == "fp32"
    assert kinds["lit/fp16"] == kinds["w2/fp16"] == kinds["rain"] == "fp16"
    everything = to_half(residual(), keep={"Conv_0", "Relu_1", "Conv_2"})
    batch = pictures()
    np.testing.assert_array_equal(run(everything.model, batch), run(residual(), batch))
    assert only_cast(everything.model, TensorProto.FLOAT16) == 0


def test_what_many_read_is_cast_and_stored_once() -> None:
    model = graph(
        """
        a = Conv <pads = [1, 1, 1, 1]> (rainy, w)
        b = Conv <pads = [1, 1, 1, 1]> (a, w)
        c = Conv <pads = [1, 1, 1, 1]> (rainy, w)
        d = Add (b, c)
        clean = Relu (d)
        """,
        w=convolution(3, 3),
    )
    half = to_half(model).model
    assert [each.name for each in half.graph.initializer] == ["w/fp16"]
    assert only_cast(half, TensorProto.FLOAT16) == 1
    both = to_half(model, keep={"Conv_1"}).model
    assert sorted(each.name for each in both.graph.initializer) == ["w", "w/fp16"]


def test_scales_of_resizes_and_integers_stay_what_they_are() -> None:
    model = graph(
        """
        small = Resize <mode = "linear"> (rainy, , down)
        large = Resize <mode = "linear"> (small, , up)
        flat = Reshape (large, shape)
        sized = Shape (rainy)
        clean = Reshape (flat, sized)
        """,
        down=np.array([1, 1, 0.5, 0.5], np.float32),
        up=np.array([1, 1, 2, 2], np.float32),
        shape=np.array([0, 3, -1], np.int64),
    )
    kinds = types(to_half(model).model)
    assert kinds["down"] == kinds["up"] == "fp32" and kinds["shape"] == "other"
    assert kinds["small"] == kinds["large"] == kinds["flat"] == "fp16" and kinds["clean"] == "fp32"


def test_values_beyond_the_range_are_counted_and_saturate() -> None:
    w = convolution(3, 3)
    w[0, 0, 0, :2] = 1e6, -np.inf
    model = graph(
        "a = Conv <pads = [1, 1, 1, 1]> (rainy, w)\n clean = Mul (a, small)", w=w, small=np.float32(1e-7)
    )
    half = to_half(model)
    assert half.saturated == {"w": 2}
    stored = {each.name: numpy_helper.to_array(each) for each in half.model.graph.initializer}["w/fp16"]
    assert np.isfinite(stored).all() and stored.max() == LARGEST and stored.min() == -LARGEST
    assert not to_half(model, keep={"Conv_0"}).saturated


def test_constants_of_nodes_are_weights_too() -> None:
    model = graph(
        """
        two = Constant <value_float = 2.0> ()
        much = Constant <value = float[2] {1e9, 1.0}> ()
        first = Constant <value_ints = [0]> ()
        one = Gather (much, first)
        a = Mul (rainy, two)
        clean = Mul (a, one)
        """
    )
    half = to_half(model)
    kinds = types(half.model)
    assert kinds["two/fp16"] == kinds["much/fp16"] == kinds["a"] == "fp16" and half.saturated == {"much": 1}
    assert [node.op_type for node in half.model.graph.node].count("Constant") == 1
    batch = pictures()
    expected = np.float32(2) * batch.astype(np.float16) * np.float32(LARGEST)
    found = run(fp32_emulation(half.model), batch)
    np.testing.assert_array_equal(np.isinf(found), expected > 65520)
    assert np.isinf(found).any() and not np.isinf(found).all()


def test_casts_and_fills_change_their_type() -> None:
    model = graph(
        """
        n = Cast <to = 7> (rainy)
        f = Cast <to = 1> (n)
        size = Shape (rainy)
        ones = ConstantOfShape <value = float[1] {1.0}> (size)
        a = Add (f, ones)
        clean = Mul (a, ones)
        """
    )
    kinds = types(to_half(model).model)
    assert kinds["f"] == kinds["ones"] == kinds["a"] == "fp16" and kinds["n"] == "other"


def test_graphs_that_are_not_understood_are_refused() -> None:
    with pytest.raises(BuildError, match="no node 'Conv_9'"):
        to_half(residual(), keep={"Conv_9"})
    nameless = residual()
    nameless.graph.node[1].name = nameless.graph.node[0].name
    with pytest.raises(BuildError, match="Relu node of the graph has no name of its own"):
        to_half(nameless)
    branch = helper.make_graph(
        [], "branch", [], [helper.make_tensor_value_info("rainy", TensorProto.FLOAT, None)]
    )
    held = residual()
    held.graph.node.append(
        helper.make_node("If", ["true"], ["x"], name="If_4", then_branch=branch, else_branch=branch)
    )
    with pytest.raises(BuildError, match=r"If \(If_4\) holds a graph of its own.*--precision fp32"):
        to_half(held)


@pytest.mark.parametrize(
    ("domain", "message"), [("", "Fancy"), ("some.where", r"Fancy \(Fancy_1\) is no operator whose result")]
)
def test_unknown_operators_are_named(domain: str, message: str) -> None:
    model = residual()
    node = model.graph.node[1]
    node.op_type, node.name, node.domain = "Fancy", "Fancy_1", domain
    if domain:
        model.opset_import.add(domain=domain, version=1)
    with pytest.raises(BuildError, match=message):
        to_half(model)


def test_rounding_shows_what_fp16_does_to_values() -> None:
    """Beyond 65504 there is infinity, between numbers the nearest, on every machine."""
    model = to_half(
        graph(
            "a = Mul (rainy, much)\n b = Mul (a, less)\n clean = Relu (b)",
            much=np.float32(3e4),
            less=np.float32(1e-4),
        )
    ).model
    batch = np.full((1, 3, 2, 2), 2.0, np.float32)
    batch[..., 0] = 3.0
    found = run(fp32_emulation(model), batch)
    assert np.isinf(found[..., 0]).all()
    exact = np.float16(np.float32(np.float16(6e4)) * np.float32(np.float16(1e-4)))
    np.testing.assert_array_equal(found[..., 1], np.float32(exact))

"""Small ONNX graphs, written by hand."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

SHAPE = ("batch", 3, "height", "width")


def graph(nodes: str, /, **weights: np.ndarray | np.generic) -> ModelProto:
    """Parse a graph from ``rainy`` to ``clean``, N x 3 x H x W float.

    Args:
        nodes: in ONNX's text, one a line; they are named after operator and place: ``Conv_0``, ``Relu_1``.
        weights: by name.
    """
    text = f"""<ir_version: 10, opset_import: ["": 20]>
        hand (float[{",".join(map(str, SHAPE))}] rainy) => (float[{",".join(map(str, SHAPE))}] clean) {{ {nodes} }}"""
    model = onnx.parser.parse_model(text)
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{i}"
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    onnx.checker.check_model(model, full_check=True)
    return model


def convolution(outputs: int, inputs: int, seed: int = 0, gain: float = 1.0) -> np.ndarray:
    """Make 3 x 3 weights that keep the size of values."""
    random = np.random.default_rng(seed).standard_normal((outputs, inputs, 3, 3))
    return (gain * random / np.sqrt(9 * inputs)).astype(np.float32)


def residual(first: float = 1.0, second: float = 1.0) -> ModelProto:
    """Make ``clean = rainy - conv(relu(conv(rainy)))``, the maps ``first`` times as large between the convolutions."""
    return graph(
        """
        map = Conv <pads = [1, 1, 1, 1]> (rainy, w1)
        lit = Relu (map)
        rain = Conv <pads = [1, 1, 1, 1]> (lit, w2)
        clean = Sub (rainy, rain)
        """,
        w1=convolution(8, 3, 1, first),
        w2=convolution(3, 8, 2, second),
    )


def pictures(count: int = 2, height: int = 16, width: int = 24) -> np.ndarray:
    """Make N x 3 x H x W in [0, 1]."""
    return np.random.default_rng(7).random((count, 3, height, width), dtype=np.float32)


def types(model: ModelProto) -> dict[str, str]:
    """Return the type of every tensor that has one: ``fp32``, ``fp16``."""
    known = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    names: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}
    values = (*known.input, *known.value_info, *known.output)
    found = {each.name: names.get(each.type.tensor_type.elem_type, "other") for each in values}
    return found | {each.name: names.get(each.data_type, "other") for each in model.graph.initializer}


def only_cast(model: ModelProto, kind: int) -> int:
    """Count the casts to a type."""
    return sum(
        node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == kind for node in model.graph.node
    )

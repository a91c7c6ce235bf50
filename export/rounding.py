"""Graphs of mixed precision on a CPU, where what fp16 does to them can be seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..base.errors import BackendUnavailable, BuildError
from .onnx import INPUT

#: Operators that hand on values of their inputs: rounded already, they need no rounding after them.
_EXACT = frozenset(
    "Concat Identity MaxPool Relu Reshape Slice Split Squeeze Transpose Unsqueeze Flatten DepthToSpace SpaceToDepth "
    "Expand Tile Pad Max Min Clip Abs Neg".split()
)
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def rounding(typed: ModelProto) -> ModelProto:
    """A graph in fp16 and fp32 as one in fp32 alone that rounds to fp16 wherever the first one does.

    CPU runtimes widen and fuse half-precision nodes, so that values beyond the range of fp16 live on in them; here
    they become infinite. Sums inside a product or a resize are fp32, as in the matrix units of GPUs.
    """
    graph = typed.graph
    halves = {
        value.name
        for value in onnx.shape_inference.infer_shapes(typed, strict_mode=True).graph.value_info
        if value.type.tensor_type.elem_type == _HALF
    } | {initializer.name for initializer in graph.initializer if initializer.data_type == _HALF}
    nodes: list[NodeProto] = []
    for node in graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
        if node.op_type == "Cast" and _target(node) == _HALF:
            # To fp16 and back: what it is for, seen from fp32.
            copy.output[0] = node.output[0] + "/half"
            nodes.append(helper.make_node("Cast", [copy.output[0]], [node.output[0]], to=_FLOAT))
        elif node.op_type == "Constant":
            _widen(copy)
        elif node.op_type not in _EXACT:
            for i, name in enumerate(node.output):
                if name in halves:
                    copy.output[i] = name + "/exact"
                    nodes.append(helper.make_node("Cast", [name + "/exact"], [name + "/half"], to=_HALF))
                    nodes.append(helper.make_node("Cast", [name + "/half"], [name], to=_FLOAT))
    weights = [
        numpy_helper.from_array(numpy_helper.to_array(each).astype(np.float32), each.name)
        if each.data_type == _HALF
        else each
        for each in graph.initializer
    ]
    rounded = helper.make_graph(nodes, graph.name, graph.input, graph.output, weights)
    return helper.make_model(rounded, opset_imports=typed.opset_import, ir_version=typed.ir_version)


class CpuGraph:
    """A graph in ONNX Runtime, node by node as it stands.

    Raises:
        BackendUnavailable: ONNX Runtime is not installed.
        BuildError: it cannot run the graph.
    """

    def __init__(self, model: ModelProto) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendUnavailable(
                'Comparing fp16 with fp32 needs ONNX Runtime; install it with: pip install "derain-engine[build]"'
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # Optimised, casts to fp16 and back are taken for nothing.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Planning which map takes over whose memory takes a minute for 8000 nodes; freed they are without it, too.
        options.enable_mem_reuse = False
        # Threads that wait by spinning take from those that compute.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        # Its exceptions have no common base but this.
        except Exception as error:
            raise BuildError(f"ONNX Runtime does not take the graph: {str(error).splitlines()[0]}") from error

    def run(self, batch: np.ndarray, **more: np.ndarray) -> list[np.ndarray]:
        """Every output for N x 3 x H x W float32, and for further inputs where the graph has them.

        Raises:
            BuildError: ONNX Runtime fails.
        """
        try:
            return self._session.run(None, {INPUT: batch, **more})
        except Exception as error:
            raise BuildError(f"ONNX Runtime cannot run the graph: {str(error).splitlines()[0]}") from error


def _target(node: NodeProto) -> int:
    return next(each.i for each in node.attribute if each.name == "to")


def _widen(constant: NodeProto) -> None:
    for each in constant.attribute:
        if each.t.data_type == _HALF:
            values = numpy_helper.to_array(each.t).astype(np.float32)
            each.t.CopyFrom(numpy_helper.from_array(values, each.t.name))

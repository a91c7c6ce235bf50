"""Graphs of mixed precision, emulated on a CPU, where what fp16 does to them can be seen."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..base.errors import BuildError
from ..base.extras import importing
from ..models.onnx_network import open_model
from .half import ALWAYS_FLOAT, edge_arithmetic, halved
from .onnx import INPUT

#: Operators that hand on values of their inputs: rounded already, they need no rounding after them.
_EXACT = frozenset(
    "Concat Identity MaxPool Relu Reshape Slice Split Squeeze Transpose Unsqueeze Flatten DepthToSpace SpaceToDepth "
    "Expand Tile Pad Max Min Clip Abs Neg".split()
)
#: The input that says of every node whether it stays in fp32.
_KEEP = "keep"
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def fp32_emulation(typed: ModelProto) -> ModelProto:
    """Return a graph in fp16 and fp32 as one in fp32 alone that rounds to fp16 wherever the first one does.

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
        if node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == _HALF:
            # To fp16 and back: what it is for, seen from fp32.
            copy.output[0] = node.output[0] + "/half"
            nodes.append(helper.make_node("Cast", [copy.output[0]], [node.output[0]], to=_FLOAT))
        elif node.op_type == "Constant":
            for each in copy.attribute:
                if each.t.data_type == _HALF:
                    each.t.CopyFrom(_widened(each.t))
        elif node.op_type not in _EXACT:
            for i, name in enumerate(node.output):
                if name in halves:
                    copy.output[i] = name + "/exact"
                    nodes.append(helper.make_node("Cast", [name + "/exact"], [name + "/half"], to=_HALF))
                    nodes.append(helper.make_node("Cast", [name + "/half"], [name], to=_FLOAT))
    weights = [_widened(each) if each.data_type == _HALF else each for each in graph.initializer]
    rounded = helper.make_graph(nodes, graph.name, graph.input, graph.output, weights)
    return helper.make_model(rounded, opset_imports=typed.opset_import, ir_version=typed.ir_version)


def _widened(tensor: TensorProto) -> TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


class CpuGraph:
    """A graph in ONNX Runtime, node by node as it stands.

    Raises:
        BackendUnavailable: ONNX Runtime is not installed.
        BuildError: it cannot run the graph.
    """

    def __init__(self, model: ModelProto) -> None:
        with importing(
            'Comparing fp16 with fp32 needs ONNX Runtime; install it with: pip install "derain-engine[build]"'
        ):
            import onnxruntime
        try:
            self._session: Any = open_model(
                model,
                # Threads that wait by spinning take from those that compute.
                {"session.intra_op.allow_spinning": "0"},
                # Optimised, casts to fp16 and back are taken for nothing.
                graph_optimization_level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
                # Planning which map takes over whose memory takes a minute for 8000 nodes; freed they are without it.
                enable_mem_reuse=False,
            )
        # Its exceptions have no common base but this.
        except Exception as error:
            raise BuildError(f"ONNX Runtime does not take the graph: {str(error).splitlines()[0]}") from error

    def run(self, batch: np.ndarray, **more: np.ndarray) -> list[np.ndarray]:
        """Return every output for N x 3 x H x W float32, and for further inputs where the graph has them.

        Raises:
            BuildError: ONNX Runtime fails.
        """
        try:
            return self._session.run(None, {INPUT: batch, **more})
        except Exception as error:
            raise BuildError(f"ONNX Runtime cannot run the graph: {str(error).splitlines()[0]}") from error


class SwitchableGraph:
    """A graph that is run in fp16 but for some nodes, of which every run names its own.

    Which nodes stay in fp32 is an input, so that trying many choices takes one session of the runtime. It computes what
    :func:`fp32_emulation` of :func:`to_half` would for that choice, to the bit.

    Args:
        model: in fp32, its nodes named; one that :func:`to_half` converts.

    Raises:
        BackendUnavailable, BuildError: as :class:`CpuGraph` says.
    """

    def __init__(self, model: ModelProto) -> None:
        self.names = [node.name for node in model.graph.node]
        self._always = frozenset(edge_arithmetic(model.graph))
        self._graph = CpuGraph(_Switches(model).build())

    def run(self, batch: np.ndarray, keep: Collection[str]) -> np.ndarray:
        """Return the first output for N x 3 x H x W float32, with the nodes of these names in fp32.

        Raises:
            BuildError: as :meth:`CpuGraph.run` says.
        """
        kept = self._always.union(keep)
        return self._graph.run(batch, keep=np.array([name in kept for name in self.names]))[0]


class _Switches:
    """A builder of the graph that holds every tensor beside its rounded self, and before every node the choice between
    them: exact where the node and the one that the tensor comes from are both kept."""

    def __init__(self, model: ModelProto) -> None:
        self.model, self.graph = model, model.graph
        known = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        values = (*known.input, *known.value_info, *known.output)
        self.floats = {each.name for each in values if each.type.tensor_type.elem_type == _FLOAT}
        self.weights = {each.name: each for each in self.graph.initializer if each.data_type == _FLOAT}
        self.source = {name: i for i, node in enumerate(self.graph.node) for name in node.output}
        self.nodes: list[NodeProto] = []
        self.initializers = list(self.graph.initializer)
        self.rounded: dict[str, str] = {}

    def build(self) -> ModelProto:
        count = len(self.graph.node)
        self.nodes.append(
            helper.make_node("Split", [_KEEP], [_switch(i) for i in range(count)], axis=0, num_outputs=count)
        )
        results = {output.name for output in self.graph.output}
        for i, node in enumerate(self.graph.node):
            copy = NodeProto()
            copy.CopyFrom(node)
            always = ALWAYS_FLOAT.get(node.op_type, frozenset())
            copy.input[:] = [
                name if j in always else self.read(name, i, j) for j, name in enumerate(node.input)
            ]
            self.nodes.append(copy)
            for j, name in enumerate(node.output):
                if name in results and name in self.floats:
                    copy.output[j] = f"{name}/exact"
                    self.nodes.append(self.choose(_switch(i), copy.output[j], name))
        keep = helper.make_tensor_value_info(_KEEP, TensorProto.BOOL, [count])
        graph = helper.make_graph(
            self.nodes, self.graph.name, [*self.graph.input, keep], self.graph.output, self.initializers
        )
        return helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
        )

    def read(self, name: str, reader: int, place: int) -> str:
        """Return the name of a tensor as a node is to read it."""
        switch = _switch(reader)
        if name not in self.floats and name not in self.weights:
            return name
        source = self.source.get(name)
        if source is not None:
            both = f"{switch}/and{place}"
            self.nodes.append(helper.make_node("And", [switch, _switch(source)], [both]))
            switch = both
        chosen = f"{name}/{reader}.{place}"
        self.nodes.append(self.choose(switch, name, chosen))
        return chosen

    def choose(self, switch: str, name: str, chosen: str) -> NodeProto:
        """Return the choice of a tensor, exact where the switch is set."""
        if name not in self.rounded:
            self.rounded[name] = f"{name}/rounded"
            if name in self.weights:
                values = halved(numpy_helper.to_array(self.weights[name])).astype(np.float32)
                self.initializers.append(numpy_helper.from_array(values, self.rounded[name]))
            else:
                self.nodes.append(helper.make_node("Cast", [name], [f"{name}/half"], to=_HALF))
                self.nodes.append(helper.make_node("Cast", [f"{name}/half"], [self.rounded[name]], to=_FLOAT))
        return helper.make_node("Where", [switch, name, self.rounded[name]], [chosen])


def _switch(node: int) -> str:
    return f"{_KEEP}/{node}"

"""One graph for every choice of nodes that stay in fp32: which ones is an input, so that trying many choices takes one
session of the runtime. It computes what :func:`rounding` of :func:`to_half` would for that choice, to the bit."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .half import ALWAYS_FLOAT, edge_arithmetic, halved
from .rounding import CpuGraph

_KEEP = "keep"
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


class Trials:
    """A graph that is run in fp16 but for some nodes.

    Args:
        model: in fp32, its nodes named; one that :func:`to_half` converts.

    Raises:
        BackendUnavailable, BuildError: as :class:`CpuGraph`.
    """

    def __init__(self, model: ModelProto) -> None:
        self.names = [node.name for node in model.graph.node]
        self._always = frozenset(edge_arithmetic(model.graph))
        self._graph = CpuGraph(_Switched(model).build())

    def run(self, batch: np.ndarray, keep: Collection[str]) -> np.ndarray:
        """The first output for N x 3 x H x W float32, with the nodes of these names in fp32.

        Raises:
            BuildError: as :meth:`CpuGraph.run`.
        """
        kept = self._always.union(keep)
        return self._graph.run(batch, keep=np.array([name in kept for name in self.names]))[0]


class _Switched:
    """Every tensor beside its rounded self, and before every node the choice between them: exact where the node and
    the one that the tensor comes from are both kept."""

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
        """The name of a tensor as a node is to read it."""
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
        """Exact where the switch is set."""
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

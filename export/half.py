"""An fp32 ONNX graph as the same graph in fp16: precision decided node by node, in the graph itself.

Strongly typed runtimes compute every node in the type of its tensors. Here weights and maps become fp16, the graph's
inputs and outputs stay fp32, and so does the arithmetic that reads an input and writes an output at once (``clean =
rainy - rain``), whose rounding nothing would hide. Any node may be kept in fp32 by name; casts stand only where types
meet, once for each tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..base.errors import BuildError

#: Largest finite fp16.
LARGEST = 65504.0
#: Inputs that are fp32 whatever the node computes in (ONNX operators, type constraints other than T).
ALWAYS_FLOAT: Mapping[str, frozenset[int]] = {"Resize": frozenset({1, 2}), "Upsample": frozenset({1})}
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


@dataclass(frozen=True)
class HalfModel:
    """A graph that was converted to fp16.

    model: the graph.
    kept: nodes that stay fp32, by name, in the graph's order.
    saturated: how many values of a weight are beyond fp16's range and became the largest number in it, by the
        weight's name.
    """

    model: ModelProto = field(repr=False)
    kept: tuple[str, ...]
    saturated: Mapping[str, int]


def to_half(model: ModelProto, keep: Collection[str] = ()) -> HalfModel:
    """Convert a graph to fp16, with fp32 inputs and outputs. The model itself is not changed.

    Args:
        model: fp32, checked, its nodes named.
        keep: names of nodes that stay fp32.

    Raises:
        BuildError: ``keep`` names no node, or the graph has something that is not understood: subgraphs, nodes
            without names, or operators whose types do not follow their inputs'.
    """
    _require_plain(model.graph)
    unknown = sorted(set(keep) - {node.name for node in model.graph.node})
    if unknown:
        raise BuildError(f"The graph has no node {unknown[0]!r} that could stay in fp32.")
    kept = set(keep) | set(edge_arithmetic(model.graph))
    try:
        result = _Conversion(model, kept).run()
        onnx.checker.check_model(result.model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BuildError(f"The graph cannot be computed in fp16: {reason}") from error
    return result


def halved(values: np.ndarray) -> np.ndarray:
    """Round values to fp16; what is beyond its range becomes its largest number."""
    return np.clip(values, -LARGEST, LARGEST).astype(np.float16)


class _Conversion:
    def __init__(self, model: ModelProto, kept: Collection[str]) -> None:
        self.model, self.kept = model, kept
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        values = (*graph.input, *graph.value_info, *graph.output)
        _require_types(model.graph, {each.name for each in values if each.type.tensor_type.elem_type})
        self.floats = {v.name for v in values if v.type.tensor_type.elem_type == _FLOAT}
        self.weights = {each.name: each for each in (*model.graph.initializer, *_constants(model.graph))}
        self.floats |= {name for name, each in self.weights.items() if each.data_type == _FLOAT}
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.saturated: dict[str, int] = {}
        # What a float tensor is in the new graph, and under which name it is there in which type.
        self.kind: dict[str, int] = {value.name: _FLOAT for value in graph.input}
        self.there: dict[tuple[str, int], str] = {}

    def run(self) -> HalfModel:
        graph = self.model.graph
        results = {output.name for output in graph.output}
        for node in graph.node:
            if node.op_type == "Constant" and node.output[0] in self.weights:
                continue
            kind = _FLOAT if node.name in self.kept else _HALF
            copy = NodeProto()
            copy.CopyFrom(node)
            always = ALWAYS_FLOAT.get(node.op_type, frozenset())
            copy.input[:] = [
                self.read(name, _FLOAT if i in always else kind) for i, name in enumerate(node.input)
            ]
            self.set_type(copy, kind)
            self.nodes.append(copy)
            for i, name in enumerate(node.output):
                if name not in self.floats:
                    continue
                self.kind[name] = kind
                if name in results and kind == _HALF:
                    inner = copy.output[i] = f"{name}/fp16"
                    self.there[name, _HALF] = inner
                    self.nodes.append(_cast(inner, name, _FLOAT))
                    self.there[name, _FLOAT] = name
        new = helper.make_graph(
            self.nodes, graph.name, graph.input, graph.output, list(self.initializers.values())
        )
        model = helper.make_model(
            new,
            opset_imports=self.model.opset_import,
            ir_version=self.model.ir_version,
            producer_name=self.model.producer_name,
        )
        model.metadata_props.extend(self.model.metadata_props)
        kept = tuple(node.name for node in graph.node if node.name in self.kept)
        return HalfModel(model, kept, self.saturated)

    def read(self, name: str, kind: int) -> str:
        """Return the name under which a tensor is there in a type; other than floats are what they are."""
        if name in self.weights:
            return self.weight(name, kind)
        if name not in self.floats:
            return name
        if (name, kind) not in self.there:
            if self.kind[name] == kind:
                self.there[name, kind] = name
            else:
                target = self.there[name, kind] = f"{name}/{'fp32' if kind == _FLOAT else 'fp16'}"
                self.nodes.append(_cast(self.there.get((name, self.kind[name]), name), target, kind))
        return self.there[name, kind]

    def weight(self, name: str, kind: int) -> str:
        tensor = self.weights[name]
        if tensor.data_type != _FLOAT or kind == _FLOAT:
            self.initializers.setdefault(name, tensor)
            return name
        target = f"{name}/fp16"
        if target not in self.initializers:
            self.initializers[target] = self.halve(tensor, name, target)
        return target

    def halve(self, tensor: TensorProto, name: str, target: str) -> TensorProto:
        values = numpy_helper.to_array(tensor)
        beyond = int(np.count_nonzero(np.abs(values) > LARGEST))
        if beyond:
            self.saturated[name] = beyond
        return numpy_helper.from_array(halved(values), target)

    def set_type(self, node: NodeProto, kind: int) -> None:
        """Change the type that a node names itself."""
        for each in node.attribute:
            if each.name in ("to", "dtype") and each.i == _FLOAT:
                each.i = kind
            elif each.type == AttributeProto.TENSOR and each.t.data_type == _FLOAT and kind == _HALF:
                each.t.CopyFrom(self.halve(each.t, node.name, each.t.name))


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=kind)


def _constants(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield the floats that nodes of their own hold, as weights."""
    for node in graph.node:
        if node.op_type == "Constant":
            value = helper.get_attribute_value(node.attribute[0])
            if isinstance(value, float) or (isinstance(value, Sequence) and isinstance(value[0], float)):
                yield numpy_helper.from_array(np.array(value, np.float32), node.output[0])
            elif isinstance(value, TensorProto) and value.data_type == _FLOAT:
                yield numpy_helper.from_array(numpy_helper.to_array(value), node.output[0])


def _require_plain(graph: GraphProto) -> None:
    names: set[str] = set()
    for node in graph.node:
        if not node.name or node.name in names:
            raise BuildError(f"A {node.op_type} node of the graph has no name of its own; export it again.")
        names.add(node.name)
        if any(each.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for each in node.attribute):
            raise BuildError(
                f"The graph's {node.op_type} ({node.name}) holds a graph of its own, which is not converted to fp16; "
                "build with --precision fp32."
            )


def _require_types(graph: GraphProto, typed: Collection[str]) -> None:
    for node in graph.node:
        unknown = [name for name in node.output if name and name not in typed]
        if unknown:
            raise BuildError(
                f"The graph's {node.op_type} ({node.name}) is no operator whose result has a known type; build with "
                "--precision fp32, or without it."
            )


def edge_arithmetic(graph: GraphProto) -> Iterator[str]:
    """Yield the names of additions and the like of a graph's input that give its output; they stay fp32 unasked."""
    inputs = {value.name for value in graph.input}
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        if (
            node.op_type in ("Add", "Sub", "Mul", "Div")
            and inputs & set(node.input)
            and outputs & set(node.output)
        ):
            yield node.name

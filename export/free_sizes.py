"""An ONNX graph that was traced at one size, set free of it.

Resizes get constant scales; a shape that the graph says itself takes the place of one that the trace wrote down; and
maps of zeros, which are made to a size, are taken out, as the first state of a recurrent network is one. Nothing is
computed from these: x + 0 is x, 0 * x is 0, and a convolution of maps of zeros beside others is that of the others. The
first stage of a convolutional LSTM keeps half of the weights' columns and loses its forget gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..base.errors import BuildError
from ..models.spec import ModelSpec

#: Operators whose named input is a shape; in a trace it may hold the traced size.
_SHAPE_INPUTS = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1}
_TYPED = {"Cast", "CastLike", "Identity"}

_Shapes = Mapping[str, Sequence[int]]


def free_sizes(model: ModelProto, spec: ModelSpec) -> None:
    """Let a graph that was traced at one size run at any, in place.

    Raises:
        BuildError: it resizes by a ratio that is not exact for every size, or holds a size as a constant.
    """
    graph = model.graph
    known = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*known.input, *known.value_info, *known.output)
    }
    for node in graph.node:
        if node.op_type == "Resize" and len(node.input) == 4 and node.input[3]:
            scales = _scales(shapes[node.input[0]], shapes[node.output[0]], spec)
            name = "scales_" + "_".join(f"{scale:g}" for scale in scales)
            if not any(initializer.name == name for initializer in graph.initializer):
                graph.initializer.append(numpy_helper.from_array(np.array(scales, np.float32), name))
            node.input[:] = [node.input[0], "", name]
    _free_shapes(graph, shapes)
    drop_zeros(graph, {name: dims[1] for name, dims in shapes.items() if len(dims) == 4})
    drop_unused(graph)
    sizeless = _sizeless(graph)
    for node in graph.node:
        place = _SHAPE_INPUTS.get(node.op_type)
        if place is not None and node.input[place] not in sizeless:
            raise BuildError(
                f"The {spec.architecture} network cannot be exported for any size: its {node.op_type} "
                f"({node.name}) holds a size as a constant."
            )
    del graph.value_info[:]
    _, _, height, width = shapes[graph.input[0].name]
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) != 4:
            raise BuildError(f"The output {value.name!r} is not a batch of images or maps (N x C x H x W).")
        dims[0].dim_param = "batch"
        dims[2].dim_param = _side_label("height", dims[2].dim_value, height)
        dims[3].dim_param = _side_label("width", dims[3].dim_value, width)


def drop_unused(graph: GraphProto) -> None:
    """Take out nodes and weights that no output depends on, in place."""
    used = {output.name for output in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if not used.isdisjoint(node.output):
            nodes.append(node)
            used.update(node.input)
    weights = [initializer for initializer in graph.initializer if initializer.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(weights)


def _sizeless(graph: GraphProto) -> set[str]:
    """Return the names of shapes that say nothing of the traced size: of another tensor, or constants of only -1 (the
    rest), 0 (as it was) and 1."""
    shapes = {node.output[0] for node in graph.node if node.op_type == "Shape"}
    return shapes | {
        name
        for name, value in _constants(graph).items()
        if value.dtype == np.int64 and np.isin(value, (-1, 0, 1)).all()
    }


def _constants(graph: GraphProto) -> dict[str, np.ndarray]:
    """Return a graph's weights and constants by name."""
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            value = helper.get_attribute_value(node.attribute[0])
            whole = isinstance(value, TensorProto)
            constants[node.output[0]] = numpy_helper.to_array(value) if whole else np.asarray(value)
    return constants


def _scales(source: Sequence[int], target: Sequence[int], spec: ModelSpec) -> list[float]:
    """Return what a resize multiplies each dimension with. Binary fractions only: with others float32 arithmetic may
    round the target size down by one pixel."""
    ratios = [Fraction(t, s) for s, t in zip(source, target, strict=True)]
    for ratio in ratios:
        if ratio.denominator & (ratio.denominator - 1):
            raise BuildError(
                f"The {spec.architecture} network resizes by {ratio}, which is not exact for every size; "
                "it cannot be exported for any size."
            )
    return [float(ratio) for ratio in ratios]


def _side_label(name: str, value: int, whole: int) -> str:
    ratio = Fraction(value, whole)
    label = name if ratio.numerator == 1 else f"{ratio.numerator}*{name}"
    return label if ratio.denominator == 1 else f"{label}/{ratio.denominator}"


def _free_shapes(graph: GraphProto, shapes: _Shapes) -> None:
    """Let Reshape keep, flatten or restore sides instead of naming them, and cut into equal parts by their number, in
    place; what does not come under this is left as it is.

    A map's sides are restored from the nearest map before it that has the same shape. Whether that was meant is for
    whoever runs the graph at other sizes to find out.

    Args:
        shapes: of every tensor, as traced.
    """
    nodes: list[NodeProto] = []
    seen: dict[tuple[int, ...], str] = {}
    parts = _taken_parts(graph)
    for node in graph.node:
        if node.op_type == "SplitToSequence" and (split := _equal_parts(node, parts, shapes)):
            nodes.append(split)
        elif node.op_type == "SequenceAt" and node.input[0] in parts:
            pass
        else:
            if node.op_type == "Reshape":
                nodes += _free_reshape(graph, node, shapes, seen)
            nodes.append(node)
        for name in nodes[-1].output:
            if len(shape := shapes.get(name, ())) == 4:
                seen[tuple(shape)] = name
    del graph.node[:]
    graph.node.extend(nodes)


def _free_reshape(
    graph: GraphProto, node: NodeProto, shapes: _Shapes, seen: Mapping[tuple[int, ...], str]
) -> list[NodeProto]:
    """Free one Reshape, and return nodes to stand before it."""
    source, target = list(shapes.get(node.input[0], ())), list(shapes.get(node.output[0], ()))
    kept = 0
    while kept < min(len(source), len(target)) and source[kept] == target[kept]:
        kept += 1
    left = len(target) - kept
    if left <= 1 and target:
        # A shape of another meaning, in which 0 would be no more than that.
        del node.attribute[:]
        wanted = np.array([0] * kept + [-1] * left, np.int64)
        node.input[1] = name = "shape_" + "_".join(map(str, wanted))
        if not any(each.name == name for each in graph.initializer):
            graph.initializer.append(numpy_helper.from_array(wanted, name))
        return []
    like = seen.get(tuple(target))
    if like is None or like == node.output[0]:
        return []
    node.input[1] = f"shape_of_{like}_for_{node.output[0]}"
    return [helper.make_node("Shape", [like], [node.input[1]], name=node.input[1])]


def _taken_parts(graph: GraphProto) -> dict[str, dict[int, str]]:
    """Return the parts by place of every sequence of which parts at constant places alone are taken."""
    constants = _constants(graph)
    made = {node.output[0] for node in graph.node if node.op_type == "SplitToSequence"}
    parts: dict[str, dict[int, str]] = {name: {} for name in made}
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name not in parts:
                continue
            if node.op_type == "SequenceAt" and i == 0 and node.input[1] in constants:
                parts[name][int(constants[node.input[1]])] = node.output[0]
            else:
                del parts[name]
    return parts


def _equal_parts(node: NodeProto, parts: dict[str, dict[int, str]], shapes: _Shapes) -> NodeProto | None:
    """Return a split into so many equal parts, where all of them are taken and alike."""
    taken = parts.get(node.output[0], {})
    names = [taken[place] for place in sorted(taken)]
    if not names or sorted(taken) != list(range(len(names))):
        parts.pop(node.output[0], None)
        return None
    axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
    whole = shapes[node.input[0]][axis]
    if any(shapes[name][axis] * len(names) != whole for name in names):
        parts.pop(node.output[0], None)
        return None
    return helper.make_node(
        "Split", [node.input[0]], names, name=node.name, axis=axis, num_outputs=len(names)
    )


def drop_zeros(graph: GraphProto, channels: Mapping[str, int]) -> None:
    """Take out what maps of zeros lead to, in place; nodes that then lead to no output are left standing.

    A convolution of zeros and others is given a weight of its own, named after the whole one and the channels of it
    that are left. What else reads a map of zeros goes on reading it.

    Args:
        channels: of every map, N x C x H x W, by name.
    """
    weights = {each.name: each for each in graph.initializer}
    zeros = _Zeros(channels)
    nodes: list[NodeProto] = []
    for node in graph.node:
        node.input[:] = [zeros.same.get(name, name) for name in node.input]
        if node.op_type == "Conv" and (parts := zeros.parts.get(node.input[0])):
            _shorten(graph, weights, node, parts, zeros)
        if not zeros.settles(node):
            nodes.append(node)
    # What is said to be another tensor may be what the graph gives.
    outputs = {value.name for value in graph.output}
    nodes += [
        helper.make_node("Identity", [source], [name], name=f"identity_{name}")
        for name, source in zeros.same.items()
        if name in outputs
    ]
    del graph.node[:]
    graph.node.extend(nodes)


class _Zeros:
    """The tensors of a graph that are 0 everywhere, and what follows from them.

    names: of those tensors.
    same: name to another of an equal tensor.
    parts: what a concatenation with zeros in it is made of.
    """

    def __init__(self, channels: Mapping[str, int]) -> None:
        self.channels = channels
        self.names: set[str] = set()
        self.same: dict[str, str] = {}
        self.parts: dict[str, list[str]] = {}

    def settles(self, node: NodeProto) -> bool:
        """Tell whether nothing has to compute the node's output, as another tensor is the same."""
        inputs, output = list(node.input), node.output[0]
        zero = [name in self.names for name in inputs]
        if node.op_type == "ConstantOfShape":
            filled = [numpy_helper.to_array(each.t) for each in node.attribute if each.name == "value"]
            if not any(np.any(each) for each in filled):
                self.names.add(output)
        elif (node.op_type in _TYPED and zero[0]) or (node.op_type == "Mul" and any(zero)):
            # The node stays, for whatever reads zeros in another way.
            self.names.add(output)
        elif node.op_type == "Add" and any(zero) and self._shaped(inputs, output):
            self.same[output] = inputs[zero.index(False)] if not all(zero) else inputs[0]
            if all(zero):
                self.names.add(output)
            return True
        elif node.op_type == "Concat" and any(zero) and helper.get_node_attr_value(node, "axis") == 1:
            self.parts[output] = inputs
        return False

    def _shaped(self, inputs: list[str], output: str) -> bool:
        """Tell whether a sum is as large as either of its terms."""
        return len({self.channels.get(name, -1) for name in (*inputs, output)} - {-1}) == 1


def _shorten(
    graph: GraphProto, weights: dict[str, TensorProto], node: NodeProto, parts: list[str], zeros: _Zeros
) -> None:
    """Let a convolution read what is not zero of a concatenation, if that is one map."""
    rest = [name for name in parts if name not in zeros.names]
    grouped = any(each.name == "group" and each.i != 1 for each in node.attribute)
    if len(rest) != 1 or grouped or node.input[1] not in weights:
        return
    first = sum(zeros.channels[name] for name in parts[: parts.index(rest[0])])
    last = first + zeros.channels[rest[0]]
    name = f"{node.input[1]}[:, {first}:{last}]"
    if name not in weights:
        values = numpy_helper.to_array(weights[node.input[1]])[:, first:last]
        weights[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        graph.initializer.append(weights[name])
    node.input[:2] = [rest[0], name]

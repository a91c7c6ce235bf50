"""Sizes that a trace wrote into an ONNX graph, taken out where the graph says itself what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

Shapes = Mapping[str, Sequence[int]]


def free_shapes(graph: GraphProto, shapes: Shapes) -> None:
    """Let Reshape keep, flatten or restore sides instead of naming them, and cut into equal parts by their number, in
    place; what does not come under this is left as it is.

    shapes: of every tensor, as traced.

    A map's sides are restored from the nearest map before it that has the same shape. Whether that was meant is for
    whoever runs the graph at other sizes to find out.
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
    graph: GraphProto, node: NodeProto, shapes: Shapes, seen: Mapping[tuple[int, ...], str]
) -> list[NodeProto]:
    """Nodes to stand before the reshape."""
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
    """Of every sequence of which parts at constant places alone are taken: those parts by place."""
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
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


def _equal_parts(node: NodeProto, parts: dict[str, dict[int, str]], shapes: Shapes) -> NodeProto | None:
    """A split into so many equal parts, where all of them are taken and alike."""
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

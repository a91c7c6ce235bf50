"""Maps of zeros taken out of an ONNX graph, as the first state of a recurrent network is one.

Nothing is computed from them, and a graph without them holds no size: x + 0 is x, 0 * x is 0, and a convolution of maps
of zeros beside others is that of the others. The first stage of a convolutional LSTM keeps half of the weights' columns
and loses its forget gate.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

_TYPED = {"Cast", "CastLike", "Identity"}


def drop_zeros(graph: GraphProto, channels: Mapping[str, int]) -> None:
    """Take out what maps of zeros lead to, in place; nodes that then lead to no output are left standing.

    channels: of every map, N x C x H x W, by name.

    A convolution of zeros and others is given a weight of its own, named after the whole one and the channels of it
    that are left. What else reads a map of zeros goes on reading it.
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
    """names: of tensors that are 0 everywhere. same: name to another of an equal tensor. parts: what a concatenation
    with zeros in it is made of."""

    def __init__(self, channels: Mapping[str, int]) -> None:
        self.channels = channels
        self.names: set[str] = set()
        self.same: dict[str, str] = {}
        self.parts: dict[str, list[str]] = {}

    def settles(self, node: NodeProto) -> bool:
        """Whether nothing has to compute the node's output: another tensor is the same."""
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
        """Whether a sum is as large as either of its terms."""
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

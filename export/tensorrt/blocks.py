"""The MFFBs of a graph as plugins: two launches of our own in the place of eleven nodes each.

    x -> Transpose -> stage 1 -> stage 2 -> Transpose -> y         1 x C x H x W outside, 1 x H x W x C inside

A block is known by its shape: two branches of activated 3x3 and 5x5 convolutions, twice, a 1x1 convolution and the sum
with what went in. Blocks with a node that stays fp32 are left to TensorRT. So are all PFFBs: their launches chain
convolutions through scratch memory, of which a plugin has none, and cut so that they need none they would be seventeen.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from ...base.errors import BuildError, InputError
from ...base.progress import Progress, no_progress
from ...kernels import mffb
from ...kernels.aot.pool import compile_calls
from ...kernels.record import heuristic
from ..free_sizes import drop_unused
from .plugin import NAMESPACE, Plugin, make_plugin

#: The kernels' pointers before the output.
_STAGE1 = ("x", "inner", "outer", "bias")
_STAGE2 = ("m", "x", "inner", "outer", "bias", "last", "last_bias")
_PACKED = (("inner1", "outer1", "bias1"), ("inner2", "outer2", "bias2", "last", "last_bias"))


@dataclass(frozen=True)
class _Block:
    """An MFFB of the graph.

    x: the tensor that goes in.
    end: the node of the sum.
    convolutions: by their names in an MFFB.
    """

    x: str
    end: NodeProto
    slope: float
    convolutions: dict[str, NodeProto]


def with_plugins(
    model: ModelProto, target: str, progress: Progress = no_progress
) -> tuple[ModelProto, tuple[Plugin, ...]]:
    """Return a graph in fp16 with its MFFBs as nodes of ours, and the plugins that these nodes are.

    Args:
        model: for one frame at a time; it is not changed.
        target: the GPU that the plugins are compiled for, such as ``sm_90``.

    Raises:
        BuildError: the graph has no MFFB in fp16, or one that the kernels cannot be compiled for.
        BackendUnavailable: Triton is not installed.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    finder = _Finder(graph)
    blocks = [block for node in graph.node if (block := finder.block(node)) is not None]
    if not blocks:
        raise BuildError(
            "The network has no block in fp16 that there are plugins for; build without --plugins."
        )
    plugins = _compile({finder.kind(block) for block in blocks}, target, progress)
    packed: dict[tuple[str, ...], list[list[str]]] = {}
    replaced: dict[str, list[NodeProto]] = {}
    for i, block in enumerate(blocks):
        names = tuple(name for node in block.convolutions.values() for name in node.input[1:])
        if names not in packed:
            packed[names] = _pack(graph, finder, block, f"mffb{len(packed)}")
        replaced[block.end.output[0]] = _nodes(f"mffb{i}", block, plugins[finder.kind(block)], packed[names])
    nodes = [new for node in graph.node for new in replaced.get(node.output[0], [node])]
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    changed.opset_import.append(helper.make_opsetid(NAMESPACE, 1))
    return changed, tuple(plugin for pair in plugins.values() for plugin in pair)


class _Finder:
    def __init__(self, graph: GraphProto) -> None:
        self.makers = {name: node for node in graph.node for name in node.output}
        self.weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}

    def block(self, end: NodeProto) -> _Block | None:
        """Return the MFFB that ends in a node."""
        if end.op_type != "Add":
            return None
        for rain, x in (tuple(end.input), tuple(reversed(end.input))):
            last = self._convolution(rain, 1)
            second = last and self._branches(last.input[0])
            first = second and self._branches(second[0].input[0])
            if last and second and first and first[0].input[0] == x and len({first[2], second[2]}) == 1:
                parts = {
                    "conv_3_1": first[0],
                    "conv_5_1": first[1],
                    "conv_3_2": second[0],
                    "conv_5_2": second[1],
                    "confusion": last,
                }
                return self._checked(_Block(x, end, first[2], parts))
        return None

    def kind(self, block: _Block) -> tuple[int, float]:
        """Return the channels and the slope, which blocks with the same plugins have in common."""
        return self.weights[block.convolutions["conv_3_1"].input[1]].shape[0], block.slope

    def _branches(self, name: str) -> tuple[NodeProto, NodeProto, float] | None:
        """Return (3x3, 5x5, slope) of two activated convolutions of one map, side by side."""
        node = self.makers.get(name)
        if (
            node is None
            or node.op_type != "Concat"
            or len(node.input) != 2
            or _attribute(node, "axis", 0) != 1
        ):
            return None
        found = [self._activated(each, size) for each, size in zip(node.input, (3, 5), strict=True)]
        if found[0] is None or found[1] is None:
            return None
        (small, slope), (large, other) = found[0], found[1]
        return (small, large, slope) if small.input[0] == large.input[0] and slope == other else None

    def _activated(self, name: str, size: int) -> tuple[NodeProto, float] | None:
        node = self.makers.get(name)
        if node is None or node.op_type not in ("LeakyRelu", "Relu"):
            return None
        convolution = self._convolution(node.input[0], size)
        # The attribute is fp32: 0.2 comes as 0.20000000298.
        slope = 0.0 if node.op_type == "Relu" else round(float(_attribute(node, "alpha", 0.01)), 6)
        return None if convolution is None else (convolution, slope)

    def _convolution(self, name: str, size: int) -> NodeProto | None:
        """Return a plain size x size convolution in fp16 that keeps the size of its map."""
        node = self.makers.get(name)
        if node is None or node.op_type != "Conv" or len(node.input) != 3:
            return None
        weight, bias = (self.weights.get(each) for each in node.input[1:])
        plain = (
            list(_attribute(node, "pads", [0] * 4)) == [size // 2] * 4
            and list(_attribute(node, "strides", [1, 1]))
            == list(_attribute(node, "dilations", [1, 1]))
            == [1, 1]
            and _attribute(node, "group", 1) == 1
        )
        if not plain or weight is None or bias is None or weight.dtype != np.float16:
            return None
        return node if weight.shape[2:] == (size, size) else None

    def _checked(self, block: _Block) -> _Block | None:
        shapes = [self.weights[node.input[1]].shape[:2] for node in block.convolutions.values()]
        c = shapes[0][0]
        return block if shapes == [(c, c), (c, c), (2 * c, 2 * c), (2 * c, 2 * c), (c, 4 * c)] else None


def _compile(
    kinds: Collection[tuple[int, float]], target: str, progress: Progress
) -> dict[tuple[int, float], tuple[Plugin, Plugin]]:
    calls = {}
    for channels, slope in sorted(kinds):
        try:
            first = mffb.stage1_call(channels, heuristic("mffb.stage1", channels), slope)
            second = mffb.stage2_call(channels, heuristic("mffb.stage2", channels), slope)
        except InputError as error:
            raise BuildError(str(error)) from error
        calls[channels, slope] = first, second
    compiled = iter(
        compile_calls([call for pair in calls.values() for call in pair], "fp16", [target], progress=progress)
    )
    return {
        (channels, slope): (
            make_plugin(next(compiled), _STAGE1, 2 * channels),
            make_plugin(next(compiled), _STAGE2, channels),
        )
        for channels, slope in calls
    }


def _pack(graph: GraphProto, finder: _Finder, block: _Block, name: str) -> list[list[str]]:
    """Add the block's weights, as the two launches read them, to the graph, and return their names."""
    state = {}
    for part, node in block.convolutions.items():
        for kind, weight in zip(("weight", "bias"), node.input[1:], strict=True):
            state[f"{part}.{kind}"] = torch.from_numpy(finder.weights[weight].copy())
    packed = mffb.pack(state, torch.float16)
    for each, tensor in packed.items():
        graph.initializer.append(numpy_helper.from_array(tensor.numpy(), f"{name}.{each}"))
    return [[f"{name}.{each}" for each in stage] for stage in _PACKED]


def _nodes(
    name: str, block: _Block, plugins: tuple[Plugin, Plugin], weights: list[list[str]]
) -> list[NodeProto]:
    x, m, y = (f"{name}.{each}" for each in ("x", "m", "y"))
    stages = [
        helper.make_node(plugin.name, [*maps, *names], [out], f"{name}.stage{i}", domain=NAMESPACE)
        for i, (plugin, maps, names, out) in enumerate(
            zip(plugins, ((x,), (m, x)), weights, (m, y), strict=True), 1
        )
    ]
    enter = helper.make_node("Transpose", [block.x], [x], f"{name}.enter", perm=[0, 2, 3, 1])
    leave = helper.make_node("Transpose", [y], [block.end.output[0]], f"{name}.leave", perm=[0, 3, 1, 2])
    return [enter, *stages, leave]


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)

"""Exact rewrites of a network before OpenVINO compiles it: the same function, fewer operations.

A 1x1 convolution of a concatenation is the sum of 1x1 convolutions of its parts, so that the concatenation, which a CPU
copies, need not exist; the sums cost nothing, as each is added where a convolution writes. And a 1x1 convolution
commutes with nearest upsampling: the share of a part that was upsampled is computed at the part's own resolution, and
what is upsampled is the sum, from one resolution to the next.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import openvino

    Slices = dict[tuple[str, int, int], openvino.Node]


def split_concatenations(model: openvino.Model) -> int:
    """Take apart, in place, the concatenations that 1x1 convolutions read; returns how many convolutions did.

    Sums are added in another order, so that results differ by rounding.
    """
    slices: Slices = {}
    count = sum(_split(node, slices) for node in model.get_ordered_ops() if _is_pointwise(node))
    model.validate_nodes_and_infer_types()
    return count


def _is_pointwise(node: openvino.Node) -> bool:
    if node.get_type_name() != "Convolution":
        return False
    weights = node.input_value(1).get_node()
    attributes = node.get_attributes()
    return (
        weights.get_type_name() == "Constant"
        and list(weights.shape)[2:] == [1, 1]
        and attributes["strides"] == [1, 1]
        and not any(attributes["pads_begin"] + attributes["pads_end"])
    )


def _split(convolution: openvino.Node, slices: Slices) -> bool:
    from openvino import opset15 as ops

    joined, weights = convolution.input_value(0).get_node(), convolution.input_value(1).get_node()
    if joined.get_type_name() != "Concat" or joined.get_attributes()["axis"] != 1:
        return False
    sources = joined.input_values()
    if len(sources) < 2 or not all(source.get_partial_shape()[1].is_static for source in sources):
        return False
    ends = np.cumsum([source.get_partial_shape()[1].get_length() for source in sources]).tolist()
    shares: list[tuple[int, openvino.Node]] = []
    for source, start, end in zip(sources, [0, *ends], ends, strict=False):
        scale = _repeated(source)
        before = source.get_node().input_value(0) if scale > 1 else source
        # One constant for all convolutions that share weights.
        key = weights.get_friendly_name(), start, end
        if key not in slices:
            slices[key] = ops.constant(np.ascontiguousarray(weights.data[:, start:end]))
            slices[key].set_friendly_name(f"{key[0]}/{start}:{end}")
        share = ops.convolution(before, slices[key], [1, 1], [0, 0], [0, 0], [1, 1])
        share.set_friendly_name(f"{convolution.get_friendly_name()}/{start}:{end}")
        shares.append((scale, share))
    # From the coarsest up; the last one takes the bias, and what was there before decides which one that is.
    shares.sort(key=lambda share: -share[0])
    if shares[-1][0] != 1 or any(coarse % fine for (coarse, _), (fine, _) in pairwise(shares)):
        return False
    scale, total = shares[0]
    for finer, share in shares[1:-1]:
        total, scale = ops.add(share, _upsampled(total, scale // finer)), finer
    replaced, last = _with_bias(convolution, shares[-1][1])
    result = ops.add(last, _upsampled(total, scale))
    result.set_friendly_name(replaced.get_friendly_name())
    replaced.output(0).replace(result.output(0))
    return True


def _with_bias(convolution: openvino.Node, share: openvino.Node) -> tuple[openvino.Node, openvino.Node]:
    """Return (what ends the convolution: its bias if it has one, or itself; ``share`` with that bias)."""
    from openvino import opset15 as ops

    users = [port.get_node() for port in convolution.output(0).get_target_inputs()]
    if len(users) == 1 and users[0].get_type_name() == "Add":
        for source in users[0].input_values():
            if source.get_node().get_type_name() == "Constant":
                return users[0], ops.add(share, source)
    return convolution, share


def _repeated(source: openvino.Output) -> int:
    """Tell how often every pixel was repeated on both sides to make this map."""
    node = source.get_node()
    if node.get_type_name() != "Interpolate" or node.input_value(1).get_node().get_type_name() != "Constant":
        return 1
    attributes = node.get_attributes()
    nearest = (
        attributes["mode"] == "nearest"
        and attributes["shape_calculation_mode"] == "scales"
        and attributes["coordinate_transformation_mode"] == "asymmetric"
        and attributes["nearest_mode"] == "floor"
    )
    scales = node.input_value(1).get_node().data.tolist()
    whole = nearest and len(scales) == 4 and scales[:2] == [1, 1] and scales[2] == scales[3] == int(scales[2])
    return int(scales[2]) if whole else 1


def _upsampled(maps: openvino.Node, factor: int) -> openvino.Node:
    from openvino import opset15 as ops

    if factor == 1:
        return maps
    return ops.interpolate(
        maps,
        ops.constant(np.array([1, 1, factor, factor], np.float32)),
        mode="nearest",
        shape_calculation_mode="scales",
        pads_begin=[0, 0, 0, 0],
        pads_end=[0, 0, 0, 0],
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )

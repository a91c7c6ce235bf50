"""An exported ONNX model as vs-mlrt, the inference filters of VapourSynth, loads it."""

from __future__ import annotations

import onnx

from ..base.errors import BuildError
from .onnx import INPUT, OUTPUTS

#: What vs-mlrt's own scripts call them.
_NAMES = {INPUT: "input", OUTPUTS[0]: "output"}
_BOUNDED = "bounded"


def for_vapoursynth(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with one input and one output, 1 x 3 x H x W float32, planar RGB in [0, 1] as of clips in RGBS.

    The output is clamped to [0, 1], as other filters expect it.

    Args:
        model: of ``export_onnx`` with ``clean`` alone.

    Raises:
        BuildError: a model with other inputs or outputs.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    if [value.name for value in (*graph.input, *graph.output)] != [INPUT, OUTPUTS[0]]:
        raise BuildError("For VapourSynth a model has one input and gives the clean picture alone.")
    for node in graph.node:
        node.input[:] = [_NAMES[name] if name == INPUT else name for name in node.input]
    for value in (*graph.input, *graph.output):
        value.name = _NAMES[value.name]
        batch = value.type.tensor_type.shape.dim[0]
        batch.Clear()
        batch.dim_value = 1
    for name, bound in (("least", 0.0), ("most", 1.0)):
        graph.initializer.append(
            onnx.helper.make_tensor(f"{_BOUNDED}_{name}", onnx.TensorProto.FLOAT, (), [bound])
        )
    limits = [OUTPUTS[0], f"{_BOUNDED}_least", f"{_BOUNDED}_most"]
    graph.node.append(onnx.helper.make_node("Clip", limits, [_NAMES[OUTPUTS[0]]], name=_BOUNDED))
    onnx.checker.check_model(made, full_check=True)
    return made

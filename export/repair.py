"""Which nodes of a graph have to stay in fp32, so that the rest of it can be fp16.

fp16 fails in two ways: values beyond 65504 become infinite, and rounding errors add up. What the first one needs is
read off the graph's own values; for the second, nodes go back to fp32 where that helps most. Then whatever turns out
not to be needed is given up again, so that the set is small, though nobody can say that it is the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from ..engine.errors import BackendUnavailable, BuildError
from ..engine.progress import Progress, no_progress
from .half import LARGEST, rounding, to_half
from .onnx import INPUT

#: Parts that a graph is looked at in.
_PARTS = 16


@dataclass(frozen=True)
class Repair:
    """keep: nodes to keep in fp32, by name. before, after: PSNR in dB of the fp16 graph against fp32, without and with
    them; -inf where it gave NaN or infinity. total: nodes of the graph."""

    keep: tuple[str, ...]
    before: float
    after: float
    total: int


def find_fragile(
    model: ModelProto, frames: Sequence[np.ndarray], aim: float, progress: Progress = no_progress
) -> Repair:
    """The nodes that keep the fp16 graph from coming within ``aim`` dB of fp32.

    Args:
        model: in fp32.
        frames: N x 3 x H x W float32 in [0, 1] to compare on; small ones, since the graph is run many times.
        aim: PSNR in dB.

    Raises:
        BackendUnavailable: ONNX Runtime is not installed.
        BuildError: not even the whole graph in fp32 comes that close (it gives NaN), or it cannot be run.
    """
    expected = [_run(model, frame)[0] for frame in frames]

    def score(keep: Collection[str]) -> float:
        graph = rounding(to_half(model, keep).model)
        return min(_psnr(_run(graph, f)[0], e) for f, e in zip(frames, expected, strict=True))

    names = [node.name for node in model.graph.node]
    before = score(())
    if before >= aim:
        return Repair((), before, before, len(names))
    if not all(np.isfinite(each).all() for each in expected):
        raise BuildError("The network itself gives NaN or infinity in fp32; check its weights.")
    progress("Looking for what fp16 breaks", 0.0)
    keep = set(_out_of_range(model, frames))
    if score(keep) < aim:
        keep |= _worst(names, keep, score, aim, progress)
    after = score(keep)
    if after < aim:
        raise BuildError(
            f"The network in fp16 is {after:.1f} dB from fp32, and keeping nodes in fp32 does not bring it to "
            f"{aim:.0f}; build with --precision fp32."
        )
    kept = _pruned([name for name in names if name in keep], score, aim, progress)
    return Repair(kept, before, score(kept), len(names))


def _worst(
    names: Sequence[str],
    keep: set[str],
    score: Callable[[Collection[str]], float],
    aim: float,
    progress: Progress,
) -> set[str]:
    """Parts of the graph, the one that harms most first, until the rest is good enough in fp16."""
    size = math.ceil(len(names) / _PARTS)
    parts = [set(names[i : i + size]) for i in range(0, len(names), size)]
    harm = []
    for i, part in enumerate(parts):
        progress("Looking for what fp16 breaks", i / len(parts))
        harm.append((score(set(names) - part | keep), i))
    added: set[str] = set()
    for _, i in sorted(harm):
        added |= parts[i]
        if score(keep | added) >= aim:
            break
    return added


def _pruned(
    keep: Sequence[str], score: Callable[[Collection[str]], float], aim: float, progress: Progress
) -> tuple[str, ...]:
    """What is left of ``keep`` when stretches of it, from long to short, are given up where the rest suffices."""
    kept = list(keep)
    length = len(kept)
    while length:
        progress("Looking for what fp16 breaks", 1 - length / (len(keep) + 1))
        at = 0
        while at < len(kept):
            rest = kept[:at] + kept[at + length :]
            if score(rest) >= aim:
                kept = rest
            else:
                at += length
        length //= 2
    return tuple(kept)


def _out_of_range(model: ModelProto, frames: Sequence[np.ndarray]) -> Iterator[str]:
    """Nodes that give or take values which fp16 does not have."""
    watched = ModelProto()
    watched.CopyFrom(model)
    floats = [
        value.name
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    ]
    for name in floats:
        watched.graph.node.extend(_largest(name))
        watched.graph.output.append(helper.make_tensor_value_info(f"{name}/largest", TensorProto.FLOAT, []))
    beyond: set[str] = set()
    for frame in frames:
        _, *largest = _run(watched, frame)
        # Negated, so that NaN counts.
        beyond |= {name for name, value in zip(floats, largest, strict=True) if not value <= LARGEST}
    for node in model.graph.node:
        if beyond & {*node.input, *node.output}:
            yield node.name


def _largest(name: str) -> list[NodeProto]:
    return [
        helper.make_node("Abs", [name], [f"{name}/abs"]),
        helper.make_node("ReduceMax", [f"{name}/abs"], [f"{name}/largest"], keepdims=0),
    ]


def _run(model: ModelProto, frame: np.ndarray) -> list[np.ndarray]:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(
            'Comparing fp16 with fp32 needs ONNX Runtime; install it with: pip install "derain-engine[build]"'
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Optimised, casts to fp16 and back might be taken for nothing.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Threads that wait by spinning take from those that compute.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {INPUT: frame})


def _psnr(found: np.ndarray, expected: np.ndarray) -> float:
    if not np.isfinite(found).all():
        return -math.inf
    error = float(np.mean((found.astype(np.float64) - expected) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)

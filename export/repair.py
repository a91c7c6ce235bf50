"""A search for the nodes of a graph that have to stay in fp32, so that the rest of it can be fp16.

fp16 fails in two ways: values beyond 65504 become infinite, and rounding errors add up. What the first one needs is
read off the graph's own values; for the second, nodes go back to fp32 where that helps most. Then whatever turns out
not to be needed is given up again, so that the set is small, though nobody can say that it is the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from ..base.errors import BuildError
from ..base.progress import Progress, no_progress
from .emulation import CpuGraph, SwitchableGraph, fp32_emulation
from .half import LARGEST, to_half

#: Parts that a graph is looked at in.
_PARTS = 16
#: Choices that are tried at most; then what is known to suffice stands.
_MOST_TRIED = 200
_STAGE = "Looking for what fp16 breaks"


@dataclass(frozen=True)
class FragileNodes:
    """The nodes that fp16 breaks.

    keep: nodes to keep in fp32, by name, in the graph's order.
    before, after: PSNR in dB of the fp16 graph against fp32, without and with them; -inf where it gave NaN or infinity.
    tried: how many choices were run for it.
    """

    keep: tuple[str, ...]
    before: float
    after: float
    tried: int


def find_fragile(
    model: ModelProto,
    batch: np.ndarray,
    psnr: float,
    max_abs: float,
    progress: Progress = no_progress,
) -> FragileNodes:
    """Find the nodes that keep the fp16 graph from coming close enough to fp32; none where it does.

    Args:
        model: in fp32.
        batch: N x 3 x H x W float32 in [0, 1] to compare on; small, since graphs are run many times.
        psnr, max_abs: least PSNR in dB (data range 1) and largest absolute error of any frame.

    Raises:
        BackendUnavailable: ONNX Runtime is not installed.
        BuildError: the network gives NaN in fp32, or cannot be run.
    """
    progress(_STAGE, 0.0)
    expected = CpuGraph(model).run(batch)[0]
    if not np.isfinite(expected).all():
        raise BuildError("The network itself gives NaN or infinity in fp32; check its weights.")
    aim = _Aim(expected, psnr, max_abs)
    margin, before = aim.of(_in_half(model, (), batch))
    if margin >= 0:
        return FragileNodes((), before, before, 1)
    choices = _Choices(SwitchableGraph(model), batch, aim)
    keep = set(_out_of_range(model, batch))
    if choices.margin(keep) < 0:
        keep |= _worst(choices, keep, progress)
    kept = _pruned(choices, [name for name in choices.names if name in keep], progress)
    _, after = aim.of(_in_half(model, kept, batch))
    progress(_STAGE, 1.0)
    return FragileNodes(kept, before, after, len(choices.known))


def _in_half(model: ModelProto, keep: Collection[str], batch: np.ndarray) -> np.ndarray:
    return CpuGraph(fp32_emulation(to_half(model, keep).model)).run(batch)[0]


@dataclass(frozen=True)
class _Aim:
    """The result that fp16 is to come close to, and how close, as for :func:`find_fragile`."""

    expected: np.ndarray
    psnr: float
    max_abs: float

    def of(self, found: np.ndarray) -> tuple[float, float]:
        """Return (margin in dB, negative where it misses; PSNR in dB) of the worst frame."""
        if not np.isfinite(found).all():
            return -math.inf, -math.inf
        error = np.abs(found.astype(np.float64) - self.expected)
        worst = float(np.square(error).mean(axis=(1, 2, 3)).max())
        psnr = math.inf if worst == 0 else -10 * math.log10(worst)
        peak = float(error.max())
        below = math.inf if peak == 0 else 20 * math.log10(self.max_abs / peak)
        return min(psnr - self.psnr, below), psnr


class _Choices:
    """The choices of nodes that were tried, and what they gave."""

    def __init__(self, graph: SwitchableGraph, batch: np.ndarray, aim: _Aim) -> None:
        self.graph, self.batch, self.aim = graph, batch, aim
        self.names = graph.names
        self.known: dict[frozenset[str], float] = {}

    def margin(self, keep: Collection[str]) -> float:
        """Return the margin in dB by which the graph that keeps these nodes is close enough."""
        key = frozenset(keep)
        if key not in self.known:
            self.known[key], _ = self.aim.of(self.graph.run(self.batch, key))
        return self.known[key]


def _worst(choices: _Choices, keep: set[str], progress: Progress) -> set[str]:
    """Take parts of the graph, the one that harms most first, until the rest is good enough in fp16."""
    names = choices.names
    size = math.ceil(len(names) / _PARTS)
    parts = [set(names[i : i + size]) for i in range(0, len(names), size)]
    harm = []
    for i, part in enumerate(parts):
        progress(_STAGE, 0.5 * i / len(parts))
        harm.append((choices.margin(set(names) - part | keep), i))
    added: set[str] = set()
    for _, i in sorted(harm):
        added |= parts[i]
        if choices.margin(keep | added) >= 0:
            break
    return added


def _pruned(choices: _Choices, keep: Sequence[str], progress: Progress) -> tuple[str, ...]:
    """Give up stretches of ``keep``, from long to short, where the rest suffices, and return what is left."""
    kept = list(keep)
    length = len(kept)
    while length:
        progress(_STAGE, 1 - 0.5 * length / len(keep))
        at = 0
        while at < len(kept):
            if len(choices.known) >= _MOST_TRIED:
                return tuple(kept)
            rest = kept[:at] + kept[at + length :]
            if choices.margin(rest) >= 0:
                kept = rest
            else:
                at += length
        length //= 2
    return tuple(kept)


def _out_of_range(model: ModelProto, batch: np.ndarray) -> Iterator[str]:
    """Yield the nodes that give or take values which fp16 does not have."""
    watched = ModelProto()
    watched.CopyFrom(model)
    floats = [
        value.name
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    ]
    for name in floats:
        watched.graph.node.append(helper.make_node("Abs", [name], [f"{name}/abs"]))
        watched.graph.node.append(
            helper.make_node("ReduceMax", [f"{name}/abs"], [f"{name}/largest"], keepdims=0)
        )
        watched.graph.output.append(helper.make_tensor_value_info(f"{name}/largest", TensorProto.FLOAT, []))
    largest = CpuGraph(watched).run(batch)[len(model.graph.output) :]
    # Negated, so that NaN counts.
    beyond = {name for name, value in zip(floats, largest, strict=True) if not value <= LARGEST}
    for node in model.graph.node:
        if beyond & {*node.input, *node.output}:
            yield node.name

"""A plan's launches, those that are alike together, and what one of them must give.

Launches are alike that share a specialisation and sizes: they take the same time. What a launch gives is judged from
noise that its maps hold, by the plan's PyTorch executor on the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ...plan.program import View
from .rig import Work

if TYPE_CHECKING:
    from torch import Tensor

    from ...kernels.config import Config
    from ...kernels.launch import Call
    from ...kernels.tuned import Key
    from ...plan.memory import Memory
    from ...plan.program import Step

#: Where a chain's scratch memory stands among its pointers.
_SCRATCH = 4


@dataclass
class Alike:
    """memory: of their plan. step: one of them. sizes: its run-time sizes. launches: how many a frame has."""

    memory: Memory
    step: Step
    sizes: list[int]
    launches: int = field(default=1)

    @property
    def key(self) -> Key:
        """What a configuration is chosen by."""
        return self.step.call.kernel, int(self.step.call.constants["C"]), int(str(self.step.sizes[0])[1:])

    def pointers(self, call: Call) -> list[Tensor]:
        """The step's memory for ``call``: its own, or itself in another cut, which needs other scratch memory."""
        from ...kernels import chain

        found = [self.memory.flat(pointer) for pointer in self.step.pointers]
        if call.kernel == "chain.chain" and call != self.step.call:
            room = chain.scratch_elements(call, self.sizes[0], self.sizes[1])
            found[_SCRATCH] = found[0].new_empty(max(1, room))
        return found


def alike(memory: Memory) -> list[Alike]:
    """The launches of a plan, in the order of first use."""
    from ...kernels.aot import specialisation

    found: dict[tuple, Alike] = {}
    for step in memory.plan.steps:
        sizes = memory.sizes(step)
        same = (specialisation(step.call), step.call.planes, *sizes)
        if same in found:
            found[same].launches += 1
        else:
            found[same] = Alike(memory, step, sizes)
    return list(found.values())


def recut(call: Call, config: Config) -> Call:
    """The same launch in another configuration."""
    from ...kernels import chain

    if call.kernel != "chain.chain":
        return replace(call, config=config)
    constants = call.constants
    reads, writes = (
        next(name for name, number in names.items() if number == constants[constant])
        for names, constant in ((chain.READS, "READ"), (chain.WRITES, "WRITE"))
    )
    channels, length = int(constants["C"]), int(constants["LENGTH"])
    return chain.chain_call(channels, length, reads, writes, bool(constants["EXACT"]), config)


class Check:
    """What a launch must give, within twice the error of the plan's PyTorch executor in the plan's precision around
    the same in fp32, and the rounding of the result."""

    def __init__(self, launches: Alike) -> None:
        import torch

        from ...plan.by_torch import run_call

        step, memory = launches.step, launches.memory
        generator = torch.Generator(launches.memory.flat(step.pointers[0]).device).manual_seed(0)
        for buffer in sorted(step.touched()):
            memory.flat(View(buffer)).normal_(generator=generator)
        pointers = launches.pointers(step.call)
        whole = [tensor.to(torch.float32, copy=True) for tensor in pointers]
        half = [tensor.clone() for tensor in pointers]
        with torch.no_grad():
            run_call(step.call, whole, launches.sizes)
            run_call(step.call, half, launches.sizes)
        self._outputs = [pointers[write] for write in step.writes if not _is_scratch(memory, step, write)]
        self._before = [output.clone() for output in self._outputs]
        self._exact, self._allowed = [], []
        for write in step.writes:
            if not _is_scratch(memory, step, write):
                exact, plain = whole[write], half[write]
                rounding = torch.finfo(plain.dtype).eps / 2 * exact.abs()
                self._exact.append(exact)
                self._allowed.append(2 * (plain.float() - exact).abs().max() + rounding)

    def passes(self, work: Work) -> bool:
        """Whether ``work``, which launches it once, gives that. The memory is left as it was found."""
        work()
        found = [output.clone() for output in self._outputs]
        for output, before in zip(self._outputs, self._before, strict=True):
            output.copy_(before)
        return all(
            # NaN is not within.
            bool(((one.float() - exact).abs() <= allowed).all())
            for one, exact, allowed in zip(found, self._exact, self._allowed, strict=True)
        )


def _is_scratch(memory: Memory, step: Step, write: int) -> bool:
    pointer = step.pointers[write]
    return isinstance(pointer, View) and memory.plan.buffers[pointer.buffer].tile is not None


def frame_milliseconds(launches: Sequence[Alike], medians: Sequence[float]) -> float:
    """Of all of them in a frame."""
    return sum(each.launches * median for each, median in zip(launches, medians, strict=True))

"""A plan's launches, those that are alike together, and what one of them must give.

Launches are alike that share a specialisation and sizes: they take the same time. What a launch gives is judged from
noise that its maps hold, by the plan's PyTorch executor on the same memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...kernels.aot import specialisation
from ...kernels.record import find
from ...plan.program import View
from .rig import TimedWork

if TYPE_CHECKING:
    from torch import Tensor

    from ...kernels.launch import Call
    from ...kernels.tuned import Key
    from ...plan.memory import Memory
    from ...plan.program import Step


@dataclass
class Alike:
    """Launches of one specialisation and size.

    memory: of their plan. step: one of them. sizes: its run-time sizes. launches: how many a frame has.
    """

    memory: Memory
    step: Step
    sizes: list[int]
    launches: int = 1

    @property
    def key(self) -> Key:
        """The kernel, channels and level that a configuration is chosen by."""
        return self.step.call.kernel, int(self.step.call.constants["C"]), int(str(self.step.sizes[0])[1:])

    def pointers(self, call: Call) -> list[Tensor]:
        """Return the step's memory for ``call``: its own, or with other scratch memory for itself in another cut."""
        kernel = find(call.kernel)
        found = [self.memory.flat(pointer) for pointer in self.step.pointers]
        if kernel.scratch_elements is not None and call != self.step.call:
            room = kernel.scratch_elements(call, self.sizes[0], self.sizes[1])
            found[kernel.form.pointers.index(kernel.scratch)] = found[0].new_empty(max(1, room))
        return found


def alike(memory: Memory) -> list[Alike]:
    """Return the launches of a plan, in the order of first use."""
    found: dict[tuple, Alike] = {}
    for step in memory.plan.steps:
        sizes = memory.sizes(step)
        same = (specialisation(step.call), step.call.planes, *sizes)
        if same in found:
            found[same].launches += 1
        else:
            found[same] = Alike(memory, step, sizes)
    return list(found.values())


class Check:
    """The results that a launch must give, within bounds.

    These are twice the error of the plan's PyTorch executor in the plan's precision around the same in fp32, and the
    rounding of the result.
    """

    def __init__(self, launches: Alike) -> None:
        import torch

        from ...kernels.plain import run_plain

        step, memory = launches.step, launches.memory
        generator = torch.Generator(memory.flat(step.pointers[0]).device).manual_seed(0)
        for buffer in sorted(step.touched()):
            memory.flat(View(buffer)).normal_(generator=generator)
        pointers = launches.pointers(step.call)
        whole = [tensor.to(torch.float32, copy=True) for tensor in pointers]
        half = [tensor.clone() for tensor in pointers]
        with torch.no_grad():
            run_plain(step.call, whole, launches.sizes)
            run_plain(step.call, half, launches.sizes)
        writes = [write for write in step.writes if not _is_scratch(memory, step, write)]
        self._outputs = [pointers[write] for write in writes]
        self._before = [output.clone() for output in self._outputs]
        self._exact = [whole[write] for write in writes]
        self._allowed = [
            2 * (half[write].float() - exact).abs().max()
            + torch.finfo(half[write].dtype).eps / 2 * exact.abs()
            for write, exact in zip(writes, self._exact, strict=True)
        ]

    def passes(self, work: TimedWork) -> bool:
        """Return whether ``work``, which launches it once, gives that. The memory is left as it was found."""
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

"""A plan run step by step through its own memory: with PyTorch's operators, or by its Triton kernels.

PyTorch proves the lowering without a GPU: buffers, views, packing and the memory's arrangement. Every step computes
what its kernel's record says: sums in fp32, and maps rounded to the plan's dtype wherever the kernel rounds them. The
kernels run on a GPU, or on a CPU by Triton's interpreter (``TRITON_INTERPRET=1``).

An image is H x W x 3 in [0, 1], on the device to run on, and its sides are multiples of the plan's granularity; others
raise InputError. The rain layer is then ``memory.map(plan.rain)[0]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..kernels.launch import Call
from ..kernels.plain import run_plain
from ..kernels.record import find
from .memory import Memory
from .program import Plan


def run_by_torch(plan: Plan, image: Tensor) -> Memory:
    """Run every step in order with PyTorch's operators."""
    return _run(plan, image, run_plain)


def run_by_triton(plan: Plan, image: Tensor) -> Memory:
    """Run every step in order by its Triton kernel."""
    return _run(plan, image, lambda call, *rest: find(call.kernel).launch(call, *rest))


def _run(
    plan: Plan, image: Tensor, execute: Callable[[Call, Sequence[Tensor], Sequence[int]], None]
) -> Memory:
    memory = Memory(plan, image.shape[0], image.shape[1], str(image.device))
    memory.fill(image)
    for step in plan.steps:
        execute(step.call, [memory.flat(pointer) for pointer in step.pointers], memory.sizes(step))
    return memory

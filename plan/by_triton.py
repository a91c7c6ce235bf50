"""A plan run by its Triton kernels: on a GPU, or on a CPU by Triton's interpreter (``TRITON_INTERPRET=1``)."""

from __future__ import annotations

from torch import Tensor

from ..kernels.record import find
from .memory import Memory
from .program import Plan


def run_by_triton(plan: Plan, image: Tensor) -> Memory:
    """Run every step in order. The rain layer is then ``memory.map(plan.rain)[0]``.

    Args:
        image: H x W x 3 in [0, 1], on the device to run on; sides are multiples of the plan's granularity.

    Raises:
        InputError: other sides.
    """
    memory = Memory(plan, image.shape[0], image.shape[1], str(image.device))
    memory.fill(image)
    for step in plan.steps:
        pointers = [memory.flat(pointer) for pointer in step.pointers]
        find(step.call.kernel).launch(step.call, pointers, memory.sizes(step))
    return memory

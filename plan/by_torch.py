"""A plan run step by step with PyTorch's operators, from the packed weights and through the plan's own memory.

It proves the lowering without a GPU: buffers, views, packing and the memory's arrangement. Every step computes what its
kernel's record says: sums in fp32, and maps rounded to the plan's dtype wherever the kernel rounds them.
"""

from __future__ import annotations

from torch import Tensor

from ..kernels.plain import run_plain
from .memory import Memory
from .program import Plan


def run_by_torch(plan: Plan, image: Tensor) -> Memory:
    """Run every step in order. The rain layer is then ``memory.map(plan.rain)[0]``.

    Args:
        image: H x W x 3 in [0, 1]; sides are multiples of the plan's granularity.

    Raises:
        InputError: other sides.
    """
    memory = Memory(plan, image.shape[0], image.shape[1], str(image.device))
    memory.fill(image)
    for step in plan.steps:
        run_plain(step.call, [memory.flat(p) for p in step.pointers], memory.sizes(step))
    return memory

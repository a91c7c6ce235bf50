"""A plan run by its Triton kernels: on a GPU, or on a CPU by Triton's interpreter (``TRITON_INTERPRET=1``)."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor

from ..kernels.launch import launch
from .memory import Memory
from .program import Plan


def kernel(name: str) -> Any:
    """The Triton function of a call's kernel name."""
    file, function = name.split(".")
    return getattr(importlib.import_module(f"..kernels.{file}", __package__), f"{function}_kernel")


def run_by_triton(plan: Plan, image: Tensor) -> Memory:
    """Every step in order. image: H x W x 3 in [0, 1], on the device to run on; sides are multiples of the
    plan's granularity. The rain layer is ``memory.map(plan.rain)[0]``.

    Raises:
        InputError: other sides.
    """
    memory = Memory(plan, image.shape[0], image.shape[1], str(image.device))
    memory.fill(image)
    for step in plan.steps:
        launch(
            kernel(step.call.kernel), step.call, [memory.flat(p) for p in step.pointers], memory.sizes(step)
        )
    return memory

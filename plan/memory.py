"""A plan's memory as PyTorch tensors, for the executors that run on them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from ..base.errors import InputError
from .arena import arrange
from .program import Dtype, Plan, Pointer, Step, View, Weight

DTYPES: Mapping[Dtype, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


class Memory:
    """The arena and the weights of a plan on a device, for pictures of one size.

    Raises:
        InputError: sides that are no multiples of the plan's granularity.
    """

    def __init__(self, plan: Plan, height: int, width: int, device: str = "cpu") -> None:
        step = plan.granularity
        if height % step or width % step or min(height, width) < step:
            raise InputError(f"A plan runs on sides that are multiples of {step}, not {width}x{height}.")
        self.plan, self.height, self.width = plan, height, width
        arena = arrange(plan, height, width)
        # NaN in what was never written shows a step that reads it.
        self._arena = torch.full((arena.size,), 0xFF, dtype=torch.uint8, device=device)
        self._offsets = arena.offsets
        with warnings.catch_warnings():
            # That the bytes are read-only; nothing writes weights.
            warnings.simplefilter("ignore")
            self._weights = torch.frombuffer(plan.weights, dtype=torch.uint8).to(device)

    def fill(self, image: Tensor) -> None:
        """Put the picture, H x W x 3 in [0, 1], where the first step reads it."""
        to = self.map(self.plan.image)[0]
        to[..., :3] = image
        to[..., 3] = 0

    def flat(self, pointer: Pointer) -> Tensor:
        """Return the elements from a pointer to the end of its buffer or weight."""
        if isinstance(pointer, Weight):
            part = self._weights[pointer.offset : pointer.offset + pointer.size]
            return part.view(DTYPES[pointer.dtype])
        dtype = DTYPES[self.plan.dtype]
        count = self.plan.buffers[pointer.buffer].elements(self.height, self.width)
        start = self._offsets[pointer.buffer]
        whole = self._arena[start : start + count * dtype.itemsize].view(dtype)
        return whole[self.plan.offset(pointer, self.height, self.width) :]

    def map(self, buffer: int) -> Tensor:
        """Return a buffer as slabs x h x w x channels."""
        shape = self.plan.buffers[buffer]
        return self.flat(View(buffer)).view(
            shape.slabs, self.height >> shape.level, self.width >> shape.level, shape.channels
        )

    def sizes(self, step: Step) -> list[int]:
        return [self.plan.size(size, self.height, self.width) for size in step.sizes]

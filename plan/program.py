"""A network as a list of kernel launches on NHWC buffers, for any picture whose sides are multiples of its granularity.

A plan is data: it needs neither PyTorch nor Triton, so an engine file that holds one (and the compiled kernels) runs
without them. Maps lie at levels: level l has half the height and width of level l - 1, level 0 is the picture. Three
executors run the same plan: PyTorch's operators, Triton (on a GPU or in its interpreter) and compiled kernels on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ..kernels.launch import Call

Dtype = Literal["fp16", "bf16", "fp32"]
#: Of networks with levels down to four scales below the quarter scale; and the side in pixels of the picture that a
#: step's work is counted for.
GRANULARITY = 32
#: Bytes of an element.
ITEMSIZE: Mapping[Dtype, int] = {"fp16": 2, "bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class Buffer:
    """A map of a plan: slabs x h x w x channels elements of the plan's dtype at a level; or, with ``tile``,
    ``channels`` elements for every tile of that many pixels (the scratch memory of a launch's programs)."""

    name: str
    level: int
    channels: int
    slabs: int = 1
    tile: tuple[int, int] | None = None

    def elements(self, height: int, width: int) -> int:
        """Return the number of elements for a picture of height x width."""
        h, w = height >> self.level, width >> self.level
        if self.tile is not None:
            h, w = -(-h // self.tile[0]), -(-w // self.tile[1])
        return self.slabs * h * w * self.channels


@dataclass(frozen=True)
class View:
    """A place in a buffer: a slab, and a channel of wider pixels."""

    buffer: int
    slab: int = 0
    channel: int = 0


@dataclass(frozen=True)
class Weight:
    """A place in the plan's weights, in bytes, and how many bytes lie there."""

    offset: int
    size: int
    dtype: Dtype


Pointer: TypeAlias = View | Weight
#: A number, or ``h3`` / ``w3``: the height or width of level 3.
Size: TypeAlias = int | str


@dataclass(frozen=True)
class Step:
    """One launch.

    name: where in the network, by the modules' names.
    pointers, sizes: the kernel's run-time arguments in its order.
    writes: which of the pointers it writes (scratch memory too); it may read any.
    flops: of a picture of 32x32 pixels, a multiply-add counted as two; they grow with the picture's area.
    map_bytes: moved to and from memory by maps, for 32x32 pixels; weight_bytes: by weights, for any size.
    branch: steps of branch 1 depend on no step of branch 0 in between, and may run beside them.
    """

    name: str
    call: Call
    pointers: tuple[Pointer, ...]
    sizes: tuple[Size, ...]
    writes: tuple[int, ...]
    flops: int
    map_bytes: int
    weight_bytes: int
    branch: int = 0

    def touched(self) -> set[int]:
        """Return the buffers that it reads or writes."""
        return {pointer.buffer for pointer in self.pointers if isinstance(pointer, View)}


@dataclass(frozen=True)
class Plan:
    """A network as launches.

    image: buffer of the rainy picture, h x w x 4 in [0, 1], the fourth channel 0, filled before the first step.
    rain: buffer of the rain layer, h x w x 3, after the last. code: of the innermost map, where it was asked for.
    weights: every packed weight once.
    granularity: both sides of a picture must be multiples of this.
    """

    dtype: Dtype
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    image: int
    rain: int
    code: View | None = None
    weights: bytes = field(default=b"", repr=False)
    granularity: int = GRANULARITY

    def calls(self) -> list[Call]:
        """Return every specialisation once, in the order of first use."""
        found: list[Call] = []
        for step in self.steps:
            if step.call not in found:
                found.append(step.call)
        return found

    def size(self, size: Size, height: int, width: int) -> int:
        """Return the number that a step's size is for a picture of height x width."""
        if isinstance(size, int):
            return size
        return (height if size[0] == "h" else width) >> int(size[1:])

    def offset(self, view: View, height: int, width: int) -> int:
        """Return the first element of a view within its buffer."""
        buffer = self.buffers[view.buffer]
        plane = (height >> buffer.level) * (width >> buffer.level) * buffer.channels
        return view.slab * plane + view.channel

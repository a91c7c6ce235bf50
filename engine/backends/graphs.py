"""The graphs of a network on a GPU, one for every size of frame, and the memory that all of them work in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...base.sizes import Size
from ...device.context import Context
from ...device.graph import Graph
from ...device.memory import DeviceBuffer
from ...device.stream import Stream

#: Sizes of frames whose graphs are kept.
_SIZES = 8


@dataclass(frozen=True)
class SizedGraph:
    """The network as a graph for one size of frame.

    source, result: where it reads the frame and leaves what it made of it.
    holds: what must live, and not change, as long as the graph does.
    """

    graph: Graph
    source: int
    result: int
    holds: Any = None


class GraphsBySize:
    """The graphs of the sizes that were used last. Made and used with the context current.

    stream: where they run. All share memory, since one frame is at work at a time.
    """

    def __init__(self, context: Context, stream: Stream) -> None:
        self._context, self._stream = context, stream
        self._memory = DeviceBuffer(context, 0)
        self._kept: OrderedDict[Size, SizedGraph] = OrderedDict()

    def get(self, height: int, width: int, prepare: Callable[[int, int], SizedGraph]) -> SizedGraph:
        """Return the graph of a size; ``prepare`` makes it where it is not kept."""
        size = height, width
        if size not in self._kept:
            while len(self._kept) >= _SIZES:
                self._stream.synchronise()
                self._kept.popitem(last=False)[1].graph.close()
            self._kept[size] = prepare(height, width)
        self._kept.move_to_end(size)
        return self._kept[size]

    def room(self, nbytes: int) -> int:
        """Return the address of at least so much memory."""
        if nbytes > self._memory.nbytes:
            # Graphs hold addresses in it, and what they are at work on must be done.
            self._stream.synchronise()
            self.close()
            # What is left where there is not enough for more.
            self._memory = DeviceBuffer(self._context, 0)
            self._memory = DeviceBuffer(self._context, nbytes)
        return self._memory.pointer

    def close(self) -> None:
        """Give graphs and memory back. Nothing of it is under way."""
        for each in self._kept.values():
            each.graph.close()
        self._kept.clear()
        self._memory.close()

"""A plan on a GPU: its kernels loaded, its memory laid out, one CUDA graph for every size of picture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ....base.errors import BundleError, InputError
from ....device.context import Context
from ....device.graph import Graph
from ....device.memory import DeviceBuffer, upload
from ....device.module import Arguments, Function, Module, launch
from ....device.stream import Stream
from ....kernels.aot import specialisation
from ....kernels.launch import Call
from ....plan import Plan
from ....plan.arena import arrange, fork_and_join
from ....plan.program import ITEMSIZE, Pointer, Weight
from ..gpu_session import GpuPicture
from .payload import StoredKernel

#: Sizes of pictures whose graphs are kept.
_SIZES = 8
_THREADS_PER_WARP = 32
#: Of one map: kernels count them in 32 bits.
_MOST_ELEMENTS = 2**31 - 1


@dataclass(frozen=True)
class _Loaded:
    kernel: StoredKernel
    function: Function


@dataclass(frozen=True)
class _PreparedGraph:
    """The network for one size of map: as a graph, and where it reads the picture and leaves the rain."""

    graph: Graph
    image: int
    rain: int


class FusedNetwork:
    """A :class:`GpuNetwork`. Made and closed with the context current.

    kernels: one for every specialisation of the plan, and those between pictures and maps.
    stream: where pictures are cleaned.

    Raises:
        BundleError: a kernel is missing or damaged.
        BackendUnavailable: the kernels are for another GPU.
        DerainError: the GPU has not enough memory.
    """

    def __init__(self, context: Context, plan: Plan, kernels: Iterable[StoredKernel], stream: Stream) -> None:
        self.stream = stream
        self._context, self._plan = context, plan
        self._loaded: dict[str, _Loaded] = {}
        self._pixels: dict[tuple[str, bool, bool], _Loaded] = {}
        self._modules: list[Module] = []
        for kernel in kernels:
            module = Module(context, kernel.cubin, f"the engine's kernel {kernel.call.kernel}")
            self._modules.append(module)
            loaded = _Loaded(kernel, module.function(kernel.symbol, kernel.shared))
            self._loaded[specialisation(kernel.call)] = loaded
            constants = kernel.call.constants
            if kernel.call.kernel.startswith("pixels.") and not constants["BGR"]:
                key = kernel.call.kernel, bool(constants["PLANAR"]), bool(constants["BYTES"])
                self._pixels[key] = loaded
        missing = [c.kernel for c in plan.calls() if specialisation(c) not in self._loaded]
        if missing:
            raise BundleError(f"The engine has no code for its kernel {missing[0]}; build it again.")
        self._branch = Stream(context)
        self._weights = DeviceBuffer(context, len(plan.weights))
        upload(np.frombuffer(plan.weights, np.uint8), self._weights, stream)
        # What is uploaded from is the caller's to drop.
        stream.synchronise()
        self._arena: DeviceBuffer | None = None
        self._prepared: OrderedDict[tuple[int, int], _PreparedGraph] = OrderedDict()

    def clean(self, source: GpuPicture, target: GpuPicture, height: int, width: int) -> int:
        """Clean a picture, as :meth:`GpuNetwork.clean` says; sides are padded to multiples of the plan's granularity.

        Raises:
            InputError: too large a picture.
        """
        prepared = self._prepare(height, width)
        before = self._context.launches
        frame = source.height, source.width
        self._launch_pixels("pixels.frame_in", source, [prepared.image], (height, width, *frame))
        prepared.graph.launch(self.stream)
        self._launch_pixels("pixels.frame_out", source, [prepared.rain, target.pointer], (*frame, width))
        return self._context.launches - before + prepared.graph.kernels

    def close(self) -> None:
        """Give the GPU's memory back, as :meth:`GpuNetwork.close` says."""
        self._forget()
        self._weights.close()
        self._branch.close()
        for module in self._modules:
            module.close()

    def _forget(self) -> None:
        for prepared in self._prepared.values():
            prepared.graph.close()
        self._prepared.clear()
        if self._arena is not None:
            self._arena.close()
            self._arena = None

    def _prepare(self, height: int, width: int) -> _PreparedGraph:
        size = height, width
        if size in self._prepared:
            self._prepared.move_to_end(size)
            return self._prepared[size]
        self._require_addressable(height, width)
        arena = arrange(self._plan, height, width)
        if self._arena is None or self._arena.nbytes < arena.size:
            # Graphs hold addresses in the arena, and what they are at work on must be done.
            self.stream.synchronise()
            self._forget()
            self._arena = DeviceBuffer(self._context, arena.size)
        while len(self._prepared) >= _SIZES:
            self.stream.synchronise()
            self._prepared.popitem(last=False)[1].graph.close()
        places = [self._arena.pointer + offset for offset in arena.offsets]
        graph = Graph(self.stream, lambda: self._run(places, height, width))
        prepared = _PreparedGraph(graph, places[self._plan.image], places[self._plan.rain])
        self._prepared[size] = prepared
        return prepared

    def _require_addressable(self, height: int, width: int) -> None:
        maps = (replace(each, slabs=1) for each in self._plan.buffers if each.tile is None)
        if max(each.elements(height, width) for each in maps) > _MOST_ELEMENTS:
            raise InputError(
                f"{height}x{width} pixels are more than the fused kernels can count; clean them in tiles (--tile 2048)."
            )

    def _run(self, places: list[int], height: int, width: int) -> None:
        """Launch every step, the second branch in a stream of its own."""
        fork, join = fork_and_join(self._plan)
        for i, step in enumerate(self._plan.steps):
            if i == fork:
                self._branch.wait_for(self.stream)
            if i == join:
                self.stream.wait_for(self._branch)
            values: list[Any] = [self._address(p, places, height, width) for p in step.pointers]
            sizes = [self._plan.size(size, height, width) for size in step.sizes]
            self._launch(step.call, values, sizes, self._branch if step.branch else self.stream)
        if fork < join == len(self._plan.steps):
            # Nothing needed it, and a graph ends where it began.
            self.stream.wait_for(self._branch)

    def _address(self, pointer: Pointer, places: list[int], height: int, width: int) -> int:
        if isinstance(pointer, Weight):
            return self._weights.pointer + pointer.offset
        item = ITEMSIZE[self._plan.dtype]
        return places[pointer.buffer] + self._plan.offset(pointer, height, width) * item

    def _launch_pixels(self, name: str, picture: GpuPicture, more: list[int], sizes: tuple[int, ...]) -> None:
        loaded = self._pixels.get((name, picture.planar, picture.bytes_))
        if loaded is None:
            raise BundleError(f"The engine has no code for its kernel {name}; build it again.")
        self._launch(loaded.kernel.call, [picture.pointer, *more], list(sizes), self.stream)

    def _launch(self, call: Call, pointers: list[Any], sizes: list[int], stream: Stream) -> None:
        loaded = self._loaded[specialisation(call)]
        types = loaded.kernel.arguments
        # The compiler appends pointers to scratch memory, which these kernels do not use.
        values = [*pointers, *sizes]
        values += [None] * (len(types) - len(values))
        threads = loaded.kernel.warps * _THREADS_PER_WARP
        launch(loaded.function, call.grid(sizes[0], sizes[1]), threads, Arguments(types, values), stream)

"""A plan on a GPU: its kernels loaded, its memory laid out, one CUDA graph for every size of picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
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
from ..graphs import GraphsBySize, SizedGraph
from .payload import StoredKernel

_THREADS_PER_WARP = 32
#: Of one map: kernels count them in 32 bits.
_MOST_ELEMENTS = 2**31 - 1


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
        self._loaded: dict[str, tuple[StoredKernel, Function]] = {}
        self._pixels: dict[tuple[str, bool, bool], Call] = {}
        self._modules: list[Module] = []
        for kernel in kernels:
            module = Module(context, kernel.cubin, f"the engine's kernel {kernel.call.kernel}")
            self._modules.append(module)
            function = module.function(kernel.symbol, kernel.shared)
            self._loaded[specialisation(kernel.call)] = kernel, function
            constants = kernel.call.constants
            if kernel.call.kernel.startswith("pixels.") and not constants["BGR"]:
                key = kernel.call.kernel, bool(constants["PLANAR"]), bool(constants["BYTES"])
                self._pixels[key] = kernel.call
        missing = [c.kernel for c in plan.calls() if specialisation(c) not in self._loaded]
        if missing:
            raise BundleError(f"The engine has no code for its kernel {missing[0]}; build it again.")
        self._branch = Stream(context)
        self._weights = DeviceBuffer(context, len(plan.weights))
        upload(np.frombuffer(plan.weights, np.uint8), self._weights, stream)
        # What is uploaded from is the caller's to drop.
        stream.synchronise()
        self._graphs = GraphsBySize(context, stream)

    def clean(self, source: GpuPicture, target: GpuPicture, height: int, width: int) -> int:
        """Clean a picture, as :meth:`GpuNetwork.clean` says; sides are padded to multiples of the plan's granularity.

        Raises:
            InputError: too large a picture.
        """
        prepared = self._graphs.get(height, width, self._prepare)
        before = self._context.launches
        frame = source.height, source.width
        self._launch_pixels("pixels.frame_in", source, [prepared.source], (height, width, *frame))
        prepared.graph.launch(self.stream)
        self._launch_pixels("pixels.frame_out", source, [prepared.result, target.pointer], (*frame, width))
        return self._context.launches - before + prepared.graph.kernels

    def close(self) -> None:
        """Give the GPU's memory back, as :meth:`GpuNetwork.close` says."""
        self._graphs.close()
        self._weights.close()
        self._branch.close()
        for module in self._modules:
            module.close()

    def _prepare(self, height: int, width: int) -> SizedGraph:
        """Capture the graph of a size, which leaves the rain."""
        maps = (replace(each, slabs=1) for each in self._plan.buffers if each.tile is None)
        if max(each.elements(height, width) for each in maps) > _MOST_ELEMENTS:
            raise InputError(
                f"{height}x{width} pixels are more than the fused kernels can count; clean them in tiles (--tile 2048)."
            )
        arena = arrange(self._plan, height, width)
        start = self._graphs.room(arena.size)
        places = [start + offset for offset in arena.offsets]
        graph = Graph(self.stream, lambda: self._run(places, height, width))
        return SizedGraph(graph, places[self._plan.image], places[self._plan.rain])

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
        call = self._pixels.get((name, picture.planar, picture.bytes_))
        if call is None:
            raise BundleError(f"The engine has no code for its kernel {name}; build it again.")
        self._launch(call, [picture.pointer, *more], list(sizes), self.stream)

    def _launch(self, call: Call, pointers: list[Any], sizes: list[int], stream: Stream) -> None:
        kernel, function = self._loaded[specialisation(call)]
        types = kernel.arguments
        # The compiler appends pointers to scratch memory, which these kernels do not use.
        values = [*pointers, *sizes]
        values += [None] * (len(types) - len(values))
        threads = kernel.warps * _THREADS_PER_WARP
        launch(function, call.grid(sizes[0], sizes[1]), threads, Arguments(types, values), stream)

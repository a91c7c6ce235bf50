"""Kernels for the stand-in driver that compute what the real ones do: their arguments are addresses and sizes, as on a
GPU, and their arithmetic is that of the PyTorch executor, in the very memory that the addresses point to."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from derain_engine.kernels.aot import Compiled, distinct, specialisation
from derain_engine.kernels.launch import Call
from derain_engine.kernels.pixels import reference_in, reference_out
from derain_engine.plan import Plan
from derain_engine.plan.by_torch import run_call
from derain_engine.plan.memory import DTYPES
from derain_engine.plan.program import Dtype, Pointer, Weight

from ...device.conftest import StandIn

#: Two pointers to scratch memory that the compiler appends.
_SCRATCH = ("*u8", "*u8")


class StandInCompiler:
    """In the place of ``compile_calls``: its kernels are a name each, which the stand-in driver knows as a function.

    cubin: makes what counts as a cubin, as the fixture does.
    asked: (precision, GPUs) of everything that was compiled.
    """

    def __init__(self, plan: Plan, cubin: Callable[..., bytes]) -> None:
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self._kernels: dict[str, Any] = {}
        self._cubin = cubin
        self._dtype: Dtype = plan.dtype
        self._pointers: dict[str, tuple[Pointer, ...]] = {}
        self._weights: dict[int, Weight] = {}
        for step in plan.steps:
            self._pointers.setdefault(specialisation(step.call), step.pointers)
            for each in step.pointers:
                if isinstance(each, Weight):
                    assert self._weights.setdefault(each.offset, each) == each

    def run_on(self, cuda: StandIn) -> None:
        """Let a driver know every kernel that was compiled or will be."""
        self._cuda, cuda.kernels = cuda, self._kernels

    def __call__(
        self, calls: Iterable[Call], dtype: str, targets: Sequence[str], **options: Any
    ) -> list[Compiled]:
        assert dtype == self._dtype
        self.asked.append((dtype, tuple(targets)))
        return [self._compile(call, target) for target in targets for call in distinct(calls)]

    def _compile(self, call: Call, target: str) -> Compiled:
        symbol = f"kernel_{len(self._kernels)}"
        if call.kernel.startswith("pixels."):
            types, body = self._picture(call)
        else:
            types, body = self._step(call)
        sizes = tuple(8 if kind.startswith("*") else 4 for kind in (*types, *_SCRATCH))

        def run(grid: tuple[int, int, int], *values: bytes) -> None:
            numbers = [struct.unpack("<Q" if len(value) == 8 else "<i", value)[0] for value in values]
            assert numbers[-2:] == [0, 0]
            pointers = [n for n, kind in zip(numbers, types, strict=False) if kind.startswith("*")]
            extents = numbers[len(pointers) : -2]
            assert grid == call.grid(extents[0], extents[1])
            body(pointers, extents)

        self._kernels[symbol] = sizes, run
        return Compiled(
            call=call,
            dtype=self._dtype,
            target=target,
            cubin=self._cubin(int(target[3:])) + symbol.encode(),
            symbol=symbol,
            arguments=(*types, *_SCRATCH),
            warps=call.config.warps,
            shared=1024,
            registers=1,
            spilled=0,
            matrix={"HMMA": 1},
            triton="stand-in",
        )

    def _step(self, call: Call) -> tuple[list[str], Callable[[list[int], list[int]], None]]:
        kinds = self._pointers[specialisation(call)]
        dtypes: list[Dtype] = [each.dtype if isinstance(each, Weight) else self._dtype for each in kinds]

        def body(pointers: list[int], sizes: list[int]) -> None:
            tensors = []
            for pointer, dtype, kind in zip(pointers, dtypes, kinds, strict=True):
                # Weights of the plan lie at the same places in the memory that they were copied to.
                place = pointer - self._cuda.holder(pointer)
                length = self._weights[place].size if isinstance(kind, Weight) else None
                tensors.append(self._tensor(pointer, DTYPES[dtype], length))
            run_call(call, tensors, sizes)

        sizes = {"dense.dense1x1": 3, "resample.bilinear": 4}.get(call.kernel, 2)
        return [f"*{dtype}" for dtype in dtypes] + ["i32"] * sizes, body

    def _picture(self, call: Call) -> tuple[list[str], Callable[[list[int], list[int]], None]]:
        planar, bgr, bytes_ = (bool(call.constants[name]) for name in ("PLANAR", "BGR", "BYTES"))
        dtype, map_dtype = torch.uint8 if bytes_ else torch.float32, DTYPES[self._dtype]
        picture, maps = "*u8" if bytes_ else "*fp32", f"*{self._dtype}"

        def frame_at(pointer: int, height: int, width: int) -> torch.Tensor:
            flat = self._tensor(pointer, dtype, 3 * height * width * dtype.itemsize)
            return flat.view((3, height, width) if planar else (height, width, 3))

        def read(pointers: list[int], sizes: list[int]) -> None:
            (source, target), (height, width, *frame) = pointers, sizes
            found = reference_in(frame_at(source, *frame), height, width, planar=planar, bgr=bgr)
            to = self._tensor(target, map_dtype, found.numel() * map_dtype.itemsize)
            to.view(found.shape).copy_(found)

        def write(pointers: list[int], sizes: list[int]) -> None:
            (source, rain, target), (height, width, padded) = pointers, sizes
            layer = self._tensor(rain, map_dtype, 3 * height * padded * map_dtype.itemsize)
            layer = layer.view(height, padded, 3)
            clean = reference_out(frame_at(source, height, width), layer, planar=planar, bgr=bgr)
            frame_at(target, height, width).copy_(clean)

        if call.kernel == "pixels.frame_in":
            return [picture, maps, *["i32"] * 4], read
        return [picture, maps, picture, *["i32"] * 3], write

    def _tensor(self, pointer: int, dtype: torch.dtype, nbytes: int | None) -> torch.Tensor:
        """The GPU memory from an address on; without a length, to the end of what was allocated there."""
        start = self._cuda.holder(pointer, nbytes or 1)
        left = start + len(self._cuda.allocations[start]) - pointer
        count = (left if nbytes is None else nbytes) // dtype.itemsize
        memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(pointer)
        return torch.frombuffer(memory, dtype=dtype)

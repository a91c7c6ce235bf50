"""Kernels for the stand-in driver that compute what the real ones do: their arguments are addresses and sizes, as on a
GPU, and their arithmetic is that of the PyTorch executor, in the very memory that the addresses point to."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from derain_engine.kernels.aot import Compiled, distinct
from derain_engine.kernels.launch import Call
from derain_engine.kernels.plain import run_plain
from derain_engine.kernels.record import find
from derain_engine.plan import Plan
from derain_engine.plan.memory import DTYPES
from derain_engine.plan.program import Dtype, Weight

from ...device.conftest import StandIn

#: Two pointers to scratch memory that the compiler appends.
_SCRATCH = ("*u8", "*u8")
_TYPES = {"*u8": torch.uint8, **{f"*{name}": dtype for name, dtype in DTYPES.items()}}


class StandInCompiler:
    """A stand-in for ``compile_calls``: its kernels are a name each, which the stand-in driver knows as a function.

    cubin: makes what counts as a cubin, as the fixture does.
    asked: (precision, GPUs) of everything that was compiled.
    """

    def __init__(self, plan: Plan, cubin: Callable[..., bytes]) -> None:
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self._kernels: dict[str, Any] = {}
        self._cubin = cubin
        self._dtype: Dtype = plan.dtype
        self._weights: dict[int, Weight] = {}
        for step in plan.steps:
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
        named = find(call.kernel).argument_types(call.constants, self._dtype)
        types, body = list(named.values()), self._body(call, named)
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

    def _body(self, call: Call, types: Mapping[str, str]) -> Callable[[list[int], list[int]], None]:
        form = find(call.kernel).form

        def body(pointers: list[int], sizes: list[int]) -> None:
            tensors = []
            for name, pointer in zip(form.pointers, pointers, strict=True):
                # Weights of the plan lie at the same places in the memory that they were copied to.
                is_weight = name in form.weights | form.biases
                length = self._weights[pointer - self._cuda.holder(pointer)].size if is_weight else None
                tensors.append(self._tensor(pointer, _TYPES[types[name]], length))
            run_plain(call, tensors, sizes)

        return body

    def _tensor(self, pointer: int, dtype: torch.dtype, nbytes: int | None) -> torch.Tensor:
        """Return the GPU memory from an address on; without a length, to the end of what was allocated there."""
        start = self._cuda.holder(pointer, nbytes or 1)
        left = start + len(self._cuda.allocations[start]) - pointer
        count = (left if nbytes is None else nbytes) // dtype.itemsize
        memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(pointer)
        return torch.frombuffer(memory, dtype=dtype)

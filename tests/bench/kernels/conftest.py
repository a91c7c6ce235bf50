"""A GPU that is none: the device layer on its stand-in driver, where kernels compute by PyTorch and take as long as a
test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from derain_engine.base.errors import BuildError
from derain_engine.bench.kernels.rig import Rig
from derain_engine.device.stream import Stream
from derain_engine.kernels.aot import Compiled
from derain_engine.kernels.launch import Call
from derain_engine.kernels.plain import run_plain
from derain_engine.kernels.record import find
from derain_engine.models.ssid_kd import SSIDKDConfig
from derain_engine.plan import lower
from derain_engine.plan.memory import Memory

from ...device.conftest import StandIn, context, cubin, cuda
from ...plan.networks import strong

__all__ = ["context", "cubin", "cuda"]

SMALL = SSIDKDConfig((16, 16, 24), (1, 2, 1))


@pytest.fixture
def memory() -> Memory:
    """Return a small network's plan for a picture of 32x64 pixels."""
    torch.manual_seed(0)
    return Memory(lower(strong(SMALL), "fp16", nominal=(32, 64)), 32, 64)


class Gpu:
    """The stand-in as what compiles and runs kernels.

    ticks: half milliseconds of a launch, by its call. wrong: calls that give something else. refused, spilled: calls
    that are not compiled, or spill. compiled: what was asked for.
    """

    def __init__(self, cuda: StandIn, cubin: Callable[..., bytes], memory: Memory) -> None:
        self._cuda, self._cubin = cuda, cubin
        self.ticks: Callable[[Call], int] = lambda call: 10
        self.wrong: Callable[[Call], bool] = lambda call: False
        self.refused: Callable[[Call], bool] = lambda call: False
        self.spilled: Callable[[Call], bool] = lambda call: False
        self.shared: Callable[[Call], int] = lambda call: 1024
        self.compiled: list[Call] = []
        self.launched: list[Call] = []
        self._tensors: dict[int, torch.Tensor] = {}
        for step in memory.plan.steps:
            for pointer in step.pointers:
                flat = memory.flat(pointer)
                known = self._tensors.get(flat.data_ptr())
                if known is None or len(known) < len(flat):
                    self._tensors[flat.data_ptr()] = flat

    def compile(self, call: Call, dtype: str, target: str) -> Compiled:
        symbol = f"kernel{len(self.compiled)}"
        kinds = list(find(call.kernel).argument_types(call.constants, dtype).values())
        arguments = (*kinds, "*u8", "*u8")
        self.compiled.append(call)
        sizes = tuple(4 if kind == "i32" else 8 for kind in arguments)
        self._cuda.kernels[symbol] = (sizes, lambda grid, *values: self._run(call, grid, kinds, values))
        spilled = 8 if self.spilled(call) else 0
        shared = self.shared(call)
        return Compiled(
            call, dtype, target, self._cubin(), symbol, arguments, 4, shared, 99, spilled, {}, "3.9.0"
        )

    def compile_each(self, wanted: Any, dtype: str) -> Iterator[tuple[Call, str, Any]]:
        for call, target in wanted:
            answer = BuildError("no") if self.refused(call) else self.compile(call, dtype, target)
            yield call, target, answer

    def compile_calls(self, calls: Sequence[Call], dtype: str, targets: Sequence[str], **_: Any) -> list[Any]:
        return [self.compile(call, dtype, target) for target in targets for call in calls]

    def _run(self, call: Call, grid: tuple[int, ...], kinds: list[str], values: Sequence[bytes]) -> None:
        numbers = [int.from_bytes(value, "little") for value in values]
        pointers = [
            self._tensors.get(number, torch.zeros(1))
            for number, kind in zip(numbers, kinds, strict=False)
            if kind != "i32"
        ]
        sizes = [number for number, kind in zip(numbers, kinds, strict=False) if kind == "i32"]
        self.launched.append(call)
        # One specialisation serves launches of more maps and fewer.
        run_plain(replace(call, planes=grid[1]), pointers, sizes)
        if self.wrong(call):
            pointers[-1][0] += 0.5
        for _ in range(self.ticks(call)):
            next(self._cuda._time)


@pytest.fixture
def gpu(cuda: StandIn, cubin: Callable[..., bytes], memory: Memory) -> Gpu:
    return Gpu(cuda, cubin, memory)


@pytest.fixture
def rig(context: Any) -> Iterator[Rig]:
    with Stream(context) as stream:
        yield Rig(context, stream, 64)

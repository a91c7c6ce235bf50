"""A stand-in for the CUDA driver, so that everything here but GPU code runs on a machine without one. It keeps
track of contexts, memory, streams and captures, carries out copies on host memory and runs kernels that tests give
as Python functions; handles, enumerations and status codes are cuda-python's own.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import itertools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from derain_engine.device import driver
from derain_engine.device.context import Context


@dataclass
class _Capture:
    """A graph in the making. unjoined: forked streams whose work the first stream has not waited for."""

    origin: int
    steps: list[tuple[str, Callable[[], object]]] = field(default_factory=list)
    streams: set[int] = field(default_factory=set)
    unjoined: set[int] = field(default_factory=set)


def _function(outputs: int = 0, needs_context: bool = True) -> Callable[..., Any]:
    """Make a driver function: its body raises :class:`_Refusal` or gives what comes after the status."""

    def decorate(body: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(body)
        def call(self: StandIn, *arguments: Any) -> tuple:
            name = body.__name__
            self.calls.append((name, *arguments))
            try:
                if (code := self._injected(name)) is not None:
                    raise _Refusal(code)
                if needs_context and not self.current:
                    raise _Refusal("INVALID_CONTEXT")
                values = body(self, *arguments)
            except _Refusal as refusal:
                code = getattr(self.CUresult, f"CUDA_ERROR_{refusal}")
                return (code, *[None] * outputs)
            values = values if isinstance(values, tuple) else () if values is None else (values,)
            assert len(values) == outputs, name
            return (self.CUresult.CUDA_SUCCESS, *values)

        return call

    return decorate


def _simple(
    name: str, body: Callable[..., Any], outputs: int = 0, needs_context: bool = True
) -> Callable[..., Any]:
    body.__name__ = name
    return _function(outputs, needs_context)(body)


def _answering(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
    """Make a driver function that needs no context and gives one thing."""
    return _simple(name, answer, 1, needs_context=False)


def _idle(name: str, needs_context: bool = True) -> Callable[..., Any]:
    """Make a driver function that has nothing to do here."""
    return _simple(name, lambda self, *arguments: None, needs_context=needs_context)


def _taking(name: str, table: str) -> Callable[..., Any]:
    """Make a driver function that takes back what stands in a table."""
    return _simple(name, lambda self, handle: self._take(getattr(self, table), handle))


def _copying(name: str, on_gpu: tuple[int, ...]) -> Callable[..., Any]:
    """Make a copy of which the target (0), the source (1) or both are on the GPU."""

    def body(self: StandIn, target: int, source: int, nbytes: int, stream: Any) -> None:
        for side in on_gpu:
            self.holder((target, source)[side], nbytes)
        self._enqueue(stream, "MEMCPY", lambda: ctypes.memmove(target, source, nbytes))

    return _simple(name, body)


class _Refusal(Exception):
    """The last words of the CUresult that a function gives."""


class StandIn:
    """The object that ``driver.bindings()`` gives in tests.

    kernels: name -> (bytes of each argument, function of the grid and the arguments' bytes).
    calls: (name, arguments) of everything that was called.
    """

    def __init__(self, real: Any) -> None:
        self._real = real
        self.names = ["Stand-in 9000"]
        self.capability, self.shared_memory = (9, 0), 227 * 1024
        self.total = 8 << 30
        self.kernels: dict[str, tuple[tuple[int, ...], Callable[..., None]]] = {}
        self.calls: list[tuple] = []
        self.current: list[int] = []
        self.retained: dict[int, int] = {}
        self.allocations: dict[int, Any] = {}
        self.contexts_of: dict[int, int] = {}
        self.pinned: dict[int, Any] = {}
        self.modules: dict[int, bytes] = {}
        self.streams: dict[int, Any] = {}
        self.events: dict[int, dict[str, Any]] = {}
        self.graphs: dict[int, list[tuple[str, Callable[[], object]]]] = {}
        self.executables: dict[int, list[tuple[str, Callable[[], object]]]] = {}
        self.captures: dict[int, _Capture] = {}
        self._failures: dict[str, tuple[int, str | None]] = {}
        self._numbers = itertools.count(1000)
        self._functions: dict[int, str] = {}
        self._loaded: set[int] = set()
        self._time = itertools.count()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("CU"):
            return getattr(self._real, name)
        raise AttributeError(name)

    def fail(self, name: str, code: str, after: int = 0) -> None:
        """Let a function give CUDA_ERROR_``code`` at its next call, or ``after`` more."""
        self._failures[name] = (after, code)

    def called(self, name: str) -> int:
        return sum(call[0] == name for call in self.calls)

    def left(self) -> dict[str, Any]:
        """Return what was made and not given back."""
        names = ("pinned", "modules", "streams", "events", "graphs", "executables", "captures", "current")
        tables = {name: getattr(self, name) for name in names}
        tables["memory"] = {p: m for p, m in self.allocations.items() if p not in self.contexts_of}
        tables["contexts"] = {device: count for device, count in self.retained.items() if count}
        return {name: table.copy() for name, table in tables.items() if table}

    def adopt(self, pointer: int, nbytes: int, context: int) -> None:
        """Let host memory count as GPU memory that another library allocated in ``context``."""
        self.allocations[pointer] = (ctypes.c_char * nbytes).from_address(pointer)
        self.contexts_of[pointer] = context

    def _injected(self, name: str) -> str | None:
        after, code = self._failures.pop(name, (0, None))
        if after:
            self._failures[name] = (after - 1, code)
        return None if after else code

    def holder(self, pointer: int, nbytes: int = 1) -> int:
        for start, memory in self.allocations.items():
            if start <= pointer and pointer + nbytes <= start + len(memory):
                return start
        raise _Refusal("INVALID_VALUE")

    def _take(self, table: dict[int, Any], handle: Any) -> None:
        if table.pop(int(handle), None) is None:
            raise _Refusal("INVALID_HANDLE")

    def _enqueue(self, stream: Any, kind: str, step: Callable[[], object]) -> None:
        number = int(stream)
        if number not in self.streams and number not in (1, 2):
            raise _Refusal("INVALID_HANDLE")
        for capture in self.captures.values():
            if number in capture.streams:
                capture.steps.append((kind, step))
                if number != capture.origin:
                    capture.unjoined.add(number)
                return
        step()

    cuInit = _idle("cuInit", needs_context=False)
    cuGetErrorName = _answering("cuGetErrorName", lambda self, status: status.name.encode())
    cuGetErrorString = _answering("cuGetErrorString", lambda self, status: b"meaning of %d" % status)
    cuDriverGetVersion = _answering("cuDriverGetVersion", lambda self: 13040)
    cuDeviceGetCount = _answering("cuDeviceGetCount", lambda self: len(self.names))
    cuDeviceGet = _answering("cuDeviceGet", lambda self, index: self.CUdevice(index))
    cuDeviceGetName = _answering(
        "cuDeviceGetName",
        lambda self, length, device: (self.names[int(device)].encode() + b"\0").ljust(length),
    )
    cuDeviceTotalMem = _answering("cuDeviceTotalMem", lambda self, device: self.total)
    cuFuncSetAttribute = _idle("cuFuncSetAttribute")
    cuFuncSetCacheConfig = _idle("cuFuncSetCacheConfig")
    cuStreamSynchronize = _idle("cuStreamSynchronize")
    cuEventSynchronize = _idle("cuEventSynchronize")
    cuEventQuery = _idle("cuEventQuery")
    cuModuleUnload = _taking("cuModuleUnload", "modules")
    cuMemFree = _taking("cuMemFree", "allocations")
    cuMemFreeHost = _taking("cuMemFreeHost", "pinned")
    cuStreamDestroy = _taking("cuStreamDestroy", "streams")
    cuEventDestroy = _taking("cuEventDestroy", "events")
    cuGraphDestroy = _taking("cuGraphDestroy", "graphs")
    cuGraphExecDestroy = _taking("cuGraphExecDestroy", "executables")
    cuMemcpyHtoDAsync = _copying("cuMemcpyHtoDAsync", (0,))
    cuMemcpyDtoHAsync = _copying("cuMemcpyDtoHAsync", (1,))
    cuMemcpyDtoDAsync = _copying("cuMemcpyDtoDAsync", (0, 1))

    @_function(1, needs_context=False)
    def cuDeviceGetAttribute(self, kind: Any, device: Any) -> int:
        return {
            "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": self.capability[0],
            "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": self.capability[1],
            "CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": self.shared_memory,
        }[kind.name]

    @_function(2)
    def cuMemGetInfo(self) -> tuple[int, int]:
        return self.total - sum(len(memory) for memory in self.allocations.values()), self.total

    @_function(1, needs_context=False)
    def cuDevicePrimaryCtxRetain(self, device: Any) -> Any:
        self.retained[int(device)] = self.retained.get(int(device), 0) + 1
        return self.CUcontext(500 + int(device))

    @_function(needs_context=False)
    def cuDevicePrimaryCtxRelease(self, device: Any) -> None:
        self.retained[int(device)] -= 1

    @_function(needs_context=False)
    def cuCtxPushCurrent(self, context: Any) -> None:
        if not self.retained.get(int(context) - 500):
            raise _Refusal("CONTEXT_IS_DESTROYED")
        self.current.append(int(context))

    @_function(1)
    def cuCtxPopCurrent(self) -> Any:
        return self.CUcontext(self.current.pop())

    @_function(1)
    def cuModuleLoadData(self, image: bytes) -> Any:
        handle = self.CUmodule(next(self._numbers))
        self.modules[int(handle)] = image
        return handle

    @_function(1)
    def cuModuleGetFunction(self, module: Any, name: bytes) -> Any:
        if name.decode() not in self.kernels:
            raise _Refusal("NOT_FOUND")
        handle = self.CUfunction(next(self._numbers))
        self._functions[int(handle)] = name.decode()
        return handle

    @_function()
    def cuFuncLoad(self, function: Any) -> None:
        self._loaded.add(int(function))

    @_function(2)
    def cuFuncGetParamInfo(self, function: Any, index: int) -> tuple[int, int]:
        sizes, _ = self.kernels[self._functions[int(function)]]
        if index >= len(sizes):
            raise _Refusal("INVALID_VALUE")
        return sum(sizes[:index]), sizes[index]

    @_function(1)
    def cuMemAlloc(self, nbytes: int) -> Any:
        memory = ctypes.create_string_buffer(b"\xcc" * nbytes, nbytes)
        self.allocations[ctypes.addressof(memory)] = memory
        return self.CUdeviceptr(ctypes.addressof(memory))

    @_function(1)
    def cuMemHostAlloc(self, nbytes: int, flags: int) -> int:
        memory = ctypes.create_string_buffer(nbytes)
        self.pinned[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    @_function()
    def cuMemsetD8Async(self, target: int, value: int, nbytes: int, stream: Any) -> None:
        self.holder(target, nbytes)
        self._enqueue(stream, "MEMSET", lambda: ctypes.memset(target, value, nbytes))

    @_function(1)
    def cuPointerGetAttribute(self, kind: Any, pointer: int) -> Any:
        context = self.contexts_of.get(self.holder(pointer), 500)
        if kind.name == "CU_POINTER_ATTRIBUTE_CONTEXT":
            return self.CUcontext(context)
        return context % 100

    @_function(1)
    def cuStreamCreate(self, flags: int) -> Any:
        return self.streams.setdefault(number := next(self._numbers), self.CUstream(number))

    @_function()
    def cuStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> None:
        marked = self.events[int(event)]["stream"]
        for capture in self.captures.values():
            if marked in capture.streams:
                capture.streams.add(int(stream))
                if int(stream) == capture.origin:
                    capture.unjoined.discard(marked)
                else:
                    capture.unjoined.add(int(stream))

    @_function()
    def cuStreamBeginCapture(self, stream: Any, mode: Any) -> None:
        number = int(stream)
        if number in (1, 2):
            raise _Refusal("STREAM_CAPTURE_UNSUPPORTED")
        self.captures[number] = _Capture(number, streams={number})

    @_function(1)
    def cuStreamEndCapture(self, stream: Any) -> Any:
        capture = self.captures.pop(int(stream))
        if capture.unjoined:
            raise _Refusal("STREAM_CAPTURE_UNJOINED")
        handle = self.CUgraph(next(self._numbers))
        self.graphs[int(handle)] = capture.steps
        return handle

    @_function(1)
    def cuEventCreate(self, flags: int) -> Any:
        handle = self.CUevent(next(self._numbers))
        self.events[int(handle)] = {"flags": flags, "stream": None, "time": None}
        return handle

    @_function()
    def cuEventRecord(self, event: Any, stream: Any) -> None:
        self.events[int(event)].update(stream=int(stream), time=next(self._time))

    @_function(1)
    def cuEventElapsedTime(self, start: Any, end: Any) -> float:
        marks = [self.events[int(event)] for event in (start, end)]
        if any(mark["flags"] for mark in marks):
            raise _Refusal("INVALID_HANDLE")
        return 0.5 * (marks[1]["time"] - marks[0]["time"])

    @_function()
    def cuLaunchKernel(self, function: Any, x: int, y: int, z: int, *rest: Any) -> None:
        *_, stream, address, extra = rest
        assert extra == 0
        if int(function) not in self._loaded and any(
            int(stream) in c.streams for c in self.captures.values()
        ):
            raise _Refusal("STREAM_CAPTURE_UNSUPPORTED")
        self._loaded.add(int(function))
        sizes, body = self.kernels[self._functions[int(function)]]
        slots = (ctypes.c_void_p * len(sizes)).from_address(address)
        values = [ctypes.string_at(slot, size) for slot, size in zip(slots, sizes, strict=True)]
        self._enqueue(stream, "KERNEL", lambda: body((x, y, z), *values))

    @_function(2)
    def cuGraphGetNodes(self, graph: Any, count: int = 0) -> tuple[list[str], int]:
        steps = self.graphs[int(graph)]
        # A node's kind stands for the node.
        return [kind for kind, _ in steps[:count]], count or len(steps)

    @_function(1)
    def cuGraphNodeGetType(self, node: str) -> Any:
        return getattr(self.CUgraphNodeType, f"CU_GRAPH_NODE_TYPE_{node}")

    @_function(1)
    def cuGraphInstantiate(self, graph: Any, flags: int) -> Any:
        handle = self.CUgraphExec(next(self._numbers))
        self.executables[int(handle)] = self.graphs[int(graph)]
        return handle

    @_function()
    def cuGraphLaunch(self, graph: Any, stream: Any) -> None:
        for kind, step in self.executables[int(graph)]:
            self._enqueue(stream, kind, step)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Put the stand-in in the driver's place. When the test is over nothing of it may be left."""
    real = pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    stand_in = StandIn(real)
    monkeypatch.setattr(driver, "bindings", lambda: stand_in)
    yield stand_in
    if stand_in.left():
        gc.collect()
    assert stand_in.left() == {}


@pytest.fixture
def context(cuda: StandIn) -> Iterator[Context]:
    """Open a context on the stand-in and make it current."""
    with Context() as opened, opened.current():
        yield opened


@pytest.fixture(scope="session")
def cubin() -> Callable[..., bytes]:
    """Make what counts as a cubin: nothing but the header, for a GPU (such as 90) in the old or new ABI."""

    def make(target: int = 90, abi: int = 65) -> bytes:
        flags = target if abi < 65 else target << 8
        return struct.pack("<4s3xB10xH12xQQI2xHHHH2x", b"\x7fELF", abi, 190, 0, 64, flags, 0, 0, 0, 0)

    return make

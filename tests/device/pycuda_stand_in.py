"""The part of PyCUDA that a user's program needs, over the stand-in for the driver: its names and its bookkeeping."""

from __future__ import annotations

import math
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from .conftest import StandIn


def install(cuda: StandIn, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let ``import pycuda...`` find the stand-in; returns its ``pycuda``. The primary context is current."""
    packages = {name: ModuleType(f"pycuda{name}") for name in ("", ".autoprimaryctx", ".driver", ".gpuarray")}
    for name, module in packages.items():
        monkeypatch.setitem(sys.modules, f"pycuda{name}", module)
        if name:
            setattr(packages[""], name[1:], module)

    def check(answer: tuple) -> Any:
        status, *values = answer
        assert not status, status
        return values[0] if values else None

    class PointerHolderBase:
        def get_pointer(self) -> int:
            raise NotImplementedError

        def __int__(self) -> int:
            return self.get_pointer()

    class DeviceAllocation:
        def __init__(self, nbytes: int) -> None:
            self.pointer = check(cuda.cuMemAlloc(nbytes))

        def __int__(self) -> int:
            return int(self.pointer)

        def __del__(self) -> None:
            cuda.cuMemFree(self.pointer)

    class Stream:
        def __init__(self) -> None:
            self.handle = int(check(cuda.cuStreamCreate(0)))

        def __del__(self) -> None:
            cuda.cuStreamDestroy(self.handle)

    class Event:
        def __init__(self) -> None:
            self.handle = check(cuda.cuEventCreate(2))

        def record(self, stream: Stream) -> Event:
            check(cuda.cuEventRecord(self.handle, stream.handle))
            return self

        def synchronize(self) -> None:
            check(cuda.cuEventSynchronize(self.handle))

        def __del__(self) -> None:
            cuda.cuEventDestroy(self.handle)

    class GPUArray:
        __module__ = "pycuda.gpuarray"

        def __init__(
            self,
            shape: tuple[int, ...],
            dtype: Any,
            allocator: Any = DeviceAllocation,
            base=None,
            gpudata=None,
        ) -> None:
            self.shape, self.dtype, self.base = tuple(shape), np.dtype(dtype), base
            self.nbytes, self.allocator = math.prod(shape) * self.dtype.itemsize, allocator
            self.gpudata = allocator(self.nbytes) if gpudata is None else gpudata

        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            strides = np.empty(self.shape, self.dtype).strides
            data = (int(self.gpudata), False)
            return {
                "shape": self.shape,
                "strides": strides,
                "data": data,
                "typestr": self.dtype.str,
                "stream": None,
                "version": 3,
            }

        def set_async(self, array: np.ndarray, stream: Stream) -> None:
            check(cuda.cuMemcpyHtoDAsync(int(self.gpudata), array.ctypes.data, self.nbytes, stream.handle))

        def get_async(self, stream: Stream, ary: np.ndarray) -> np.ndarray:
            check(cuda.cuMemcpyDtoHAsync(ary.ctypes.data, int(self.gpudata), self.nbytes, stream.handle))
            return ary

    driver, gpuarray = packages[".driver"], packages[".gpuarray"]
    members: dict[str, Any] = {
        "PointerHolderBase": PointerHolderBase,
        "Stream": Stream,
        "Event": Event,
        "pagelocked_empty": lambda shape, dtype: np.empty(shape, dtype),
    }
    vars(driver).update(members)
    vars(gpuarray).update(GPUArray=GPUArray)
    return packages[""]

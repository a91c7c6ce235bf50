"""Results as arrays of the library that a frame came from (PyTorch, CuPy, PyCUDA, Numba), without a copy."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from .interop import DeviceArray


def array_like(array: DeviceArray, like: Any) -> Any:
    """Return ``array`` as an array of the library of ``like``, which keeps its memory alive.

    PyCUDA's GPUArray, Numba's device array, and what a library's ``from_dlpack`` makes (PyTorch, CuPy); ``array``
    itself where the library has none of these. PyCUDA's arrays know no streams: whoever uses one orders that after
    ``array.stream``. Numba's carries the stream, and for the others the library's current stream is made to wait.
    """
    # A subclass may come from anywhere: the library is that of the first class that has one.
    for kind in type(like).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in _MAKERS:
            return _MAKERS[name](array, like)
        if (take := getattr(sys.modules.get(name), "from_dlpack", None)) is not None:
            return take(array)
    return array


def _for_pycuda(array: DeviceArray, like: Any) -> Any:
    from pycuda import driver, gpuarray  # pyright: ignore[reportMissingImports]

    if not isinstance(like, gpuarray.GPUArray):
        return array
    pointer = _pointer_type(driver.PointerHolderBase)(array)
    return gpuarray.GPUArray(array.shape, array.dtype, allocator=like.allocator, base=array, gpudata=pointer)


def _for_numba(array: DeviceArray, like: Any) -> Any:
    from numba import cuda  # pyright: ignore[reportMissingImports]

    # With sync it would wait on the host for the stream, which the array it makes carries anyway.
    return cuda.as_cuda_array(array, sync=False)


_MAKERS: dict[str, Callable[[DeviceArray, Any], Any]] = {
    "numba": _for_numba,
    "numba_cuda": _for_numba,
    "pycuda": _for_pycuda,
}


@functools.cache
def _pointer_type(base: type) -> type:
    class Pointer(base):
        """An address for PyCUDA: in its arrays, its copies and, by the protocol, its kernels' arguments."""

        def __init__(self, array: DeviceArray) -> None:
            super().__init__()
            self._array = array

        def get_pointer(self) -> int:
            return self._array.pointer

        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            return self._array.__cuda_array_interface__

    return Pointer

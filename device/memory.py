"""Memory of the GPU and page-locked memory of the host, and copies between them.

Copies are only put into a stream: the host's side must stay alive and untouched until the stream (or an event after
the copy) has been waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..base.errors import InputError
from . import driver
from .context import Context, Resource
from .stream import Stream


class DeviceMemory(Protocol):
    """A stretch of GPU memory. pointer: its address. nbytes: its length."""

    @property
    def pointer(self) -> int: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class Region:
    """A part of some GPU memory. owner: kept alive."""

    pointer: int
    nbytes: int
    owner: Any


class _Buffer(Resource):
    """A buffer of ``nbytes``; there is nothing behind one of 0 bytes.

    allocate, free: ask the driver for it, and give it back. doing: for the error, with a place for the bytes.

    Raises:
        InputError: a negative size.
        DerainError: there is not that much memory left.
    """

    def __init__(
        self, context: Context, nbytes: int, allocate: Callable[[], Any], free: Any, doing: str
    ) -> None:
        if nbytes < 0:
            raise InputError(f"There is no buffer of {nbytes} bytes.")
        self.nbytes, handle = nbytes, None
        if nbytes:
            with context.current():
                handle = driver.check(allocate(), doing.format(_in_words(nbytes)))
        super().__init__(context, handle, free if nbytes else None)


class DeviceBuffer(_Buffer):
    """A buffer of ``nbytes`` of GPU memory, aligned to 256 bytes at least and not cleared; none for 0 bytes."""

    def __init__(self, context: Context, nbytes: int) -> None:
        cuda = driver.bindings()
        super().__init__(context, nbytes, lambda: cuda.cuMemAlloc(nbytes), cuda.cuMemFree, "allocating {}")
        self._pointer = int(self._handle) if nbytes else 0

    @property
    def pointer(self) -> int:
        """The address on the GPU; 0 for 0 bytes.

        Raises:
            InputError: after :meth:`close`.
        """
        self.check_open()
        return self._pointer

    def part(self, offset: int, nbytes: int) -> Region:
        """Return ``nbytes`` from ``offset`` on.

        Raises:
            InputError: not inside this buffer.
        """
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise InputError(
                f"Bytes {offset} to {offset + nbytes} are not in a buffer of {self.nbytes} bytes."
            )
        return Region(self.pointer + offset, nbytes, self)


class PinnedBuffer(_Buffer):
    """A buffer of ``nbytes`` of host memory that the GPU copies from and to at full speed, beside its other work."""

    def __init__(self, context: Context, nbytes: int) -> None:
        cuda = driver.bindings()
        doing = "page-locking {} of the host's memory"
        super().__init__(context, nbytes, lambda: cuda.cuMemHostAlloc(nbytes, 0), cuda.cuMemFreeHost, doing)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": (self.nbytes,),
            "typestr": "|u1",
            "data": (int(self.handle or 0), False),
        }

    def array(self, shape: tuple[int, ...], dtype: Any, offset: int = 0) -> np.ndarray:
        """Return a numpy view from byte ``offset`` on. It keeps the buffer alive; unusable once that is closed.

        Raises:
            InputError: longer than the buffer, or after :meth:`close`.
        """
        end = offset + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if not 0 <= offset <= end <= self.nbytes:
            raise InputError(f"Bytes {offset} to {end} are not in a buffer of {self.nbytes} bytes.")
        if offset == end:
            return np.empty(shape, dtype)
        return np.asarray(self)[offset:end].view(dtype).reshape(shape)


def upload(source: np.ndarray, target: DeviceMemory, stream: Stream) -> None:
    """Put a copy from the host to the GPU into ``stream``.

    Args:
        source: C-contiguous, as many bytes as ``target``.

    Raises:
        InputError: it is not.
    """
    _check_host(source, target.nbytes)
    if source.nbytes:
        copy = driver.bindings().cuMemcpyHtoDAsync
        status = copy(target.pointer, source.ctypes.data, source.nbytes, stream.handle)
        driver.check(status, f"copying {_in_words(source.nbytes)} to the GPU")


def download(source: DeviceMemory, target: np.ndarray, stream: Stream) -> None:
    """Put a copy from the GPU to the host into ``stream``; its bytes are there once that was waited for.

    Args:
        target: C-contiguous, writeable, as many bytes as ``source``.

    Raises:
        InputError: it is not.
    """
    _check_host(target, source.nbytes)
    if not target.flags.writeable:
        raise InputError("A frame cannot be copied into an array that is read-only.")
    if target.nbytes:
        copy = driver.bindings().cuMemcpyDtoHAsync
        status = copy(target.ctypes.data, source.pointer, target.nbytes, stream.handle)
        driver.check(status, f"copying {_in_words(target.nbytes)} from the GPU")


def copy(source: DeviceMemory, target: DeviceMemory, stream: Stream) -> None:
    """Put a copy within the GPU's memory into ``stream``.

    Raises:
        InputError: the two differ in length.
    """
    if source.nbytes != target.nbytes:
        raise InputError(f"{source.nbytes} bytes cannot be copied to {target.nbytes} bytes.")
    if source.nbytes:
        status = driver.bindings().cuMemcpyDtoDAsync(
            target.pointer, source.pointer, source.nbytes, stream.handle
        )
        driver.check(status, f"copying {_in_words(source.nbytes)} on the GPU")


def fill(target: DeviceMemory, value: int, stream: Stream) -> None:
    """Put into ``stream`` that every byte of ``target`` becomes ``value``, 0 to 255."""
    if target.nbytes:
        status = driver.bindings().cuMemsetD8Async(target.pointer, value, target.nbytes, stream.handle)
        driver.check(status, f"filling {_in_words(target.nbytes)} on the GPU")


def _check_host(array: np.ndarray, nbytes: int) -> None:
    if array.nbytes != nbytes:
        raise InputError(f"An array of {array.nbytes} bytes cannot be copied to or from {nbytes} bytes.")
    if not array.flags.c_contiguous:
        raise InputError("Only contiguous arrays are copied to or from the GPU; use numpy.ascontiguousarray.")


def _in_words(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB" if nbytes >= 2**20 else f"{nbytes} bytes"

"""A GPU's primary context, and the things in it that must be freed.

The primary context is the one that PyTorch, CuPy and the CUDA runtime use, so their memory and streams are ours too.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..base.errors import DerainError, InputError
from . import driver

if TYPE_CHECKING:
    from typing_extensions import Self


class Context:
    """The primary context of one GPU, held until :meth:`close`, the end of a ``with`` block or of the process.

    Resources (:class:`Resource`) can be made and closed at any time. Whatever puts work on a stream or waits for it is
    done where the context is current (:meth:`current`).

    gpu: the GPU. launches: kernels put on streams of this context so far, those captured into graphs included.

    Raises:
        BackendUnavailable: no such GPU.
    """

    def __init__(self, index: int = 0) -> None:
        self.gpu = driver.gpu(index)
        self.launches = 0
        self._resources: weakref.WeakSet[Resource] = weakref.WeakSet()
        cuda = driver.bindings()
        device = driver.check(cuda.cuDeviceGet(index), f"opening GPU {index}")
        self._handle = driver.check(cuda.cuDevicePrimaryCtxRetain(device), f"opening GPU {index}")
        self._release = weakref.finalize(self, cuda.cuDevicePrimaryCtxRelease, device)

    @property
    def handle(self) -> Any:
        """The context as cuda-python's CUcontext.

        Raises:
            InputError: after :meth:`close`.
        """
        if not self._release.alive:
            raise InputError("This CUDA context is closed; open a new one.")
        return self._handle

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make this context the calling thread's for a block; what was current before is so after it."""
        cuda = driver.bindings()
        driver.check(cuda.cuCtxPushCurrent(self.handle), "using the GPU")
        try:
            yield
        finally:
            # Unchecked: an error here would hide the one that ended the block.
            cuda.cuCtxPopCurrent()

    def memory(self) -> tuple[int, int]:
        """Ask for (free, total) bytes of the GPU."""
        with self.current():
            return driver.check(driver.bindings().cuMemGetInfo(), "asking for the GPU's memory")

    def close(self) -> None:
        """Close every resource that is still open, then let go of the context. Closing twice does nothing."""
        for resource in list(self._resources):
            resource.close()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Resource:
    """Something of the driver's that is freed once: by :meth:`close`, at the end of a ``with`` block, with its
    context, or when nothing refers to it.

    handle, free: what the driver gave, and its function that takes it back; None where there is nothing to free.
    """

    def __init__(self, context: Context, handle: Any, free: Callable[[Any], Any] | None) -> None:
        self.context = context
        self._handle = handle
        self._closed = False
        self._release = None
        if free is not None:
            self._release = weakref.finalize(self, _free, context, free, handle)
            context._resources.add(self)

    @property
    def handle(self) -> Any:
        """The handle that the driver's functions take.

        Raises:
            InputError: after :meth:`close`.
        """
        self.check_open()
        return self._handle

    def check_open(self) -> None:
        """Raise InputError after :meth:`close`."""
        if self._closed:
            raise InputError(f"This {type(self).__name__} is closed.")

    def close(self) -> None:
        """Free it. Closing twice does nothing."""
        self._closed = True
        if self._release is not None:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _free(context: Context, free: Callable[[Any], Any], handle: Any) -> None:
    # Freeing fails only where the context was lost, and what lost it was raised when it happened: an error from
    # here would hide that one, or come out of the garbage collector.
    with contextlib.suppress(DerainError), context.current():
        free(handle)

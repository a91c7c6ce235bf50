"""Arrays on the GPU that come from and go to other libraries without a copy.

In: anything with DLPack or ``__cuda_array_interface__`` (PyTorch, CuPy, PyCUDA, Numba, JAX). Out: the same two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..base.errors import InputError
from . import dlpack, driver
from .context import Context
from .memory import DeviceMemory, Region
from .stream import LEGACY_DEFAULT, Stream


@dataclass(frozen=True)
class _Format:
    """A type of elements: its bytes, its name in ``__cuda_array_interface__``, its (code, bits, lanes) in DLPack."""

    itemsize: int
    typestr: str | None
    kind: tuple[int, int, int]


#: By the names of :attr:`DeviceArray.dtype`. numpy has no bfloat16, so only DLPack carries it.
_FORMATS = {
    "uint8": _Format(1, "|u1", (1, 8, 1)),
    "float16": _Format(2, "<f2", (2, 16, 1)),
    "bfloat16": _Format(2, None, (4, 16, 1)),
    "float32": _Format(4, "<f4", (2, 32, 1)),
}


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """An array in GPU memory, ours or another library's.

    dtype: ``uint8``, ``float16``, ``bfloat16`` or ``float32``. strides: bytes. context: of the GPU that it lies on.
    owner: keeps the memory alive. stream: where the work that writes it was put, None when whoever gave it has
    ordered that already; others who take the array wait for it.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    context: Context
    owner: Any
    stream: Stream | None = None

    @classmethod
    def over(cls, memory: DeviceMemory, shape: tuple[int, ...], dtype: str, stream: Stream) -> DeviceArray:
        """Make a row-major array at the start of ``memory``, which is kept alive; ``stream`` writes it.

        Raises:
            InputError: an unknown dtype, or the memory is too short.
        """
        if dtype not in _FORMATS:
            raise InputError(f"Arrays of {dtype} are not known; known are {', '.join(_FORMATS)}.")
        itemsize = _FORMATS[dtype].itemsize
        if math.prod(shape) * itemsize > memory.nbytes:
            raise InputError(f"{memory.nbytes} bytes are too few for {shape} elements of {dtype}.")
        strides = tuple(step * itemsize for step in dlpack.row_major(shape))
        return cls(memory.pointer, shape, strides, dtype, stream.context, memory, stream)

    @property
    def contiguous(self) -> bool:
        """True where it is row-major without gaps."""
        return 0 in self.shape or all(
            side == 1 or step == gapless * _FORMATS[self.dtype].itemsize
            for side, step, gapless in zip(
                self.shape, self.strides, dlpack.row_major(self.shape), strict=True
            )
        )

    @property
    def region(self) -> Region:
        """The array's memory, for copies.

        Raises:
            InputError: it is not contiguous.
        """
        if not self.contiguous:
            raise InputError(
                f"An array of shape {self.shape} with strides {self.strides} has gaps or another order than "
                "row-major; make it contiguous first."
            )
        return Region(self.pointer, math.prod(self.shape) * _FORMATS[self.dtype].itemsize, self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        typestr = _FORMATS[self.dtype].typestr
        if typestr is None:
            # What makes hasattr answer no, so that a consumer asks for DLPack.
            raise AttributeError(f"__cuda_array_interface__ has no {self.dtype}; use DLPack")
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": typestr,
            "data": (self.pointer, False),
            "strides": None if self.contiguous else self.strides,
            "stream": None if self.stream is None else self.stream.number,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.context.gpu.index

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        # Any version may be answered with an older one.
        del max_version
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("This array is handed over where it lies; it is not copied.")
        if self.stream is not None and stream != -1:
            consumer = Stream(self.context, LEGACY_DEFAULT if stream is None else stream)
            with self.context.current():
                consumer.wait_for(self.stream)
        form = _FORMATS[self.dtype]
        strides = tuple(step // form.itemsize for step in self.strides)
        device = self.__dlpack_device__()
        return dlpack.make_capsule(dlpack.Tensor(self.pointer, self.shape, strides, form.kind, device, self))


def on_gpu(array: Any) -> bool:
    """Say whether ``array`` belongs to :func:`view` rather than to numpy."""
    if hasattr(array, "__dlpack_device__"):
        return array.__dlpack_device__()[0] in (dlpack.CUDA, dlpack.CUDA_MANAGED)
    return hasattr(array, "__cuda_array_interface__")


def view(array: Any, stream: Stream, after: Stream | None = None) -> DeviceArray:
    """Take another library's array on this GPU without a copy. It is kept alive.

    Args:
        stream: where it is going to be read or written: what is put there from now on waits for the work on the array
            that its library has under way.
        after: where the caller says that this work is; waited for beside what the array itself tells. Without it, an
            array that tells nothing is taken to be written in the default stream.

    Raises:
        InputError: not an array, not on this stream's GPU, in a context that is not the GPU's primary one, masked, or
            of another dtype than :class:`DeviceArray` has.
    """
    if not on_gpu(array):
        raise InputError(f"This {type(array).__name__} does not lie on a GPU; hand it over as a numpy array.")
    with stream.context.current():
        if hasattr(array, "__dlpack__"):
            found = _from_dlpack(array, stream)
        else:
            found = _from_interface(array, stream, after)
        _check_place(found)
        if after is not None:
            stream.wait_for(after)
    return found


def _from_dlpack(array: Any, stream: Stream) -> DeviceArray:
    # Before it is asked: its library would take our stream's number for one of that GPU.
    _check_index(array.__dlpack_device__()[1], stream.context)
    try:
        capsule = array.__dlpack__(stream=stream.number)
    # Libraries refuse with whatever they like: PyTorch a BufferError for tensors that require gradients, for one.
    except Exception as error:
        raise InputError(f"The {type(array).__name__} cannot be handed over by DLPack: {error}") from error
    tensor = dlpack.consume(capsule)
    dtype = next((name for name, form in _FORMATS.items() if form.kind == tensor.kind), None)
    if dtype is None:
        code, bits, lanes = tensor.kind
        raise _unknown_dtype(f"DLPack's type {code} with {bits} bits in {lanes} lanes")
    itemsize = _FORMATS[dtype].itemsize
    return DeviceArray(
        tensor.pointer,
        tensor.shape,
        tuple(step * itemsize for step in tensor.strides),
        dtype,
        stream.context,
        tensor.owner,
    )


def _from_interface(array: Any, stream: Stream, after: Stream | None) -> DeviceArray:
    try:
        interface = array.__cuda_array_interface__
        pointer, _ = interface["data"]
        shape, typestr, version = tuple(interface["shape"]), interface["typestr"], interface["version"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"The __cuda_array_interface__ of the {type(array).__name__} is damaged.") from error
    if version < 2:
        raise InputError(f"__cuda_array_interface__ of version {version} is too old; 2 and 3 are understood.")
    if interface.get("mask") is not None:
        raise InputError("Masked arrays are not understood; fill the mask first.")
    dtype = next((name for name, form in _FORMATS.items() if form.typestr == typestr), None)
    if dtype is None:
        raise _unknown_dtype(repr(typestr))
    strides = interface.get("strides")
    if strides is None:
        strides = (step * _FORMATS[dtype].itemsize for step in dlpack.row_major(shape))
    # None promises that there is nothing to wait for, but PyCUDA says it of work on the default stream too, and
    # version 2 knew no streams.
    maker = interface.get("stream") or (LEGACY_DEFAULT if after is None else None)
    if maker is not None:
        stream.wait_for(Stream(stream.context, maker))
    return DeviceArray(pointer or 0, shape, tuple(strides), dtype, stream.context, array)


def _check_place(array: DeviceArray) -> None:
    """Check the pointer's GPU, and its context where it has one (memory of pools has none)."""
    if 0 in array.shape:
        return
    cuda, context = driver.bindings(), array.context
    kind = cuda.CUpointer_attribute
    status, index = cuda.cuPointerGetAttribute(kind.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, array.pointer)
    if getattr(status, "name", "") == "CUDA_ERROR_INVALID_VALUE":
        raise InputError(f"The array's address {array.pointer:#x} is not in the memory of a GPU.")
    _check_index(driver.check((status, index), "looking where an array lies"), context)
    status, owner = cuda.cuPointerGetAttribute(kind.CU_POINTER_ATTRIBUTE_CONTEXT, array.pointer)
    if not status and int(owner) not in (0, int(context.handle)):
        raise InputError(
            "The array belongs to a CUDA context of its own. With PyCUDA, import pycuda.autoprimaryctx "
            "rather than pycuda.autoinit."
        )


def _check_index(index: int, context: Context) -> None:
    if index != context.gpu.index:
        raise InputError(
            f"The array lies on GPU {index}, the engine on GPU {context.gpu.index}; move one of them."
        )


def _unknown_dtype(found: str) -> InputError:
    return InputError(f"Arrays of {found} are not understood; convert them to {', '.join(_FORMATS)}.")

"""Compiled kernels: loading a cubin, packing a kernel's arguments, launching.

Triton's kernels (3.6 to 3.9 alike) take their pointers and numbers in the order of the signature without the
constants, then two more pointers, scratch memory for the kernel and for a profiler: null where the kernel's metadata
gives their sizes as 0. They run in blocks of ``32 * num_warps`` threads with the metadata's ``shared`` bytes.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any

from ..base.errors import BackendUnavailable, BundleError, InputError
from . import driver
from .context import Context, Resource
from .stream import Stream

#: Dynamic shared memory that a kernel may use without asking for more.
_FREE_SHARED = 48 * 1024
#: Packed form of the types that kernels take, by Triton's names; every type with a leading ``*`` is a pointer.
_FORMATS = {"*": "<Q", "i32": "<i", "i64": "<q", "fp32": "<f"}
_SLOT = 8
_WRONG_GPU = {"CUDA_ERROR_NO_BINARY_FOR_GPU", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"}
#: Of a 64-bit ELF file: magic, ABI, machine, (offset of segments, of sections), flags, (size, number) of both.
_ELF_HEADER = struct.Struct("<4s3xB10xH12xQQI2xHHHH2x")
_ELF_MACHINE_CUDA = 190


class Module(Resource):
    """A cubin, loaded; or PTX of our own, which the driver compiles for the GPU that is there.

    image: the file's bytes, which may be freed afterwards. name: what messages call it. ptx: whether it is PTX.

    Raises:
        BundleError: not a whole cubin.
        BackendUnavailable: built for another GPU.
    """

    def __init__(self, context: Context, image: bytes, name: str, *, ptx: bool = False) -> None:
        cuda = driver.bindings()
        target = "newer GPUs" if ptx else cubin_target(image, name)
        self.name = name
        with context.current():
            # The driver is told no length: text ends in a zero.
            status, handle = cuda.cuModuleLoadData(bytes(image) + (b"\0" if ptx else b""))
        if status:
            error = driver.failure(status, f"loading {name}")
            if getattr(status, "name", "") in _WRONG_GPU:
                gpu = context.gpu
                raise BackendUnavailable(
                    f"{name} was built for {target}; this GPU ({gpu.name}) is {gpu.target}. "
                    f"Build the engine again with --gpu {gpu.target}."
                ) from error
            raise error
        super().__init__(context, handle, cuda.cuModuleUnload)

    def function(self, name: str, shared: int = 0) -> Function:
        """Find a kernel of this module.

        Args:
            shared: bytes of dynamic shared memory that each of its blocks gets.

        Raises:
            BundleError: the module has no kernel of this name.
            BackendUnavailable: this GPU's blocks have less shared memory.
        """
        return Function(self, name, shared)


class Function:
    """A kernel with its shared memory; from :meth:`Module.function`, which it keeps loaded.

    parameters: bytes of every argument it takes, or None where the driver is too old to tell (before CUDA 12.4).
    """

    def __init__(self, module: Module, name: str, shared: int) -> None:
        cuda = driver.bindings()
        self.name, self.shared = name, shared
        self._module = module
        gpu = module.context.gpu
        if shared > gpu.shared_memory:
            raise BackendUnavailable(
                f"The kernel {name} needs {shared} bytes of shared memory; a block on this GPU ({gpu.name}) "
                f"has at most {gpu.shared_memory}. Build the engine again with --gpu {gpu.target}."
            )
        with module.context.current():
            status, self._handle = cuda.cuModuleGetFunction(module.handle, name.encode())
            if getattr(status, "name", "") == "CUDA_ERROR_NOT_FOUND":
                raise BundleError(f"{module.name} has no kernel {name}; build the engine again.")
            driver.check((status,), f"looking for the kernel {name}")
            if shared > _FREE_SHARED:
                doing = f"giving the kernel {name} {shared} bytes of shared memory"
                kind = cuda.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                driver.check(cuda.cuFuncSetAttribute(self._handle, kind, shared), doing)
                # So that as many blocks as possible share a multiprocessor.
                preference = cuda.CUfunc_cache.CU_FUNC_CACHE_PREFER_SHARED
                driver.check(cuda.cuFuncSetCacheConfig(self._handle, preference), doing)
            _load(self._handle, name)
            self.parameters = _read_parameters(self._handle)

    @property
    def handle(self) -> Any:
        """The kernel as cuda-python's CUfunction.

        Raises:
            InputError: the module is closed.
        """
        self._module.check_open()
        return self._handle


class Arguments:
    """A kernel's arguments, packed once as the driver reads them, so that launching again costs nothing more.

    types: ``*...`` for pointers, ``i32``, ``i64`` or ``fp32``, one a value. values: numbers; for pointers an address,
    anything with a ``pointer`` (which is not kept alive), or None for null.

    Raises:
        InputError: an unknown type, another number of values, a value that its type cannot hold.
    """

    def __init__(self, types: Sequence[str], values: Sequence[Any]) -> None:
        if len(types) != len(values):
            raise InputError(f"{len(values)} kernel arguments were given for {len(types)} types.")
        self._formats = [_format_of(kind) for kind in types]
        self._types = tuple(types)
        #: Bytes of every argument.
        self.sizes = tuple(struct.calcsize(form) for form in self._formats)
        self._storage = ctypes.create_string_buffer(_SLOT * max(1, len(types)))
        start = ctypes.addressof(self._storage)
        self._slots = (ctypes.c_void_p * max(1, len(types)))(*(start + _SLOT * i for i in range(len(types))))
        #: Where the driver finds the addresses of the values.
        self.address = ctypes.addressof(self._slots)
        for i, value in enumerate(values):
            self.set(i, value)

    def set(self, index: int, value: Any) -> None:
        """Replace one value; launches that are already in a stream keep the old one."""
        if self._formats[index] == "<Q":
            value = 0 if value is None else getattr(value, "pointer", value)
        try:
            struct.pack_into(self._formats[index], self._storage, _SLOT * index, value)
        except (struct.error, OverflowError, TypeError) as error:
            raise InputError(
                f"Kernel argument {index} ({self._types[index]}) cannot be {value!r}."
            ) from error


def launch(
    function: Function, grid: tuple[int, int, int], threads: int, arguments: Arguments, stream: Stream
) -> None:
    """Put a kernel into ``stream`` and count it (:attr:`Context.launches`); an empty grid does nothing.

    Args:
        grid: blocks along x, y, z.
        threads: of each block.

    Raises:
        InputError: arguments that do not fit the kernel's parameters, which the driver would read beyond.
        DerainError: the driver refuses.
    """
    if function.parameters not in (None, arguments.sizes):
        raise InputError(
            f"The kernel {function.name} takes {_in_words(function.parameters)}; "
            f"it was given {_in_words(arguments.sizes)}."
        )
    if not all(grid):
        return
    (status,) = driver.bindings().cuLaunchKernel(
        function.handle, *grid, threads, 1, 1, function.shared, stream.handle, arguments.address, 0
    )
    if status:
        blocks = " x ".join(map(str, grid))
        raise driver.failure(
            status, f"launching the kernel {function.name} ({blocks} blocks of {threads} threads)"
        )
    stream.context.launches += 1


def cubin_target(cubin: bytes, name: str) -> str:
    """Return the GPU that a cubin was compiled for, such as ``sm_90`` (also where that was ``sm_90a``).

    Raises:
        BundleError: not a whole cubin. The driver is told no length and would read on.
    """
    if len(cubin) >= _ELF_HEADER.size:
        magic, abi, machine, segments, sections, flags, *counts = _ELF_HEADER.unpack_from(cubin)
        end = max(segments + counts[0] * counts[1], sections + counts[2] * counts[3])
        if magic == b"\x7fELF" and machine == _ELF_MACHINE_CUDA and end <= len(cubin):
            # The number is in the lowest byte up to ABI 51 and in the next one from 65 on: both are about.
            return f"sm_{flags & 0xFF if abi < 65 else flags >> 8 & 0xFF}"
    raise BundleError(f"{name} is damaged: it is not a whole cubin. Build the engine again.")


def _format_of(kind: str) -> str:
    form = _FORMATS.get("*" if kind.startswith("*") else kind)
    if form is None:
        raise InputError(f"Kernel arguments of type {kind!r} are not known; known are {', '.join(_FORMATS)}.")
    return form


def _load(function: Any, name: str) -> None:
    # A lazy driver would do it at the first launch, which may be inside a capture, where nothing can be loaded.
    try:
        driver.check(driver.bindings().cuFuncLoad(function), f"loading the kernel {name}")
    # What the bindings raise where the driver has no such function; such drivers load a kernel that is looked for.
    except RuntimeError:
        return


def _read_parameters(function: Any) -> tuple[int, ...] | None:
    ask = driver.bindings().cuFuncGetParamInfo
    sizes: list[int] = []
    try:
        while True:
            status, *place = ask(function, len(sizes))
            # How the driver says that there are no more.
            if getattr(status, "name", "") == "CUDA_ERROR_INVALID_VALUE":
                return tuple(sizes)
            _, size = driver.check((status, *place), "reading a kernel's parameters")
            sizes.append(size)
    # What the bindings raise where the driver has no such function.
    except RuntimeError:
        return None


def _in_words(sizes: tuple[int, ...] | None) -> str:
    return f"{len(sizes or ())} arguments of {sizes} bytes"

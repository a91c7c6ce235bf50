"""The CUDA driver: whether it is here, which GPUs it has, and its errors in words.

Everything goes through :func:`bindings`, so that importing this package loads neither cuda-python nor a driver.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from ..base.errors import BackendUnavailable, DerainError

#: After these the driver refuses everything in this process: the work that failed took the context with it.
_FATAL = {
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
}


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver numbers it.

    capability: (major, minor). memory: bytes. shared_memory: bytes that one block of a kernel may have at most.
    """

    index: int
    name: str
    capability: tuple[int, int]
    memory: int
    shared_memory: int

    @property
    def target(self) -> str:
        """The architecture that a kernel is compiled for, such as ``sm_90``."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


@functools.cache
def bindings() -> Any:
    """Return cuda-python's module of driver functions.

    Raises:
        BackendUnavailable: cuda-python is not installed.
    """
    try:
        from cuda.bindings import driver  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError as error:
        raise BackendUnavailable(
            f"CUDA needs cuda-python ({error}); install it with: pip install 'cuda-python>=12.9'"
        ) from error
    return driver


def initialise() -> None:
    """Start the driver in this process; again costs nothing.

    Raises:
        BackendUnavailable: cuda-python, a driver or a GPU is missing; the message says which.
    """
    cuda = bindings()
    try:
        (status,) = cuda.cuInit(0)
    # What the bindings raise where there is no library to call.
    except RuntimeError as error:
        raise BackendUnavailable(
            "CUDA needs the NVIDIA driver, which is not on this machine. Install it; a container sees it only when "
            "it was started with GPUs (docker run --gpus all)."
        ) from error
    if status:
        name, meaning = _describe(status)
        advice = {
            "CUDA_ERROR_NO_DEVICE": "Is a GPU there, and does CUDA_VISIBLE_DEVICES show it?",
            "CUDA_ERROR_NOT_INITIALIZED": "A process that used CUDA cannot be forked; start workers with spawn.",
            "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "Restart the machine after updating the driver.",
        }.get(name, "Does nvidia-smi work?")
        raise BackendUnavailable(f"The NVIDIA driver does not start: {meaning} ({name}). {advice}")
    if not check(cuda.cuDeviceGetCount(), "counting the GPUs"):
        raise BackendUnavailable("The NVIDIA driver finds no GPU; does CUDA_VISIBLE_DEVICES show one?")


def unavailable() -> str | None:
    """Say why this process has no CUDA; None where it has."""
    try:
        initialise()
    except BackendUnavailable as error:
        return str(error)
    return None


def check(result: tuple, doing: str) -> Any:
    """Return what a driver function gave beside its status: None, a value, or a tuple of values.

    Args:
        doing: for the message, such as "allocating 3 MiB".

    Raises:
        DerainError: the status is not success.
    """
    status, *values = result
    if status:
        raise failure(status, doing)
    return values[0] if len(values) == 1 else tuple(values) or None


def failure(status: Any, doing: str) -> DerainError:
    """Make the error to raise for a CUresult that is not success."""
    name, meaning = _describe(status)
    if name == "CUDA_ERROR_OUT_OF_MEMORY":
        return DerainError(
            f"The GPU ran out of memory while {doing}{_memory_left()}. Try a smaller picture, smaller tiles "
            "with --tile, or end other programs that use this GPU."
        )
    message = f"CUDA failed while {doing}: {meaning} ({name})."
    if name in _FATAL:
        message += " Nothing more can run on this GPU until the process is started again."
    return DerainError(message)


def gpus() -> list[Gpu]:
    """List every GPU that this process sees.

    Raises:
        BackendUnavailable: there is none, or no driver.
    """
    initialise()
    count = check(bindings().cuDeviceGetCount(), "counting the GPUs")
    return [_read_gpu(index) for index in range(count)]


def gpu(index: int) -> Gpu:
    """Return one GPU.

    Raises:
        BackendUnavailable: there is none of this number, none at all, or no driver.
    """
    known = gpus()
    if not 0 <= index < len(known):
        listed = ", ".join(f"{each.index} ({each.name})" for each in known)
        raise BackendUnavailable(f"There is no GPU number {index} here; there is {listed}.")
    return known[index]


def driver_version() -> tuple[int, int]:
    """Return the newest CUDA (major, minor) that the installed driver speaks.

    Raises:
        BackendUnavailable: no driver.
    """
    initialise()
    number = check(bindings().cuDriverGetVersion(), "asking the driver's version")
    return number // 1000, number % 1000 // 10


def _read_gpu(index: int) -> Gpu:
    cuda = bindings()
    doing = f"reading the properties of GPU {index}"
    device = check(cuda.cuDeviceGet(index), doing)

    def attribute(name: str) -> int:
        kind = getattr(cuda.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return check(cuda.cuDeviceGetAttribute(kind, device), doing)

    return Gpu(
        index=index,
        name=check(cuda.cuDeviceGetName(256, device), doing).partition(b"\0")[0].decode(),
        capability=(attribute("COMPUTE_CAPABILITY_MAJOR"), attribute("COMPUTE_CAPABILITY_MINOR")),
        memory=check(cuda.cuDeviceTotalMem(device), doing),
        shared_memory=attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
    )


def _describe(status: Any) -> tuple[str, str]:
    """Return (name, meaning) of a CUresult; a driver newer than the bindings may give one that they do not know."""
    cuda = bindings()
    texts = []
    for ask in (cuda.cuGetErrorName, cuda.cuGetErrorString):
        unknown, text = ask(status)
        texts.append(f"error {int(status)}" if unknown else text.decode())
    return texts[0], texts[1]


def _memory_left() -> str:
    """Return what memory is left, for the message of an allocation that failed; nothing where the driver does not
    tell."""
    status, *memory = bindings().cuMemGetInfo()
    return "" if status else " ({} MiB of {} MiB are free)".format(*(size >> 20 for size in memory))

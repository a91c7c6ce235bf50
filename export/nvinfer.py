"""TensorRT and TensorRT-RTX: two libraries with one interface, and what they say while they work."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..base.errors import BackendUnavailable

_log = logging.getLogger("derain_engine.tensorrt")


@dataclass(frozen=True)
class Flavour:
    """One of the libraries.

    name: of the backend and of the extra that installs it.
    module: of the Python bindings.
    title: for messages.
    packages: that bring the bindings, by the names of the registry.
    gpus: what it can be told to build for where no GPU is; empty where it builds for the one at hand alone.
    one_version: whether no version runs the plans of another; else that depends on the plan.
    """

    name: str
    module: str
    title: str
    packages: tuple[str, ...]
    gpus: tuple[str, ...] = ()
    one_version: bool = False

    def unavailable(self) -> str | None:
        """Return None where the library is installed, else one sentence; it is not loaded."""
        if importlib.util.find_spec(self.module) is None:
            return f"{self.title} is not installed; {self._advice}."
        return None

    def installed(self) -> str | None:
        """Return the installed version without loading it; None where the records of packages do not tell."""
        for package in self.packages:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                return importlib.metadata.version(package)
        return None

    def bindings(self) -> Any:
        """Load the library's Python module.

        Raises:
            BackendUnavailable: it is not installed, or not whole.
        """
        if (reason := self.unavailable()) is not None:
            raise BackendUnavailable(reason)
        try:
            return importlib.import_module(self.module)
        # Bindings without the libraries end in whatever their loader raises.
        except (ImportError, OSError, RuntimeError) as error:
            raise BackendUnavailable(f"{self.title} does not load ({error}); {self._advice}.") from error

    @property
    def version(self) -> str:
        """The version that is loaded. Raises BackendUnavailable as :meth:`bindings` says."""
        return self.bindings().__version__

    @property
    def _advice(self) -> str:
        return f"install it with: pip install 'derain-engine[{self.name}]'"


#: The GPUs of TensorRT-RTX: a plan for all of them is hardly larger than for one.
FLAVOURS = {
    each.name: each
    for each in (
        Flavour("tensorrt", "tensorrt", "TensorRT", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")),
        Flavour(
            "tensorrt-rtx",
            "tensorrt_rtx",
            "TensorRT-RTX",
            ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
            ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120"),
            one_version=True,
        ),
    )
}

#: Words for what makes TensorRT-RTX refuse a plan.
_INVALID = {
    "VERSION_MISMATCH": "another version built it",
    "UNSUPPORTED_CC": "it was not built for this GPU",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has not enough memory",
    "MALFORMED_ENGINE": "it is damaged",
    "CUDA_ERROR": "the CUDA driver or runtime does not work",
}

#: Where in the library's source it was.
_PLACE = re.compile(r"\[[\w./]+\.\w+:[^\]]*\] ?|\bIn \w+ at /?[\w./]+:\d+")

_listeners: list[list[str]] = []


@functools.cache
def logger(flavour: Flavour) -> Any:
    """Return the library's logger of this process: the library keeps the first that it is given. Everything goes to
    Python's ``logging``, and errors to whoever listens (:func:`errors`)."""
    trt = flavour.bindings()
    wrong = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in wrong:
                for heard in list(_listeners):
                    heard.append(message)
            # Errors reach the user as exceptions; what else there is speaks to the library's authors.
            _log.debug("%s: %s", severity, message)

    return Logger()


@contextlib.contextmanager
def errors(flavour: Flavour) -> Iterator[list[str]]:
    """Collect the errors that the libraries log during a block: they return None or False, and log the reason."""
    logger(flavour)
    heard: list[str] = []
    _listeners.append(heard)
    try:
        yield heard
    finally:
        _listeners[:] = [each for each in _listeners if each is not heard]


def diagnosis(flavour: Flavour, runtime: Any, plan: bytes, heard: list[str]) -> str:
    """Say why a plan cannot be opened here, as the runtime sees it after it refused."""
    trt = flavour.bindings()
    found: list[str] = []
    if hasattr(runtime, "get_engine_validity"):
        _, bits = runtime.get_engine_validity(plan)
        names = trt.EngineInvalidityDiagnostics.__members__
        found = [words for name, words in _INVALID.items() if name in names and int(bits) & int(names[name])]
    return ", ".join(found) or reason(heard)


def reason(heard: list[str]) -> str:
    """Return the first error in one line, without places in the library's source."""
    lines = [line.strip() for message in heard for line in message.splitlines() if line.strip()]
    if not lines:
        return "it gave no reason"
    _, found, told = lines[0].partition("Error Code ")
    # "3: API Usage Error (what. In some function at some/file:12)"
    told = told.partition(": ")[2] if found else lines[0]
    return " ".join(_PLACE.sub("", told).split()).replace("( (", "(").rstrip(". ")[:300]

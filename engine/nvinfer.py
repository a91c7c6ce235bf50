"""TensorRT and TensorRT-RTX: two libraries with one interface, and what they say while they work."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .errors import BackendUnavailable

_log = logging.getLogger("derain_engine.tensorrt")


@dataclass(frozen=True)
class Flavour:
    """name: of the backend and of the extra that installs it. module: of the Python bindings. title: for messages."""

    name: str
    module: str
    title: str

    def bindings(self) -> Any:
        """The library's Python module.

        Raises:
            BackendUnavailable: it is not installed, or not whole.
        """
        try:
            return importlib.import_module(self.module)
        # Bindings without the libraries end in whatever their loader raises.
        except (ImportError, OSError, RuntimeError) as error:
            raise BackendUnavailable(
                f"{self.title} is not installed ({error}); install it with: pip install 'derain-engine[{self.name}]'"
            ) from error

    @property
    def version(self) -> str:
        """Raises BackendUnavailable as :meth:`bindings`."""
        return self.bindings().__version__


FLAVOURS = {
    each.name: each
    for each in (
        Flavour("tensorrt", "tensorrt", "TensorRT"),
        Flavour("tensorrt-rtx", "tensorrt_rtx", "TensorRT-RTX"),
    )
}


@functools.cache
def logger(flavour: Flavour) -> Any:
    """The library's logger of this process: the library keeps the first that it is given. Everything goes to Python's
    ``logging``, and errors to whoever listens (:func:`errors`)."""
    trt = flavour.bindings()
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
    }

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                self.errors.append(message)
            # A handler's default level would print warnings that are for the library's authors.
            _log.log(min(level, logging.INFO), "%s", message)

    return Logger()


@contextlib.contextmanager
def errors(flavour: Flavour) -> Iterator[list[str]]:
    """The errors that the library logs during a block: it returns None, or False, and tells the reason there."""
    heard = logger(flavour).errors
    heard.clear()
    try:
        yield heard
    finally:
        heard[:] = list(heard)


def reason(heard: list[str]) -> str:
    """The first error in one line, without places in the library's source."""
    if not heard:
        return "it gave no reason"
    line = next((line.strip() for line in heard[0].splitlines() if line.strip()), "it gave no reason")
    head, found, tail = line.partition(": Error Code ")
    return (tail.partition(": ")[2] if found else head).rstrip(".")[:300] or line[:300]

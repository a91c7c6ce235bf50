"""derain-engine turns a trained deraining network into an engine file and runs that file on pictures.

    import derain_engine

    derain_engine.build("model.pt", "model.derain")
    with derain_engine.load("model.derain") as engine:
        clean = engine(rainy)

Importing the package imports nothing else: every name is fetched from its home at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine.builder import build
    from .engine.errors import DerainError
    from .engine.runtime import Engine, load
    from .engine.version import __version__
else:
    # Hidden from type checkers, which would take a module's __getattr__ as leave for any name whatever.
    _HOMES = {
        "DerainError": "errors",
        "Engine": "runtime",
        "__version__": "version",
        "build": "builder",
        "load": "runtime",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        found = getattr(import_module(f".engine.{_HOMES[name]}", __name__), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted(globals().keys() | _HOMES.keys())


__all__ = ["DerainError", "Engine", "__version__", "build", "load"]

"""Turn a trained deraining network into an engine file, and run that file on pictures and video.

    import derain_engine

    derain_engine.build("model.pt", "model.derain")
    with derain_engine.load("model.derain") as engine:
        clean = engine(rainy)

Importing the package imports nothing else: every name is fetched from its home at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base.errors import DerainError
    from .base.version import __version__
    from .engine.build import build, verify_engine
    from .engine.bundle import unpack_bundle
    from .engine.inspect import describe
    from .engine.onnx_export import export_model
    from .engine.options import BuildOptions
    from .engine.runtime import Engine, load
    from .evaluation.evaluate import evaluate
    from .evaluation.options import EvaluateOptions
    from .media.pictures.clean import clean_pictures
    from .media.video.clean import clean_video
    from .media.video.options import VideoOptions
else:
    # Hidden from type checkers, which would take a module's __getattr__ as leave for any name whatever.
    _HOMES = {
        "BuildOptions": "engine.options",
        "DerainError": "base.errors",
        "Engine": "engine.runtime",
        "EvaluateOptions": "evaluation.options",
        "VideoOptions": "media.video.options",
        "__version__": "base.version",
        "build": "engine.build",
        "clean_pictures": "media.pictures.clean",
        "clean_video": "media.video.clean",
        "describe": "engine.inspect",
        "evaluate": "evaluation.evaluate",
        "export_model": "engine.onnx_export",
        "load": "engine.runtime",
        "unpack_bundle": "engine.bundle",
        "verify_engine": "engine.build",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        found = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted(globals().keys() | _HOMES.keys())


__all__ = [
    "BuildOptions",
    "DerainError",
    "Engine",
    "EvaluateOptions",
    "VideoOptions",
    "__version__",
    "build",
    "clean_pictures",
    "clean_video",
    "describe",
    "evaluate",
    "export_model",
    "load",
    "unpack_bundle",
    "verify_engine",
]

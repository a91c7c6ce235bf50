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
    from .base.errors import (
        BackendUnavailable,
        BuildError,
        BundleError,
        CheckpointError,
        DerainError,
        InputError,
        MediaError,
        VerificationError,
    )
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
    from .media.pictures.jobs import find_pictures
    from .media.video.clean import clean_video
    from .media.video.live import clean_live
    from .media.video.options import LiveOptions, RawFrames, VideoOptions
else:
    # Hidden from type checkers, which would take a module's __getattr__ as leave for any name whatever.
    _ERRORS = "BackendUnavailable BuildError BundleError CheckpointError DerainError InputError MediaError"
    _HOMES = dict.fromkeys([*_ERRORS.split(), "VerificationError"], "base.errors") | {
        "BuildOptions": "engine.options",
        "Engine": "engine.runtime",
        "EvaluateOptions": "evaluation.options",
        "LiveOptions": "media.video.options",
        "RawFrames": "media.video.options",
        "VideoOptions": "media.video.options",
        "__version__": "base.version",
        "build": "engine.build",
        "clean_live": "media.video.live",
        "clean_pictures": "media.pictures.clean",
        "clean_video": "media.video.clean",
        "describe": "engine.inspect",
        "evaluate": "evaluation.evaluate",
        "export_model": "engine.onnx_export",
        "find_pictures": "media.pictures.jobs",
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
    "BackendUnavailable",
    "BuildError",
    "BuildOptions",
    "BundleError",
    "CheckpointError",
    "DerainError",
    "Engine",
    "EvaluateOptions",
    "InputError",
    "LiveOptions",
    "MediaError",
    "RawFrames",
    "VerificationError",
    "VideoOptions",
    "__version__",
    "build",
    "clean_live",
    "clean_pictures",
    "clean_video",
    "describe",
    "evaluate",
    "export_model",
    "find_pictures",
    "load",
    "unpack_bundle",
    "verify_engine",
]

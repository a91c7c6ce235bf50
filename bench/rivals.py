"""Other ways of running a network, behind the engine's own front, so that all are timed doing the same work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..engine import backends
from ..engine.backends.base import CompileOptions, RunOptions, Session
from ..engine.checkpoint import Checkpoint
from ..engine.errors import BackendUnavailable
from ..engine.frames import quantise, to_float
from ..engine.manifest import Manifest
from ..engine.runtime import Engine

#: Opens an engine anew.
Opener = Callable[[], Engine]


class OnnxRuntimeSession:
    """A session (``engine.backends.base.Session``) of ONNX Runtime on the CPU, fp32."""

    parallelism = 1
    precision = "fp32"
    available_memory = None

    def __init__(self, model: bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        # Idle threads that spin would be paid for by whatever is timed next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        image = np.ascontiguousarray(to_float(batch).transpose(0, 3, 1, 2))
        (clean,) = self._session.run(["clean"], {"rainy": image})
        clean = np.ascontiguousarray(clean.transpose(0, 2, 3, 1))
        if batch.dtype == np.uint8:
            clean = quantise(clean, np.uint8)
        if out is None:
            return clean
        np.copyto(out, clean)
        return out

    def close(self) -> None:
        self._session = None


def pytorch_eager(checkpoint: Checkpoint, manifest: Manifest, threads: int) -> tuple[Manifest, Opener]:
    """The reference network in PyTorch, fp32. manifest: of an engine that was built from ``checkpoint``.

    Raises:
        BackendUnavailable: PyTorch is not installed.
    """
    backend = backends.get("reference")
    artefact = backend.compile(checkpoint.network, checkpoint.spec, CompileOptions())
    manifest = replace(
        manifest,
        backend="pytorch",
        backend_version=artefact.backend_version,
        precision=artefact.precision,
    )
    return manifest, lambda: _engine(backend.open(artefact, RunOptions(threads=threads)), manifest)


def onnx_runtime(checkpoint: Checkpoint, manifest: Manifest, threads: int) -> tuple[Manifest, Opener]:
    """The network, exported, in ONNX Runtime, fp32. manifest: as for :func:`pytorch_eager`.

    Raises:
        BackendUnavailable: ONNX or ONNX Runtime is not installed. BuildError: the network cannot be exported.
    """
    try:
        import onnxruntime

        from ..export.onnx import export_onnx
    except ImportError as error:
        raise BackendUnavailable(
            f"Comparing with ONNX Runtime needs {error.name}; install it with: pip install 'derain-engine[build]'"
        ) from error
    model = export_onnx(checkpoint.network, checkpoint.spec).SerializeToString()
    manifest = replace(
        manifest, backend="onnxruntime", backend_version=onnxruntime.__version__, precision="fp32"
    )
    return manifest, lambda: _engine(OnnxRuntimeSession(model, threads), manifest)


def _engine(session: Session, manifest: Manifest) -> Engine:
    return Engine(session, manifest, tile=0)

"""The worth of each step of OpenVINO's path on a CPU: the same network, from its ONNX graph run as it is to INT8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import BackendUnavailable, InputError
from ..base.progress import Progress, no_progress
from ..engine import backends, environment
from ..engine.backends.base import Artefact, CompileOptions
from ..engine.examination import calibration
from ..engine.manifest import Manifest
from ..engine.runtime import Engine
from ..models.checkpoint import Checkpoint
from .contestants import Contestant, FromArtefact, Mode, find_checkpoint, manifest_of
from .race import time_in_turns
from .results import Benchmark
from .rivals import FloatSession

if TYPE_CHECKING:
    import openvino

_HINTS = {"fp32": "f32", "bf16": "bf16"}


def bench_cpu(
    model: str = "sid",
    *,
    sizes: Sequence[tuple[int, int]] = ((256, 256),),
    runs: int = 10,
    threads: int | None = None,
    command: str,
    progress: Progress = no_progress,
) -> Benchmark:
    """Time the steps from a plain graph to this project's engines, all taking turns.

    Args:
        model: as for :func:`.contestants.find_checkpoint`.
        sizes, runs, threads, command, progress: as for :func:`.engine.bench_engines`.

    Raises:
        InputError, CheckpointError: no such model, or nothing to measure.
        BackendUnavailable: OpenVINO, PyTorch, ONNX or NNCF is not installed.
    """
    if not sizes or runs < 1 or min(min(size) for size in sizes) < 1:
        raise InputError("A benchmark needs a frame size of at least 1x1 and at least one run.")
    backend = backends.get("openvino")
    if (reason := backend.unavailable()) is not None:
        raise BackendUnavailable(reason)
    count: int = threads or environment.cores()["threads"] or 1
    progress("Loading", 0.0)
    checkpoint = find_checkpoint(model)
    return time_in_turns(
        list(_steps(checkpoint, model, count, progress)),
        sizes=sizes,
        runs=runs,
        threads=count,
        starts=False,
        command=command,
        progress=progress,
    )


def _steps(checkpoint: Checkpoint, model: str, threads: int, progress: Progress) -> Iterator[Contestant]:
    import openvino

    from ..engine.backends.openvino.backend import serialise
    from ..export.onnx import export_onnx

    def manifest(precision: str) -> Manifest:
        about = {"backend": "openvino", "version": openvino.__version__, "precision": precision}
        return manifest_of(checkpoint.spec, checkpoint.weights_sha256, source=model, **about)

    def step(label: str, opener: _FromGraph | FromArtefact) -> Contestant:
        return Contestant(f"{label}, {opener.manifest.precision}", opener.manifest, checkpoint, opener)

    backend, spec = backends.get("openvino"), checkpoint.spec
    fastest = "bf16" if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"
    graph = export_onnx(checkpoint.network, spec, progress=progress).SerializeToString()
    for label, precision, any_size in (
        ("graph as exported, open sizes", "fp32", True),
        ("+ compiled for the size", "fp32", False),
        (f"+ {fastest}", fastest, False),
    ):
        yield step(label, _FromGraph(graph, manifest(precision), threads, any_size))
    plain = Artefact("openvino", openvino.__version__, fastest, serialise(openvino.Core().read_model(graph)))
    rewritten = backend.compile(checkpoint.network, spec, CompileOptions(fastest), progress)
    int8 = backend.compile(
        checkpoint.network, spec, CompileOptions("int8", calibration=calibration(spec)), progress
    )
    for label, artefact in (
        ("+ pixels and layout in the graph", plain),
        ("+ rewrites (the engine)", rewritten),
        ("+ quantised (the engine)", int8),
    ):
        yield step(label, FromArtefact(artefact, manifest(artefact.precision), threads))
    if threads > 1:
        for artefact in (rewritten, int8):
            about = manifest(artefact.precision)
            yield step("the engine on one thread", FromArtefact(artefact, about, 1))
            many = FromArtefact(artefact, about, threads, streams=threads)
            yield step("the engine, a frame for each thread in streams", many)


@dataclass(frozen=True)
class _FromGraph:
    """Opens OpenVINO as a program would that knows nothing of the network. graph: an ONNX file."""

    graph: bytes = field(repr=False)
    manifest: Manifest
    threads: int
    any_size: bool
    on_gpu: bool = False

    def __call__(self, mode: Mode, *, cache: bool = False) -> Engine:
        import openvino

        core = openvino.Core()
        model, precision = core.read_model(self.graph), self.manifest.precision
        return Engine(
            _PlainSession(core, model, precision, self.threads, self.any_size), self.manifest, tile=0
        )


class _PlainSession(FloatSession):
    """A session of a graph as it was exported."""

    def __init__(
        self, core: openvino.Core, model: openvino.Model, precision: str, threads: int, any_size: bool
    ) -> None:
        self.precision = precision
        self._core, self._model, self._any_size = core, model, any_size
        self._config = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        self._compiled: dict[tuple[int, ...] | None, Any] = {}

    def infer(self, image: np.ndarray) -> np.ndarray:
        return self._request(image.shape).infer([image])[0]

    def close(self) -> None:
        self._compiled.clear()

    def _request(self, shape: tuple[int, ...]) -> Any:
        key = None if self._any_size else shape
        if key not in self._compiled:
            model = self._model.clone()
            if key is not None:
                model.reshape(list(key))
            self._compiled[key] = self._core.compile_model(model, "CPU", self._config).create_infer_request()
        return self._compiled[key]

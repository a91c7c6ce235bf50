"""The network of Table III, measured here in every way that this machine can run it, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

from ..base.errors import BackendUnavailable, DerainError, InputError
from ..base.progress import Progress, no_progress
from ..engine import backends, environment, verify
from ..engine.backends.base import Backend, CompileOptions
from ..engine.examination import calibration
from ..engine.manifest import Manifest
from ..engine.options import BuildOptions
from ..models.checkpoint import Checkpoint
from . import rivals
from .contestants import Contestant, FromArtefact, Opener, find_checkpoint, manifest_of
from .published import SIZES
from .race import time_in_turns
from .results import Benchmark

#: Backends that are not the reference, in the order of the rows.
_BACKENDS = tuple(name for name in backends.names() if name != "reference")
_LABELS = {"openvino": "OpenVINO", "fused": "fused", "tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_PRECISIONS = ("fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True)
class Table3:
    """A run for Table III. benchmark: every contestant that ran. left_out: (name, reason) of the others."""

    benchmark: Benchmark
    left_out: tuple[tuple[str, str], ...]


def bench_table3(
    model: str = "sid",
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    runs: int = 10,
    threads: int | None = None,
    compiled: bool = True,
    quantised: bool = True,
    onnx: Sequence[tuple[str, Path]] = (),
    peers: Sequence[str] = (),
    starts: bool = False,
    command: str,
    progress: Progress = no_progress,
) -> Table3:
    """Time the network in PyTorch eager and ``torch.compile`` (fp32, and the 16-bit precision of the device), ONNX
    Runtime in fp32, and every backend and precision that runs here.

    Args:
        model: as for :func:`.contestants.find_checkpoint`.
        compiled: with ``torch.compile``, which takes minutes to compile.
        quantised: with int8, which takes minutes to build.
        peers: other networks to time in the same run, without ``torch.compile``, named like ``model``.
        sizes, runs, threads, onnx, starts, command, progress: as for :func:`.engine.bench_engines`.

    Raises:
        InputError, CheckpointError: no such model or ONNX file, or nothing to measure.
        BackendUnavailable: PyTorch or ONNX is not installed.
    """
    if not sizes or runs < 1 or min(min(size) for size in sizes) < 1:
        raise InputError("A benchmark needs a frame size of at least 1x1 and at least one run.")
    count: int = threads or environment.cores()["threads"] or 1
    progress("Loading", 0.0)
    contestants: list[Contestant] = []
    left_out: list[tuple[str, str]] = []
    for network in (model, *peers):
        checkpoint = find_checkpoint(network)
        label = "" if network == model else f"{Path(network).stem}: "
        for way, make in _ways(checkpoint, network, sizes, count, compiled and not label):
            name = label + way
            if name.endswith(verify.LOSSY) and not quantised:
                continue
            progress(f"Preparing {name}", 0.0)
            try:
                manifest, opener = make()
            except (
                Exception
            ) as error:  # a library may fail with anything; the others are measured all the same
                left_out.append((name, _first_line(error)))
            else:
                contestants.append(Contestant(name, manifest, checkpoint, opener))
    contestants += [rivals.onnx_file(name, file, count) for name, file in onnx]
    if not contestants:
        raise BackendUnavailable(f"Nothing here runs the network: {left_out[0][1]}")
    benchmark = time_in_turns(
        contestants,
        sizes=sizes,
        runs=runs,
        threads=count,
        starts=starts,
        command=command,
        leave_out=lambda name, error: left_out.append((name, _first_line(error))),
        progress=progress,
    )
    if not benchmark.rows:
        raise BackendUnavailable(f"Nothing here runs the network: {left_out[0][1]}")
    return Table3(benchmark, tuple(left_out))


_Way = tuple[str, Callable[[], tuple[Manifest, Opener]]]


def _ways(
    checkpoint: Checkpoint, model: str, sizes: Sequence[tuple[int, int]], threads: int, compiled: bool
) -> Iterator[_Way]:
    """Yield (name, what makes it) of all that may run the network here."""
    base = manifest_of(checkpoint.spec, checkpoint.weights_sha256, source=model)
    device, half = _torch_device()
    where = " on the GPU" if device == "cuda" else ""
    for precision in ("fp32", half):
        for through in (False, True) if compiled else (False,):
            label = f"{'torch.compile' if through else 'PyTorch eager'} {precision}{where}"
            yield (
                label,
                lambda precision=precision, through=through: rivals.pytorch(
                    checkpoint, base, threads, precision=precision, device=device, compiled=through
                ),
            )
    yield "ONNX Runtime fp32", lambda: rivals.onnx_runtime(checkpoint, base, threads)
    for name in _BACKENDS:
        backend, label = backends.get(name), _LABELS.get(name, name)
        if (reason := backend.unavailable()) is not None:
            yield label, lambda reason=reason: _refuse(reason)
            continue
        for precision in (each for each in _PRECISIONS if each in backend.precisions):
            yield (
                f"{label} {precision}",
                lambda backend=backend, precision=precision: _from_backend(
                    backend, checkpoint, model, precision, sizes, threads
                ),
            )


def _refuse(reason: str) -> NoReturn:
    raise BackendUnavailable(reason)


def _torch_device() -> tuple[Literal["cpu", "cuda"], rivals.TorchPrecision]:
    """Tell where PyTorch runs, and its 16-bit precision there."""
    import torch

    return ("cuda", "fp16") if torch.cuda.is_available() else ("cpu", "bf16")


def _from_backend(
    backend: Backend,
    checkpoint: Checkpoint,
    model: str,
    precision: str,
    sizes: Sequence[tuple[int, int]],
    threads: int,
) -> tuple[Manifest, Opener]:
    spec = checkpoint.spec
    asked = BuildOptions(backend=backend.name, opt_shapes=tuple(sizes) if "sizes" in backend.takes else ())
    options = CompileOptions(
        precision, asked.sizes_for(spec), calibration=calibration(spec) if precision in verify.LOSSY else None
    )
    artefact = backend.compile(checkpoint.network, spec, options)
    # Payloads may be views of a file, which another process cannot be sent.
    artefact = replace(artefact, payloads={key: bytes(each) for key, each in artefact.payloads.items()})
    manifest = manifest_of(
        spec,
        checkpoint.weights_sha256,
        source=model,
        backend=artefact.backend,
        version=artefact.backend_version,
        precision=artefact.precision,
    )
    return manifest, FromArtefact(artefact, manifest, threads)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, DerainError) and lines:
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

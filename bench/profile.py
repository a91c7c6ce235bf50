"""The profile of a frame, step by step: OpenVINO's performance counters, or the launches of a fused plan."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.errors import BackendUnavailable, BundleError, DerainError, InputError
from ..base.progress import Progress, no_progress
from ..engine import environment
from ..engine.bundle import open_bundle
from .contestants import find_checkpoint

if TYPE_CHECKING:
    from ..plan import Plan

_HINTS = {"fp32": "f32", "bf16": "bf16"}
_WARM_UP = 2


@dataclass(frozen=True)
class ProfiledStep:
    """A step of a frame.

    name: of the layer or launch. kind: what computes it. ms: median over the frames, None where nothing ran it.
    share: of the whole frame's time, or of its operations where nothing ran. gflop: 10^9 operations, a multiply-add
    counted as two; mb: 10^6 bytes moved with every map and weight touched once; None where nobody tells.
    """

    name: str
    kind: str
    ms: float | None
    share: float
    gflop: float | None = None
    mb: float | None = None


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The steps of a frame.

    steps: the most expensive first. subject: what was profiled, ``backend``, ``precision``. height, width: of the
    frame after padding. runs, threads: of what was measured, None where nothing ran. ms: sum over the steps.
    """

    subject: str
    backend: str
    precision: str
    device: str
    height: int
    width: int
    runs: int | None = None
    threads: int | None = None
    ms: float | None = None
    steps: tuple[ProfiledStep, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(sorted(self.steps, key=lambda step: -step.share)))


def profile_engine(
    engine: Path,
    size: tuple[int, int],
    *,
    runs: int = 10,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Profile:
    """Profile an engine file: OpenVINO's is run, without the conversion of pixels; of a fused one the plan is read.

    Args:
        size: height and width of the frame in pixels, padded up as a frame is.

    Raises:
        InputError: an engine of another backend, or a frame that it does not take.
        BundleError: no engine file. BackendUnavailable: OpenVINO is not installed.
    """
    with open_bundle(engine) as bundle:
        manifest = bundle.manifest
        payloads = {name: bytes(bundle.read(name)) for name in bundle.names}
    height, width = manifest.sizes.padded(*size)
    if manifest.backend == "fused":
        from ..engine.backends.fused.payload import read_plan

        return profile_plan(read_plan(payloads), engine.name, height, width)
    if manifest.backend != "openvino":
        raise InputError(
            f"{engine} is an engine of the {manifest.backend} backend, which cannot be profiled; give one of openvino "
            "or fused."
        )
    count: int = threads or environment.cores()["threads"] or 1
    counters = _counters(payloads, manifest.precision, (height, width), runs, count, progress)
    times = {key: statistics.median(found) for key, found in counters.items()}
    total = sum(times.values())
    return Profile(
        subject=engine.name,
        backend=f"openvino {manifest.backend_version}",
        precision=manifest.precision,
        device=environment.cpu()["model"],
        height=height,
        width=width,
        runs=runs,
        threads=count,
        ms=total,
        steps=tuple(ProfiledStep(name, kind, ms, ms / total) for (name, kind), ms in times.items()),
    )


def profile_plan(plan: Plan, subject: str, height: int, width: int) -> Profile:
    """Rank the launches of a plan by their operations. height, width: multiples of 32."""
    from ..plan.program import GRANULARITY

    area = height * width / GRANULARITY**2
    total = sum(step.flops for step in plan.steps)
    steps = [
        ProfiledStep(
            step.name,
            step.call.kernel,
            None,
            step.flops / total,
            step.flops * area / 1e9,
            (step.map_bytes * area + step.weight_bytes) / 1e6,
        )
        for step in plan.steps
    ]
    return Profile(
        subject=subject,
        backend="fused",
        precision=plan.dtype,
        device="none: operations and bytes of the plan",
        height=height,
        width=width,
        steps=tuple(steps),
    )


def profile_model(model: str, size: tuple[int, int]) -> Profile:
    """Rank the launches that a model becomes in fp16. model, errors: as for :func:`.contestants.find_checkpoint`."""
    from ..plan import lower

    checkpoint = find_checkpoint(model)
    spec = checkpoint.spec
    height, width = spec.sizes.padded(*size)
    return profile_plan(lower(checkpoint.network, "fp16", nominal=(height, width)), model, height, width)


def by_kind(steps: Sequence[ProfiledStep]) -> dict[str, float]:
    """Sum the share of each kind of step, the largest first."""
    shares: dict[str, float] = {}
    for step in steps:
        shares[step.kind] = shares.get(step.kind, 0.0) + step.share
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _counters(
    payloads: Mapping[str, bytes],
    precision: str,
    size: tuple[int, int],
    runs: int,
    threads: int,
    progress: Progress,
) -> dict[tuple[str, str], list[float]]:
    """Count milliseconds in every frame of each layer that was executed, by (name, kind)."""
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailable("This needs OpenVINO; install it with: pip install openvino") from error
    try:
        xml, weights = (
            next(data for name, data in payloads.items() if name.endswith(end)) for end in (".xml", ".bin")
        )
    except StopIteration as error:
        raise BundleError("The engine is not a whole OpenVINO engine; build it again.") from error
    core = openvino.Core()
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    hint = _HINTS.get(precision if has_bf16 else "fp32")
    settings: dict[str, Any] = {
        "PERF_COUNT": True,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # What holds integer layers says so itself.
        **({} if hint is None else {"INFERENCE_PRECISION_HINT": hint}),
    }
    image = np.random.default_rng(0).random((1, 3, *size), np.float32)
    found: dict[tuple[str, str], list[float]] = {}
    try:
        model = core.read_model(xml, openvino.Tensor(np.frombuffer(weights, np.uint8)))
        model.reshape(list(image.shape))
        progress("Compiling", 0.0)
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        for run in range(_WARM_UP + runs):
            progress("Profiling", run / (_WARM_UP + runs))
            request.infer([image])
            if run < _WARM_UP:
                continue
            for layer in request.profiling_info:
                if layer.status == openvino.ProfilingInfo.Status.EXECUTED:
                    key = layer.node_name, f"{layer.node_type} {layer.exec_type}"
                    found.setdefault(key, []).append(layer.real_time.total_seconds() * 1000)
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1]
        raise DerainError(f"OpenVINO failed on a frame of {size[0]}x{size[1]}: {last}") from error
    if not found:
        raise DerainError("OpenVINO counted nothing on this device.")
    return found

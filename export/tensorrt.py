"""An ONNX graph as a plan of TensorRT or TensorRT-RTX, with or without a GPU.

Both build strongly typed: every layer computes in the type that the graph gives it, so what precision an engine has is
decided before (:mod:`.half`) and only checked here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import ModelProto

from ..engine.errors import BuildError, InputError
from ..engine.files import whole_file
from ..engine.nvinfer import Flavour, errors, logger, reason
from ..engine.progress import Progress, no_progress
from .onnx import INPUT

#: What TensorRT-RTX can be told to build for; a plan for all of them is hardly larger than for one.
RTX_GPUS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120")
#: Layers whose precision makes an engine's.
_PRODUCTS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")


@dataclass(frozen=True)
class Profile:
    """(height, width) in pixels of the frames that a plan takes: the least, the one it is fastest for, the most."""

    least: tuple[int, int]
    usual: tuple[int, int]
    most: tuple[int, int]

    def __post_init__(self) -> None:
        for axis in range(2):
            if not 0 < self.least[axis] <= self.usual[axis] <= self.most[axis]:
                least, usual, most = (f"{h}x{w}" for h, w in (self.least, self.usual, self.most))
                raise InputError(
                    f"Frames from {least} over {usual} to {most} are no range: sides must not become smaller."
                )


@dataclass(frozen=True)
class BuiltPlan:
    """data: what the runtime opens. layers: how many layers give tensors of each type; products: of those that
    multiply, by type. seconds: the build took."""

    data: bytes = field(repr=False)
    layers: Mapping[str, int]
    products: Mapping[str, int]
    seconds: float


def build_plan(
    model: ModelProto,
    flavour: Flavour,
    profiles: Sequence[Profile],
    gpus: Sequence[str] | None = None,
    *,
    precision: str = "fp16",
    timing_cache: Path | None = None,
    progress: Progress = no_progress,
) -> BuiltPlan:
    """Build a plan for frames one at a time.

    Args:
        model: typed as it is to be computed; one input, ``rainy``.
        profiles: ranges of sizes, each of which the plan is optimised for.
        gpus: for TensorRT-RTX, some of ``RTX_GPUS``; None for this machine's GPU, which full TensorRT always builds
            for.
        precision: what the layers that multiply have to compute in.
        timing_cache: file in which TensorRT keeps what it has timed; TensorRT-RTX times nothing.
        progress: told the builder's phases.

    Raises:
        BackendUnavailable: the library is not installed.
        InputError: a GPU that it cannot build for.
        BuildError: the graph is refused (the message names the node), the build fails, or layers came out in another
            precision.
    """
    trt = flavour.bindings()
    started = time.monotonic()
    with errors(flavour) as heard:
        builder = trt.Builder(logger(flavour))
        if builder is None:
            raise BuildError(f"{flavour.title} does not start: {reason(heard)}.")
        network = builder.create_network(_strongly_typed(trt))
        parser = trt.OnnxParser(network, logger(flavour))
        if not parser.parse(model.SerializeToString()):
            raise BuildError(f"{flavour.title} does not take the graph: {_parser_errors(parser)}.")
        layers, products = _types(trt, network)
        _require_precision(flavour, products, precision)
        config = builder.create_builder_config()
        for profile in profiles:
            _add_profile(trt, builder, config, profile)
        _choose_gpus(trt, flavour, config, gpus)
        _read_timing_cache(config, timing_cache)
        config.progress_monitor = _monitor(trt, progress)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(f"{flavour.title} could not build the engine: {_advice(reason(heard))}")
        _write_timing_cache(config, timing_cache)
        return BuiltPlan(bytes(plan), layers, products, time.monotonic() - started)


def _strongly_typed(trt: Any) -> int:
    """TensorRT 10 must be told; later ones know no other."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parser_errors(parser: Any) -> str:
    found = [parser.get_error(i) for i in range(parser.num_errors)]
    told = [f"{each.node_operator()} ({each.node_name()}): {each.desc()}" for each in found]
    return "; ".join(told[:3]) or "it gave no reason"


def _types(trt: Any, network: Any) -> tuple[dict[str, int], dict[str, int]]:
    kinds = [getattr(trt.LayerType, name) for name in _PRODUCTS]
    layers: Counter[str] = Counter()
    products: Counter[str] = Counter()
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        kind = _PRECISIONS.get(layer.get_output(0).dtype.name, layer.get_output(0).dtype.name.lower())
        layers[kind] += 1
        if layer.type in kinds:
            products[kind] += 1
    return dict(layers), dict(products)


_PRECISIONS = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8"}


def _require_precision(flavour: Flavour, products: Mapping[str, int], precision: str) -> None:
    # Layers that were kept in fp32 are what the graph says; none in the wanted precision is not.
    if not products.get(precision):
        found = ", ".join(f"{count} in {kind}" for kind, count in products.items()) or "none"
        raise BuildError(
            f"{flavour.title} would compute in another precision than {precision}: of the layers that multiply there "
            f"are {found}."
        )


def _add_profile(trt: Any, builder: Any, config: Any, profile: Profile) -> None:
    added = builder.create_optimization_profile()
    added.set_shape(INPUT, *((1, 3, *size) for size in (profile.least, profile.usual, profile.most)))
    if config.add_optimization_profile(added) < 0:
        raise BuildError(f"The frame sizes {profile} are not possible for this network.")


def _choose_gpus(trt: Any, flavour: Flavour, config: Any, gpus: Sequence[str] | None) -> None:
    if gpus is None:
        return
    if not hasattr(config, "set_compute_capability"):
        raise InputError(f"{flavour.title} builds for the GPU of this machine alone; leave --gpu out.")
    unknown = [gpu for gpu in gpus if gpu not in RTX_GPUS]
    if unknown:
        raise InputError(
            f"{flavour.title} cannot build for {unknown[0]} without such a GPU; it knows {', '.join(RTX_GPUS)}."
        )
    config.num_compute_capabilities = len(gpus)
    for i, gpu in enumerate(gpus):
        config.set_compute_capability(getattr(trt.ComputeCapability, gpu.upper().replace("_", "")), i)


def _read_timing_cache(config: Any, path: Path | None) -> None:
    if path is None:
        return
    kept = path.read_bytes() if path.exists() else b""
    # One that does not fit this GPU or version is not taken; an empty one is.
    for data in (kept, b""):
        if config.set_timing_cache(config.create_timing_cache(data), ignore_mismatch=False):
            return


def _write_timing_cache(config: Any, path: Path | None) -> None:
    if path is None:
        return
    with whole_file(path) as temporary:
        temporary.write_bytes(bytes(config.get_timing_cache().serialize()))


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):
        """Phases are nested; the outermost one's steps are what a user sees."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.phases[name] = max(1, steps)

        def step_complete(self, name: str, step: int) -> bool:
            if name == next(iter(self.phases), None):
                progress("Building the plan", min(1.0, (step + 1) / self.phases[name]))
            return True

        def phase_finish(self, name: str) -> None:
            self.phases.pop(name, None)

    return Monitor()


def _advice(told: str) -> str:
    if "memory" in told.lower():
        return f"{told}. Lower the largest frame size (--max), or free memory of the GPU."
    return f"{told}."

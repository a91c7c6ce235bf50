"""An ONNX graph as a plan of TensorRT or TensorRT-RTX, with or without a GPU.

Both build strongly typed: every layer computes in the type that the graph gives it, so what precision an engine has is
decided before (:mod:`.half`) and checked here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto

from ...base.errors import BuildError, InputError
from ...base.files import atomic_write
from ...base.progress import Progress, no_progress
from ...base.sizes import FrameSizes, words
from ..nvinfer import Flavour, errors, logger, reason
from ..onnx import INPUT, OUTPUTS
from .layer_types import inspected, typed

_STAGE = "Building the plan"


@dataclass(frozen=True)
class PlanOptions:
    """Settings of a builder beside the graph.

    gpus: for a flavour that names any, some of those; None for this machine's.
    precision: what the layers that multiply have to compute in.
    hardware_compatibility: TensorRT's ``none``, ``ampere_plus`` or ``same_compute_capability``.
    version_compatible: whether later versions of TensorRT may run it too.
    workspace: most bytes of memory that a layer may take for itself; None for the library's own limit.
    timing_cache: file in which TensorRT keeps what it has timed; TensorRT-RTX times nothing.
    on_gpu: whether a GPU is here to look into the finished plan with.
    """

    gpus: Sequence[str] | None = None
    precision: str = "fp16"
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    workspace: int | None = None
    timing_cache: Path | None = None
    on_gpu: bool = False


@dataclass(frozen=True)
class BuiltPlan:
    """A plan that was built.

    data: bytes that the runtime opens.
    layers: how many layers give tensors of each type.
    products: of those that multiply, by type.
    seconds: that the build took.
    """

    data: bytes = field(repr=False)
    layers: Mapping[str, int]
    products: Mapping[str, int]
    seconds: float


def build_plan(
    model: ModelProto,
    flavour: Flavour,
    sizes: FrameSizes,
    options: PlanOptions,
    progress: Progress = no_progress,
) -> BuiltPlan:
    """Build a plan for frames one at a time.

    Args:
        model: typed as it is to be computed, from images to images (:func:`require_images`).
        sizes: of the frames; every usual size is one that the plan is optimised for.
        progress: told the builder's outermost phase. What it raises stops the build, as KeyboardInterrupt does.

    Raises:
        BackendUnavailable: the library is not installed.
        InputError: a GPU that it cannot build for.
        BuildError: the graph is refused (the message names the node), the build fails, or layers came out in another
            precision.
    """
    require_images(model)
    trt = flavour.bindings()
    started = time.monotonic()
    with errors(flavour) as heard:
        builder = trt.Builder(logger(flavour))
        network = builder.create_network(_strongly_typed(trt))
        parser = trt.OnnxParser(network, logger(flavour))
        fitted = _of_size(model, sizes)
        if not parser.parse(fitted.SerializeToString()):
            raise BuildError(f"{flavour.title} does not take the graph: {_parser_errors(parser, heard)}.")
        layers, products = typed(trt, network)
        _require_precision(flavour, products, options.precision)
        config = builder.create_builder_config()
        _configure(trt, flavour, config, options)
        if not sizes.fixed:
            for usual in sizes.usual:
                _add_profile(builder, config, FrameSizes(sizes.least, (usual,), sizes.most))
        if options.timing_cache is not None:
            _read_timing_cache(config, options.timing_cache)
        plan = _build(trt, builder, network, config, progress)
        if plan is None:
            raise BuildError(f"{flavour.title} could not build the engine: {_advice(reason(heard))}")
        if options.timing_cache is not None:
            with atomic_write(options.timing_cache) as temporary:
                temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
        data = bytes(plan)
        if options.on_gpu:
            layers, products = inspected(trt, flavour, data) or (layers, products)
            _require_precision(flavour, products, options.precision)
        return BuiltPlan(data, layers, products, time.monotonic() - started)


def require_images(model: ModelProto) -> None:
    """Refuse a graph that is not from one image to one image.

    Raises:
        BuildError: it is not from N x 3 x H x W float32 to the same: another number of inputs, another rank, or a
            rank that is not known.
    """
    graph = model.graph
    weights = {each.name for each in graph.initializer}
    inputs = [each for each in graph.input if each.name not in weights]
    for what, values in (("input", inputs), ("output", graph.output)):
        if len(values) != 1:
            names = ", ".join(each.name for each in values) or "none"
            raise BuildError(f"The graph has {len(values)} {what}s ({names}); an engine has one, the image.")
        kind = values[0].type.tensor_type
        if not kind.HasField("shape"):
            raise BuildError(
                f"The rank of the graph's {what} {values[0].name} is not fixed; it must be N x 3 x H x W."
            )
        dims = kind.shape.dim
        if len(dims) != 4 or dims[1].dim_value != 3 or kind.elem_type != TensorProto.FLOAT:
            shape = " x ".join(str(each.dim_value or each.dim_param or "?") for each in dims)
            raise BuildError(
                f"The graph's {what} {values[0].name} is {shape} {TensorProto.DataType.Name(kind.elem_type).lower()}; "
                "it must be N x 3 x H x W float."
            )
    names = inputs[0].name, graph.output[0].name
    if names != (INPUT, OUTPUTS[0]):
        raise BuildError(
            f"The graph leads from {names[0]} to {names[1]}; it must lead from {INPUT} to {OUTPUTS[0]}."
        )


def _strongly_typed(trt: Any) -> int:
    """Return the network's flag, which TensorRT 10 must be told; later ones know no other."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _of_size(model: ModelProto, sizes: FrameSizes) -> ModelProto:
    """Return the graph for one frame at a time, and for the only size where there is one."""
    fitted = ModelProto()
    fitted.CopyFrom(model)
    for value in (*fitted.graph.input, *fitted.graph.output):
        dims = value.type.tensor_type.shape.dim
        dims[0].dim_value = 1
        if sizes.fixed:
            dims[2].dim_value, dims[3].dim_value = sizes.largest
    return fitted


def _parser_errors(parser: Any, heard: list[str]) -> str:
    found = [parser.get_error(i) for i in range(parser.num_errors)]
    told = [f"{each.node_operator()} ({each.node_name()}): {each.desc().strip()}" for each in found]
    return "; ".join(told[:3]).rstrip(".") or reason(heard)


def _require_precision(flavour: Flavour, products: Mapping[str, int], precision: str) -> None:
    # Layers that were kept in fp32 are what the graph says; none in the wanted precision is not.
    if not products.get(precision):
        found = ", ".join(f"{count} in {kind}" for kind, count in products.items()) or "none"
        raise BuildError(
            f"{flavour.title} would compute in another precision than {precision}: of the layers that multiply there "
            f"are {found}."
        )


def _configure(trt: Any, flavour: Flavour, config: Any, options: PlanOptions) -> None:
    # Products of fp32 would be rounded to 10 bits otherwise.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatibility != "none":
        level = getattr(trt.HardwareCompatibilityLevel, options.hardware_compatibility.upper())
        config.hardware_compatibility_level = level
    if options.gpus is not None:
        unknown = [gpu for gpu in options.gpus if gpu not in flavour.gpus]
        if unknown or not options.gpus:
            known = (
                f"it knows {', '.join(flavour.gpus)}" if flavour.gpus else "it knows the GPU at hand alone"
            )
            raise InputError(f"{flavour.title} cannot build for {''.join(unknown[:1]) or 'no GPU'}; {known}.")
        config.num_compute_capabilities = len(options.gpus)
        for i, gpu in enumerate(options.gpus):
            config.set_compute_capability(getattr(trt.ComputeCapability, gpu.upper().replace("_", "")), i)
    elif flavour.gpus and options.on_gpu:
        # Told nothing it builds for some generations, which need not be that of the GPU at hand.
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)


def _add_profile(builder: Any, config: Any, sizes: FrameSizes) -> None:
    added = builder.create_optimization_profile()
    added.set_shape(INPUT, *((1, 3, *size) for size in (sizes.least, sizes.usual[0], sizes.largest)))
    if config.add_optimization_profile(added) < 0:
        raise BuildError(
            f"Frames from {words(sizes.least)} to {words(sizes.largest)} are not possible for this network."
        )


def _read_timing_cache(config: Any, path: Path) -> None:
    kept = path.read_bytes() if path.exists() else b""
    # One that does not fit this GPU or version is not taken; an empty one is.
    for data in (kept, b""):
        if config.set_timing_cache(config.create_timing_cache(data), ignore_mismatch=False):
            return


def _build(trt: Any, builder: Any, network: Any, config: Any, progress: Progress) -> Any:
    """Return the serialised plan; None where the library fails."""
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    # In another thread, since an exception, such as that of Ctrl-C, cannot pass through the library.
    with ThreadPoolExecutor(1, thread_name_prefix="derain-engine-build") as pool:
        done = pool.submit(builder.build_serialized_network, network, config)
        try:
            plan = done.result()
        except BaseException:
            monitor.stop.set()
            raise
    if monitor.failure is not None:
        raise monitor.failure
    if plan is not None:
        progress(_STAGE, 1.0)
    return plan


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):
        """Phases lie in each other. A user sees the way through all of them as one.

        stop: to be set by whoever wants the build to end.
        failure: what ``progress`` raised.
        """

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stop = threading.Event()
            self.failure: BaseException | None = None
            self.furthest = 0.0
            # Name -> [steps, steps done], from the outermost to the innermost.
            self.phases: dict[str, list[int]] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.phases[name] = [max(1, steps), 0]

        def step_complete(self, name: str, step: int) -> bool:
            if name in self.phases:
                self.phases[name][1] = step + 1
            return self.report()

        def phase_finish(self, name: str) -> None:
            self.phases.pop(name, None)

        def report(self) -> bool:
            try:
                # The library goes through some phases more than once.
                self.furthest = max(self.furthest, self.done())
                progress(_STAGE, self.furthest)
            except BaseException as error:
                self.failure = error
            return self.failure is None and not self.stop.is_set()

        def done(self) -> float:
            """Return the share of the build that is done: of each phase the steps, of the next step what lies in it."""
            done, share = 0.0, 1.0
            for steps, finished in self.phases.values():
                done += share * finished / steps
                share /= steps
            return min(done, 1.0)

    return Monitor()


def _advice(error: str) -> str:
    if "workspace limit" in error.lower():
        return f"{error}. Raise --workspace, or lower the largest frames (--max, --shape)."
    if any(word in error.lower() for word in ("memory", "alloc")):
        return (
            f"{error}. Lower the largest frames (--max, --shape) or --workspace, or free memory of the GPU."
        )
    return f"{error}."

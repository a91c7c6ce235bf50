"""A TensorRT plan on a GPU, between pictures and planes of its own."""

from __future__ import annotations

import contextlib
import importlib.resources
from pathlib import Path
from typing import Any

from ....base.errors import BackendUnavailable, DerainError, InputError
from ....base.files import atomic_write
from ....base.sizes import FrameSizes
from ....device.context import Context
from ....device.graph import Graph
from ....device.module import Arguments, Module, launch
from ....device.stream import Stream
from ....export.nvinfer import Flavour, diagnosis, errors, logger, reason
from ..gpu_session import GpuPicture
from ..graphs import GraphsBySize, SizedGraph

_IN, _OUT = "rainy", "clean"
_THREADS = 256
_ALIGNMENT = 256
_ARGUMENTS = ("*u8", "*u8", *["i32"] * 6)


class TensorRTNetwork:
    """A :class:`GpuNetwork`. Made and closed with the context current.

    plan: of the flavour's builder. built_by: the version of that. cache: file of what TensorRT-RTX compiled for this
    GPU, None for nowhere.

    Raises:
        BackendUnavailable: the plan was built for another GPU or another version.
    """

    def __init__(
        self,
        context: Context,
        flavour: Flavour,
        plan: bytes,
        stream: Stream,
        *,
        built_by: str,
        cache: Path | None = None,
    ) -> None:
        self._context, self._flavour, self._stream = context, flavour, stream
        self._trt = flavour.bindings()
        with errors(flavour) as heard:
            self._runtime = self._trt.Runtime(logger(flavour))
            # Plans that other versions may run carry code for that; files are opened where they are trusted.
            self._runtime.engine_host_code_allowed = True
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise BackendUnavailable(
                    f"{flavour.title} {flavour.version} does not open the engine, which {built_by} built, on this GPU "
                    f"({context.gpu.name}, {context.gpu.target}): "
                    f"{diagnosis(flavour, self._runtime, plan, heard)}. Build it again here."
                )
        self._profiles = _profiles(self._engine)
        self._compiled = _Compiled(self._trt, self._engine, cache)
        ptx = importlib.resources.files("derain_engine.kernels").joinpath("cuda/planar.ptx").read_bytes()
        self._module = Module(context, ptx, "the pixel kernels", ptx=True)
        self._in = self._module.function("derain_planar_in")
        self._out = self._module.function("derain_planar_out")
        self._graphs = GraphsBySize(context, stream)

    def clean(self, source: GpuPicture, target: GpuPicture, height: int, width: int) -> int:
        """Clean a picture, as :meth:`GpuNetwork.clean` says.

        Raises:
            InputError: the engine was not built for frames of that size.
            DerainError: TensorRT fails, or the GPU has not enough memory.
        """
        prepared = self._graphs.get(height, width, self._prepare)
        sizes = [height, width, source.height, source.width, int(source.planar), int(source.bytes_)]
        self._launch(self._in, [source.pointer, prepared.source, *sizes], height * width)
        prepared.graph.launch(self._stream)
        self._launch(self._out, [prepared.result, target.pointer, *sizes], source.height * source.width)
        return prepared.graph.kernels + 2

    def close(self) -> None:
        """Free everything, as :meth:`GpuNetwork.close` says."""
        self._graphs.close()
        self._module.close()
        # In this order: each works in what follows it.
        del self._compiled, self._engine, self._runtime

    def _prepare(self, height: int, width: int) -> SizedGraph:
        """Capture the graph of a size, which reads and leaves planes; the execution context that it was captured from
        must not change after that."""
        with errors(self._flavour) as heard:
            execution = self._compiled.execution()
            if execution is None or not self._fit(execution, height, width):
                raise DerainError(f"{self._flavour.title} does not take {width}x{height}: {reason(heard)}.")
            scratch = execution.update_device_memory_size_for_shapes()
            planes = -(-3 * height * width * 4 // _ALIGNMENT) * _ALIGNMENT
            rainy = self._graphs.room(2 * planes + scratch)
            execution.set_device_memory(rainy + 2 * planes, scratch)
            execution.set_tensor_address(_IN, rainy)
            execution.set_tensor_address(_OUT, rainy + planes)

            def enqueue() -> None:
                if not execution.execute_async_v3(self._stream.number):
                    raise DerainError(f"{self._flavour.title} failed: {reason(heard)}.")

            # Once outside of a capture: what is compiled at a size's first run cannot be captured.
            enqueue()
            self._stream.synchronise()
            graph = Graph(self._stream, enqueue)
        self._compiled.keep()
        return SizedGraph(graph, rainy, rainy + planes, execution)

    def _fit(self, execution: Any, height: int, width: int) -> bool:
        """Choose the profile whose usual size is nearest, of those that take the frame."""
        fitting = [
            (abs(each.usual[0][0] * each.usual[0][1] - height * width), i)
            for i, each in enumerate(self._profiles)
            if each.take(height, width)
        ]
        if not fitting:
            raise InputError(
                f"The engine was not built for frames of {height}x{width} (height x width, padded); build it with "
                "--min, --opt and --max around the sizes that it is to take."
            )
        _, chosen = min(fitting)
        if chosen != execution.active_optimization_profile:
            if not execution.set_optimization_profile_async(chosen, self._stream.number):
                return False
        return bool(execution.set_input_shape(_IN, (1, 3, height, width)))

    def _launch(self, function: Any, values: list[int], pixels: int) -> None:
        blocks = -(-pixels // _THREADS)
        launch(function, (blocks, 1, 1), _THREADS, Arguments(_ARGUMENTS, values), self._stream)


class _Compiled:
    """Execution contexts of an engine without memory of their own, and what TensorRT-RTX compiled for them."""

    def __init__(self, trt: Any, engine: Any, cache: Path | None) -> None:
        self._engine, self._path = engine, cache
        self._cache: Any = None
        self._kept = 0
        self._argument = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        config = engine.create_runtime_config() if hasattr(engine, "create_runtime_config") else None
        # TensorRT has such a configuration from 10.12 on, TensorRT-RTX alone compiles at run time.
        if config is None or not hasattr(config, "create_runtime_cache"):
            return
        config.set_execution_context_allocation_strategy(self._argument)
        # A graph holds the kernels of the moment when it was captured: the ones for the size, not what fills in.
        config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        self._cache = config.create_runtime_cache()
        if cache is not None and cache.exists():
            # One of another GPU or version is refused, and made anew.
            with contextlib.suppress(OSError):
                self._cache.deserialize(cache.read_bytes())
        config.set_runtime_cache(self._cache)
        self._argument = config

    def execution(self) -> Any:
        """Return a new execution context; None where the library fails."""
        return self._engine.create_execution_context(self._argument)

    def keep(self) -> None:
        """Write what was compiled since, so that the next start need not."""
        if self._cache is None or self._path is None:
            return
        data = bytes(self._cache.serialize())
        if len(data) != self._kept:
            # A cache only saves time.
            with contextlib.suppress(OSError, InputError), atomic_write(self._path) as temporary:
                temporary.write_bytes(data)
            self._kept = len(data)


def _profiles(engine: Any) -> list[FrameSizes]:
    """Return the frames that each of the engine's profiles takes."""
    _, _, height, width = engine.get_tensor_shape(_IN)
    if height > 0 and width > 0:
        return [FrameSizes.only((height, width))]
    found = []
    for i in range(engine.num_optimization_profiles):
        least, usual, most = ((shape[2], shape[3]) for shape in engine.get_tensor_profile_shape(_IN, i))
        found.append(FrameSizes(least, (usual,), most))
    return found

"""A TensorRT plan on a GPU, between pictures and planes of its own."""

from __future__ import annotations

import importlib.resources
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from ..device.context import Context
from ..device.graph import Graph
from ..device.memory import DeviceBuffer
from ..device.module import Arguments, Module, launch
from ..device.stream import Stream
from ..errors import BackendUnavailable, DerainError, InputError
from ..nvinfer import Flavour, errors, logger, reason
from .gpu_session import Picture

_IN, _OUT = "rainy", "clean"
_THREADS = 256
_SIZES = 8
_ARGUMENTS = ("*u8", "*u8", *["i32"] * 6)


@dataclass(frozen=True)
class _Prepared:
    graph: Graph
    rainy: DeviceBuffer
    clean: DeviceBuffer


class TensorRTNetwork:
    """A :class:`GpuNetwork`. Made and closed with the context current.

    plan: of the flavour's builder. cache: what the flavour compiled for this GPU before, for TensorRT-RTX.

    Raises:
        BackendUnavailable: the plan was built for another GPU or another version.
    """

    def __init__(
        self, context: Context, flavour: Flavour, plan: bytes, stream: Stream, cache: bytes = b""
    ) -> None:
        self._context, self._flavour, self._stream = context, flavour, stream
        trt = flavour.bindings()
        with errors(flavour) as heard:
            self._runtime = trt.Runtime(logger(flavour))
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise BackendUnavailable(
                    f"{flavour.title} {flavour.version} on this GPU ({context.gpu.name}, {context.gpu.target}) does "
                    f"not open the engine: {reason(heard)}. Build it again here."
                )
            self._execution = self._create_execution(cache)
            if self._execution is None:
                raise DerainError(f"{flavour.title} has no room to run the engine: {reason(heard)}.")
        ptx = importlib.resources.files("derain_engine.kernels").joinpath("cuda/planar.ptx").read_bytes()
        self._module = Module(context, ptx, "the pixel kernels", ptx=True)
        self._in = self._module.function("derain_planar_in")
        self._out = self._module.function("derain_planar_out")
        self._prepared: OrderedDict[tuple[int, int], _Prepared] = OrderedDict()

    def clean(self, source: Picture, target: Picture, height: int, width: int) -> int:
        """As :meth:`GpuNetwork.clean`."""
        prepared = self._prepare(height, width)
        sizes = height, width, source.height, source.width, int(source.planar), int(source.bytes_)
        self._launch(self._in, [source.pointer, prepared.rainy.pointer, *sizes], height * width)
        prepared.graph.launch(self._stream)
        self._launch(
            self._out, [prepared.clean.pointer, target.pointer, *sizes], source.height * source.width
        )
        return prepared.graph.kernels + 2

    def cache(self) -> bytes:
        """What TensorRT-RTX compiled for this GPU, to be given at the next start; empty for TensorRT."""
        if not hasattr(self._engine, "create_runtime_config"):
            return b""
        kept = self._execution.get_runtime_config().get_runtime_cache()
        return b"" if kept is None else bytes(kept.serialize())

    def close(self) -> None:
        """As :meth:`GpuNetwork.close`."""
        self._forget()
        self._module.close()
        # In this order: each holds on to the next without keeping it alive.
        del self._execution, self._engine, self._runtime

    def _create_execution(self, cache: bytes) -> Any:
        if not hasattr(self._engine, "create_runtime_config"):
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        kept = config.create_runtime_cache()
        if cache:
            # One of another GPU or version is refused, and made anew.
            kept.deserialize(cache)
        config.set_runtime_cache(kept)
        return self._engine.create_execution_context(config)

    def _forget(self) -> None:
        for prepared in self._prepared.values():
            for each in (prepared.graph, prepared.rainy, prepared.clean):
                each.close()
        self._prepared.clear()

    def _prepare(self, height: int, width: int) -> _Prepared:
        size = height, width
        if size in self._prepared:
            self._prepared.move_to_end(size)
            return self._prepared[size]
        if len(self._prepared) >= _SIZES:
            self._stream.synchronise()
            self._forget()
        self._choose_profile(height, width)
        planes = 3 * height * width * 4
        rainy, clean = DeviceBuffer(self._context, planes), DeviceBuffer(self._context, planes)
        self._execution.set_tensor_address(_IN, rainy.pointer)
        self._execution.set_tensor_address(_OUT, clean.pointer)
        # Once outside of a capture: what is compiled or allocated at a shape's first run cannot be captured.
        self._enqueue()
        self._stream.synchronise()
        self._prepared[size] = _Prepared(Graph(self._stream, self._enqueue), rainy, clean)
        return self._prepared[size]

    def _choose_profile(self, height: int, width: int) -> None:
        """The profile whose usual size is nearest, of those that take the size."""
        fitting = []
        for i in range(self._engine.num_optimization_profiles):
            least, usual, most = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(_IN, i))
            if least[2] <= height <= most[2] and least[3] <= width <= most[3]:
                fitting.append((abs(usual[2] * usual[3] - height * width), i))
        if not fitting:
            raise InputError(
                f"The engine was not built for frames of {width}x{height} (padded); build it with --min, --opt and "
                "--max around the sizes that it is to take."
            )
        with errors(self._flavour) as heard:
            chosen = min(fitting)[1]
            done = self._execution.active_optimization_profile == chosen
            done = done or self._execution.set_optimization_profile_async(chosen, self._stream.number)
            if not done or not self._execution.set_input_shape(_IN, (1, 3, height, width)):
                raise DerainError(f"{self._flavour.title} does not take {width}x{height}: {reason(heard)}.")

    def _enqueue(self) -> None:
        with errors(self._flavour) as heard:
            if not self._execution.execute_async_v3(self._stream.number):
                raise DerainError(f"{self._flavour.title} failed: {reason(heard)}.")

    def _launch(self, function: Any, values: list[int], pixels: int) -> None:
        blocks = -(-pixels // _THREADS)
        launch(function, (blocks, 1, 1), _THREADS, Arguments(_ARGUMENTS, values), self._stream)

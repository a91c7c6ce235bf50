"""A stand-in for TensorRT's Python module, and for TensorRT-RTX's: it takes the same calls, keeps the same rules, and
computes with ONNX Runtime in the memory of the stand-in driver. A plan is the graph with what it was built for."""

from __future__ import annotations

import ctypes
import enum
import json
import struct
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from derain_engine.engine.frames import pad_to, quantise, to_float
from derain_engine.export import nvinfer
from derain_engine.export.emulation import CpuGraph, fp32_emulation
from derain_engine.export.nvinfer import Flavour

from ...device.conftest import StandIn

VERSION = "12.3.4"
#: Bytes of scratch memory that a pixel takes.
SCRATCH = 8
_NAMES: dict[int, str] = {TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.INT64: "INT64"}


class _Base:
    def __init__(self) -> None:
        self.made = True


def flags(name: str, members: str) -> Any:
    return enum.IntEnum(name, members.split(), start=0)


class StandInTensorRT(ModuleType):
    """A module in the place of ``tensorrt`` or ``tensorrt_rtx``.

    said: what the next thing that fails logs. broken: names of what fails. capability: of the GPU that plans must be
    for. log: of what was done, in words.
    """

    def __init__(self, name: str, cuda: StandIn) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.__version__ = VERSION
        self.cuda, self.rtx = cuda, name == "tensorrt_rtx"
        self.capability = "sm_90"
        self.broken: set[str] = set()
        self.said = "Error Code 2: Internal Error (as the test wants it. In f at /src/a.cpp:1)"
        self.log: list[str] = []
        self.sessions: dict[bytes, CpuGraph] = {}
        self.ILogger: Any = type(
            "ILogger", (_Base,), {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3}
        )
        self.IProgressMonitor = type("IProgressMonitor", (_Base,), {})
        self.ExecutionContextAllocationStrategy = flags("S", "STATIC ON_PROFILE_CHANGE USER_MANAGED")
        self.DynamicShapesKernelSpecializationStrategy = flags("K", "LAZY EAGER NONE")
        self.HardwareCompatibilityLevel = flags("H", "NONE AMPERE_PLUS SAME_COMPUTE_CAPABILITY")
        self.NetworkDefinitionCreationFlag = flags("N", "EXPLICIT_BATCH STRONGLY_TYPED")
        self.BuilderFlag = flags("B", "TF32 VERSION_COMPATIBLE")
        self.ProfilingVerbosity = flags("P", "LAYER_NAMES_ONLY DETAILED")
        self.MemoryPoolType = flags("M", "WORKSPACE")
        self.LayerType = flags("L", "CONVOLUTION DECONVOLUTION MATRIX_MULTIPLY OTHER")
        self.LayerInformationFormat = flags("F", "ONELINE JSON")
        self.ComputeCapability = flags("C", "CURRENT SM75 SM80 SM86 SM89 SM120")
        self.Builder = lambda logger: Builder(self, logger)
        self.OnnxParser = lambda network, logger: Parser(self, network)
        self.Runtime = lambda logger: Runtime(self, logger)

    def fails(self, what: str, logger: Any) -> bool:
        if what in self.broken:
            logger.log(self.ILogger.ERROR, self.said)
        return what in self.broken


class Builder:
    def __init__(self, trt: StandInTensorRT, logger: Any) -> None:
        self.trt, self.logger = trt, logger

    def create_network(self, flags: int) -> SimpleNamespace:
        assert flags == 1 << self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return SimpleNamespace(graph=None)

    def create_builder_config(self) -> Config:
        return Config(self.trt)

    def create_optimization_profile(self) -> SimpleNamespace:
        profile = SimpleNamespace(shapes=None)
        profile.set_shape = lambda name, *shapes: setattr(profile, "shapes", shapes)
        return profile

    def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, 2)
        for step in range(2):
            if not monitor.step_complete("Building", step) or self.trt.fails("build", self.logger):
                return None
        monitor.phase_finish("Building")
        head = {
            "version": VERSION,
            "profiles": [profile.shapes for profile in config.profiles],
            "facts": config.facts,
            "gpus": config.gpus or [self.trt.capability],
        }
        text = json.dumps(head).encode()
        return struct.pack("<I", len(text)) + text + network.graph.SerializeToString(deterministic=True)


class Config:
    def __init__(self, trt: StandInTensorRT) -> None:
        self.trt = trt
        self.profiles: list[Any] = []
        self.facts: dict[str, Any] = {}
        self.gpus: list[str] = []
        self.progress_monitor: Any = None
        self.num_compute_capabilities = 0
        if trt.rtx:
            self.set_compute_capability = lambda gpu, i: self.gpus.append(
                str(trt.capability) if gpu.name == "CURRENT" else gpu.name.replace("SM", "sm_")
            )

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("hardware_compatibility_level", "profiling_verbosity"):
            self.facts[name] = value.name

    def clear_flag(self, flag: Any) -> None:
        self.facts[flag.name] = False

    def set_flag(self, flag: Any) -> None:
        self.facts[flag.name] = True

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.facts[pool.name] = size

    def add_optimization_profile(self, profile: Any) -> int:
        if "profile" in self.trt.broken:
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, data: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch and not self.trt.rtx
        if data not in (b"", b"timed"):
            return False
        self.trt.log.append("timing cache" if data else "no timing cache")
        return True

    def get_timing_cache(self) -> SimpleNamespace:
        return SimpleNamespace(serialize=lambda: b"timed")


class Parser:
    def __init__(self, trt: StandInTensorRT, network: Any) -> None:
        self.trt, self.network = trt, network
        self.num_errors = 0

    def parse(self, data: bytes) -> bool:
        graph = self.network.graph = onnx.load_model_from_string(data)
        known = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
        kinds = {each.name: each.type.tensor_type.elem_type for each in (*known.value_info, *known.output)}
        self.layers = [self.layer(node, kinds[node.output[0]]) for node in graph.graph.node]
        self.network.num_layers = len(self.layers)
        self.network.get_layer = lambda i: self.layers[i]
        return True

    def layer(self, node: Any, kind: int) -> SimpleNamespace:
        types = self.trt.LayerType
        output = SimpleNamespace(dtype=SimpleNamespace(name=_NAMES[kind]))
        return SimpleNamespace(
            type=types.CONVOLUTION if node.op_type == "Conv" else types.OTHER, get_output=lambda i: output
        )


class Runtime:
    def __init__(self, trt: StandInTensorRT, logger: Any) -> None:
        self.trt, self.logger = trt, logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        assert self.engine_host_code_allowed and isinstance(plan, bytes)
        if self.trt.fails("deserialize", self.logger):
            return None
        length = struct.unpack_from("<I", plan)[0]
        head = json.loads(plan[4 : 4 + length])
        if self.trt.capability not in head["gpus"]:
            self.logger.log(self.trt.ILogger.ERROR, f"Error Code 6: not built for {self.trt.capability}")
            return None
        return Engine(self.trt, self.logger, head, plan[4 + length :])


class Engine:
    def __init__(self, trt: StandInTensorRT, logger: Any, head: dict[str, Any], graph: bytes) -> None:
        self.trt, self.logger, self.head, self.graph = trt, logger, head, graph
        self.num_optimization_profiles = max(1, len(head["profiles"]))
        model = onnx.load_model_from_string(graph)
        dims = model.graph.input[0].type.tensor_type.shape.dim
        self.shape = tuple(dim.dim_value or -1 for dim in dims)
        if graph not in trt.sessions:
            trt.sessions[graph] = CpuGraph(fp32_emulation(model))
        self.session = trt.sessions[graph]
        if trt.rtx:
            self.create_runtime_config = lambda: RuntimeConfig(trt)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == "rainy"
        return self.shape

    def get_tensor_profile_shape(self, name: str, i: int) -> list[list[int]]:
        return self.head["profiles"][i]

    def create_execution_context(self, how: Any) -> Execution | None:
        if self.trt.rtx:
            assert how.specialisation == self.trt.DynamicShapesKernelSpecializationStrategy.EAGER
            assert how.cache is not None
        strategy = how.strategy if self.trt.rtx else how
        assert strategy == self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return None if self.trt.fails("context", self.logger) else Execution(self, how)

    def create_engine_inspector(self) -> SimpleNamespace:
        half = any(each.elem_type == TensorProto.FLOAT16 for each in _tensors(self.graph))
        formats = "Row major linear FP16 format" if half else "Float"
        layer = {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": formats}]}
        text = json.dumps({"Layers": [layer, "a layer by name alone"]})
        return SimpleNamespace(get_engine_information=lambda kind: text)


def _tensors(graph: bytes) -> Iterator[Any]:
    inferred = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(graph))
    return (each.type.tensor_type for each in inferred.graph.value_info)


class RuntimeConfig:
    strategy: Any = None
    specialisation: Any = None
    cache: Any = None

    def __init__(self, trt: StandInTensorRT) -> None:
        self.trt = trt

    def __setattr__(self, name: str, value: Any) -> None:
        names = {"dynamic_shapes_kernel_specialization_strategy": "specialisation"}
        super().__setattr__(names.get(name, name), value)

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache(self.trt)

    def set_runtime_cache(self, cache: RuntimeCache) -> None:
        self.cache = cache


class RuntimeCache:
    def __init__(self, trt: StandInTensorRT) -> None:
        self.trt = trt
        self.kernels: set[str] = set()

    def deserialize(self, data: bytes) -> bool:
        if not data.startswith(b"kernels:"):
            return False
        self.kernels = set(filter(None, data[8:].decode().split(",")))
        return True

    def serialize(self) -> bytes:
        return b"kernels:" + ",".join(sorted(self.kernels)).encode()


class Execution:
    """It may not be changed once a graph was captured from it, as of NVIDIA's word on CUDA graphs."""

    def __init__(self, engine: Engine, config: Any) -> None:
        self.engine, self.config, self.trt = engine, config, engine.trt
        self.active_optimization_profile = 0
        self.size: tuple[int, int] | None = None
        self.addresses: dict[str, int] = {}
        self.scratch = 0, 0
        self.runs = 0
        self.captured = False

    def set_optimization_profile_async(self, i: int, stream: int) -> bool:
        assert not self.captured
        self.active_optimization_profile = i
        self.trt.log.append(f"profile {i}")
        return not self.trt.fails("switch", self.engine.logger)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self.captured and shape[:2] == (1, 3)
        if self.engine.shape[2] > 0:
            assert shape == self.engine.shape
        else:
            least, _, most = self.engine.head["profiles"][self.active_optimization_profile]
            assert all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True))
        self.size = shape[2:]  # type: ignore[assignment]
        return not self.trt.fails("shape", self.engine.logger)

    def update_device_memory_size_for_shapes(self) -> int:
        assert self.size is not None
        return SCRATCH * self.size[0] * self.size[1]

    def set_device_memory(self, pointer: int, nbytes: int) -> None:
        assert not self.captured and pointer % 16 == 0
        self.scratch = pointer, nbytes

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        assert not self.captured
        self.addresses[name] = pointer
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self.trt.fails("execute", self.engine.logger):
            return False
        cuda = self.trt.cuda
        self.captured = bool(cuda.captures)
        if self.captured:
            # What TensorRT-RTX compiles for a size, and TensorRT works out for it, cannot be captured.
            assert self.runs
        elif self.trt.rtx:
            self.config.cache.kernels.add("{}x{}".format(*self.size or ()))
        self.runs += 1
        cuda._enqueue(stream, "KERNEL", self.compute)
        return True

    def compute(self) -> None:
        assert self.size is not None
        height, width = self.size
        cuda, count = self.trt.cuda, 3 * height * width
        cuda.holder(self.scratch[0], SCRATCH * height * width)
        planes = {}
        for name, pointer in self.addresses.items():
            cuda.holder(pointer, 4 * count)
            planes[name] = _array(pointer, np.float32, (1, 3, height, width))
        # Whoever else uses the scratch memory at the same time is found out.
        ctypes.memset(self.scratch[0], 0xA5, SCRATCH * height * width)
        planes["clean"][...] = self.engine.session.run(planes["rainy"].copy())[0]


def _array(pointer: int, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(memoryview((ctypes.c_char * count).from_address(pointer)), dtype).reshape(shape)


def add_pixel_kernels(cuda: StandIn) -> None:
    """Add what planar.ptx has, by way of frames."""
    sizes = (8, 8, *[4] * 6)

    def unpack(values: tuple[bytes, ...]) -> list[int]:
        return [struct.unpack("<Q" if len(each) == 8 else "<i", each)[0] for each in values]

    def picture_at(pointer: int, height: int, width: int, planar: int, bytes_: int) -> np.ndarray:
        shape = (3, height, width) if planar else (height, width, 3)
        dtype = np.uint8 if bytes_ else np.float32
        cuda.holder(pointer, 3 * height * width * np.dtype(dtype).itemsize)
        return _array(pointer, dtype, shape)

    def read(grid: tuple[int, int, int], *values: bytes) -> None:
        source, planes, height, width, *kind = unpack(values)
        assert grid == (-(-height * width // 256), 1, 1)
        picture = picture_at(source, *kind)
        batch = to_float(picture.transpose(1, 2, 0) if kind[2] else picture)[None]
        padded = pad_to(batch, (height, width))
        cuda.holder(planes, 4 * padded.size)
        _array(planes, np.float32, (3, height, width))[...] = padded[0].transpose(2, 0, 1)

    def write(grid: tuple[int, int, int], *values: bytes) -> None:
        planes, target, height, width, *kind = unpack(values)
        assert grid == (-(-kind[0] * kind[1] // 256), 1, 1)
        clean = _array(planes, np.float32, (3, height, width))[:, : kind[0], : kind[1]]
        picture = picture_at(target, *kind)
        layout = clean if kind[2] else clean.transpose(1, 2, 0)
        picture[...] = quantise(np.nan_to_num(layout), np.uint8) if kind[3] else layout

    cuda.kernels["derain_planar_in"] = sizes, read
    cuda.kernels["derain_planar_out"] = sizes, write


def install(patch: pytest.MonkeyPatch, cuda: StandIn, flavour: Flavour) -> StandInTensorRT:
    """Install the stand-in as the module that a flavour imports, with pixel kernels on the stand-in driver."""
    trt = StandInTensorRT(flavour.module, cuda)
    patch.setitem(sys.modules, flavour.module, trt)
    patch.setattr(Flavour, "installed", lambda self: VERSION)
    nvinfer.logger.cache_clear()
    add_pixel_kernels(cuda)
    return trt

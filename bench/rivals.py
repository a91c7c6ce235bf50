"""Other ways of running a network, behind the engine's own front, so that all are timed doing the same work."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..base.errors import BackendUnavailable, InputError
from ..engine.frames import quantise, to_float
from ..engine.manifest import Manifest
from ..engine.runtime import Engine
from ..models.checkpoint import Checkpoint
from ..models.spec import ModelSpec, clean_image
from .contestants import Contestant, Mode, Opener, manifest_of

if TYPE_CHECKING:
    from torch import nn

TorchPrecision = Literal["fp32", "bf16", "fp16"]
#: Times that torch.compile may compile one network, for sizes and precisions; its own limit is 8.
_MOST_COMPILED = 64


def given(result: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """Return ``out`` with the result in it; the result itself where there is none."""
    if out is None:
        return result
    np.copyto(out, result)
    return out


class FloatSession:
    """A session (``engine.backends.base.Session``) that takes and gives N x 3 x H x W floats; NumPy converts frames."""

    parallelism = 1
    precision = "fp32"
    available_memory = None

    def infer(self, image: np.ndarray) -> np.ndarray:
        """Clean N x 3 x H x W RGB, float32 in [0, 1]."""
        raise NotImplementedError

    def run(self, batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        image = np.ascontiguousarray(to_float(batch).transpose(0, 3, 1, 2))
        clean = np.ascontiguousarray(self.infer(image).transpose(0, 2, 3, 1))
        return given(quantise(clean, np.uint8) if batch.dtype == np.uint8 else clean, out)


class OnnxRuntimeSession(FloatSession):
    """A session of ONNX Runtime on the CPU, in what the file computes in: one input N x 3 x H x W, RGB in [0, 1], the
    first output of the same shape."""

    def __init__(self, model: bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        # Idle threads that spin would be paid for by whatever is timed next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def infer(self, image: np.ndarray) -> np.ndarray:
        clean = self._session.run([self._output], {self._input: image})[0]
        if clean.shape != image.shape:
            raise InputError(
                f"An ONNX file made {'x'.join(map(str, clean.shape))} of a frame of "
                f"{'x'.join(map(str, image.shape))}; its first output has to be a picture of the same size."
            )
        return clean

    def close(self) -> None:
        self._session = None


class TorchSession:
    """A session of PyTorch: the network in one precision, on the CPU, or with channels last on the first GPU."""

    parallelism = 1
    available_memory = None

    def __init__(
        self, network: nn.Module, precision: TorchPrecision, device: str, *, compiled: bool, cache: bool
    ) -> None:
        import torch

        self.precision = precision
        self._device = device
        self._kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self._cache = cache
        network = network.to(device=device, dtype=self._kind)
        if device == "cuda":
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        mode = "max-autotune" if device == "cuda" else None
        if compiled and not cache:
            warnings.filterwarnings("ignore", "dynamo_pgo force disabled")  # as is asked for below
        # For each size anew: code for any size is slower.
        self._run: Any = torch.compile(network, mode=mode, dynamic=False) if compiled else network

    def run(self, batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        import torch
        from torch._dynamo import config as dynamo
        from torch._inductor import config as inductor

        with (
            torch.inference_mode(),
            dynamo.patch(recompile_limit=_MOST_COMPILED),
            inductor.patch(force_disable_caches=not self._cache),
            # What is called fp32 is computed in it: cuDNN would take TF32.
            torch.backends.cudnn.flags(enabled=True, allow_tf32=self.precision != "fp32"),
        ):
            image = torch.tensor(batch).to(self._device).permute(0, 3, 1, 2)
            if batch.dtype == np.uint8:
                image = image.float() / 255
            # Reading the result waits for the GPU.
            clean = clean_image(self._run(image.to(self._kind))).permute(0, 2, 3, 1).float()
            if batch.dtype == np.uint8:
                clean = clean.clamp(0, 1).mul(255).add(0.5).floor().byte()
            return given(clean.cpu().contiguous().numpy(), out)

    def close(self) -> None:
        self._run = None


@dataclass(frozen=True)
class FromOnnx:
    """Opens ONNX Runtime. model: a whole ONNX file."""

    model: bytes = field(repr=False)
    manifest: Manifest
    threads: int
    on_gpu: bool = False

    def __call__(self, mode: Mode, *, cache: bool = False) -> Engine:
        return Engine(OnnxRuntimeSession(self.model, self.threads), self.manifest, tile=0)


@dataclass(frozen=True)
class FromTorch:
    """Opens PyTorch. network: fp32, on the CPU; it is copied."""

    network: nn.Module = field(repr=False)
    manifest: Manifest
    precision: TorchPrecision
    device: Literal["cpu", "cuda"]
    compiled: bool
    threads: int

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def __call__(self, mode: Mode, *, cache: bool = False) -> Engine:
        import copy

        import torch

        torch.set_num_threads(self.threads)
        session = TorchSession(
            copy.deepcopy(self.network), self.precision, self.device, compiled=self.compiled, cache=cache
        )
        return Engine(session, self.manifest, tile=0)


def pytorch(
    checkpoint: Checkpoint,
    manifest: Manifest,
    threads: int,
    *,
    precision: TorchPrecision = "fp32",
    device: Literal["cpu", "cuda"] = "cpu",
    compiled: bool = False,
) -> tuple[Manifest, Opener]:
    """Make the reference network in PyTorch, eager or through ``torch.compile``, a contestant.

    ``torch.compile`` is tried on one small layer: without a compiler it raises errors of its own.

    Args:
        manifest: of an engine that was built from ``checkpoint``.

    Raises:
        BackendUnavailable: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable(
            "Comparing with PyTorch needs torch; install it with: pip install 'derain-engine[build]'"
        ) from error
    if compiled:
        torch.compile(torch.nn.Conv2d(3, 3, 1).to(device), dynamic=False)(
            torch.rand(1, 3, 4, 4, device=device)
        )
    backend = "torch.compile" if compiled else "pytorch"
    manifest = replace(manifest, backend=backend, backend_version=torch.__version__, precision=precision)
    return manifest, FromTorch(checkpoint.network, manifest, precision, device, compiled, threads)


def onnx_runtime(checkpoint: Checkpoint, manifest: Manifest, threads: int) -> tuple[Manifest, Opener]:
    """Make the network, exported, in ONNX Runtime, fp32, a contestant.

    Args:
        manifest: as for :func:`pytorch`.

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
    return manifest, FromOnnx(model, manifest, threads)


def onnx_file(name: str, file: Path, threads: int) -> Contestant:
    """Make somebody's network in ONNX Runtime a contestant: one input N x 3 x H x W, RGB in [0, 1], the first output of
    the same shape. Frames are given as they are, unpadded.

    Raises:
        BackendUnavailable: ONNX Runtime is not installed.
        InputError: no such file, or not such a network.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(
            "Timing ONNX files needs onnxruntime; install it with: pip install 'derain-engine[bench]'"
        ) from error
    try:
        model = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from error
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common type
        raise InputError(
            f"{file} is no ONNX file that ONNX Runtime runs: {str(error).splitlines()[0]}"
        ) from error
    inputs = session.get_inputs()
    if (
        len(inputs) != 1
        or len(inputs[0].shape) != 4
        or inputs[0].shape[1] != 3
        or inputs[0].type != "tensor(float)"
    ):
        raise InputError(
            f"{file} takes {', '.join(f'{each.name} {each.shape} {each.type}' for each in inputs)}; what can be timed "
            "takes one float input N x 3 x H x W."
        )
    manifest = manifest_of(
        ModelSpec("onnx"),
        hashlib.sha256(model).hexdigest(),
        source=name,
        backend="onnxruntime",
        version=onnxruntime.__version__,
    )
    return Contestant(name, manifest, None, FromOnnx(model, manifest, threads))

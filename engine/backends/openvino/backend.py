"""OpenVINO on x86-64 and ARM CPUs: the default where there is no GPU.

The payload is OpenVINO's own format (IR) in fp32 for any size, in int8 with the ranges of what is quantised. A session
folds layout, range and dtype conversion into the graph and compiles it for each frame size it meets: graphs of open
size run 20 % slower.
"""

from __future__ import annotations

import contextlib
import queue
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....base.errors import BackendUnavailable, BuildError, BundleError, DerainError, InputError
from ....base.limits import usable_threads
from ....base.progress import Progress, no_progress
from ....models.spec import ModelSpec
from ..base import Artefact, CompileOptions, RunOptions, build_extra, require_precision
from ..batches import output_for
from . import int8
from .rewrites import split_concatenations

if TYPE_CHECKING:
    import openvino
    from torch import nn

_XML, _BIN = "openvino.xml", "openvino.bin"
_DEVICE = "CPU"
#: Our names of precisions to OpenVINO's.
_HINTS = {"bf16": "bf16", "fp32": "f32"}
_INT8 = "int8"
#: Compiled sizes that one session keeps. Each holds packed weights and the activations of a frame.
_KEPT_SIZES = 4
#: Threads that one frame gets in throughput mode. More frames at once cost memory (2 KB a pixel each), and
#: these networks are large enough to keep a few cores busy.
_THREADS_PER_STREAM = 2


class OpenVINOSession:
    """An open IR.

    parallelism: 1 for latency; one for each two threads for throughput.
    precision: what the CPU computes in: the artefact's, or fp32 where the CPU has no instructions for it. rest: of
    what is not quantised in an int8 engine.
    """

    def __init__(
        self, core: openvino.Core, model: openvino.Model, precision: str, rest: str, options: RunOptions
    ) -> None:
        self.precision = precision
        self.parallelism = 1
        self.available_memory = None
        self._config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[rest],
            "PERFORMANCE_HINT": "LATENCY" if options.mode == "latency" else "THROUGHPUT",
        }
        if options.threads is not None:
            self._config["INFERENCE_NUM_THREADS"] = options.threads
        if options.mode == "throughput":
            # Said outright: OpenVINO's own number depends on the network and is known only after compiling.
            threads = options.threads or usable_threads()
            self.parallelism = options.streams or max(1, threads // _THREADS_PER_STREAM)
            self._config["NUM_STREAMS"] = self.parallelism
        if options.cache_dir is not None:
            options.cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._config["CACHE_DIR"] = str(options.cache_dir)
        self._core = core
        self._model: openvino.Model | None = model
        self._compiled: OrderedDict[tuple[np.dtype, tuple[int, ...]], queue.SimpleQueue] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Run a batch, as :meth:`Session.run` says. The first frame of a size compiles the network for it."""
        import openvino

        out = output_for(batch, out)
        with self._request(batch.dtype, batch.shape) as request:
            try:
                request.set_input_tensor(openvino.Tensor(batch, shared_memory=batch.flags.writeable))
                request.set_output_tensor(openvino.Tensor(out, shared_memory=True))
                request.infer()
            except RuntimeError as error:
                raise DerainError(f"OpenVINO failed on {_size(batch.shape)}: {_reason(error)}") from error
        return out

    def close(self) -> None:
        with self._lock:
            self._model = None
            self._compiled.clear()

    @contextlib.contextmanager
    def _request(self, dtype: np.dtype, shape: tuple[int, ...]) -> Iterator[Any]:
        """Yield an idle infer request for batches of this dtype and shape; waits while all are busy."""
        # Compiling under the lock: frames of other sizes wait, and none is compiled twice.
        with self._lock:
            if self._model is None:
                raise InputError("This session is closed; open the engine again.")
            idle = self._compiled.pop((dtype, shape), None)
            if idle is None:
                compiled = self._compile(self._model, dtype, shape)
                idle = queue.SimpleQueue()
                for _ in range(self.parallelism):
                    idle.put(compiled.create_infer_request())
                while len(self._compiled) >= _KEPT_SIZES:
                    self._compiled.popitem(last=False)
            self._compiled[dtype, shape] = idle
        request = idle.get()
        try:
            yield request
        finally:
            idle.put(request)

    def _compile(
        self, model: openvino.Model, dtype: np.dtype, shape: tuple[int, ...]
    ) -> openvino.CompiledModel:
        from openvino import PartialShape

        count, height, width, channels = shape
        wanted = PartialShape([count, channels, height, width])
        built_for = model.inputs[0].get_partial_shape()
        fixed = model.clone()
        try:
            # Checked, since reshape would also free a network that was built for one size.
            if not built_for.compatible(wanted):
                raise RuntimeError(f"it was built for {built_for} (N, C, H, W).")
            fixed.reshape(wanted)
        except RuntimeError as error:
            raise InputError(f"This engine cannot run on {_size(shape)}: {_reason(error)}") from error
        try:
            return self._core.compile_model(_with_pixels(fixed, dtype), _DEVICE, self._config)
        except RuntimeError as error:
            raise DerainError(
                f"OpenVINO could not compile the engine for {_size(shape)}: {_reason(error)}"
            ) from error


class OpenVINOBackend:
    """OpenVINO's CPU plugin. bf16 where the CPU has instructions for it, else fp32; int8 where it is asked for."""

    name = "openvino"
    precisions = (*_HINTS, _INT8)
    on_gpu = False
    takes: frozenset[str] = frozenset()

    def unavailable(self, artefact: Artefact | None = None) -> str | None:
        try:
            import openvino
        except ImportError:
            return "The openvino backend needs OpenVINO; install it with: pip install openvino"
        if _DEVICE not in openvino.Core().available_devices:
            return "OpenVINO has no plugin for this CPU; use another backend."
        return None

    def compile(
        self, network: nn.Module, spec: ModelSpec, options: CompileOptions, progress: Progress = no_progress
    ) -> Artefact:
        """Compile a network, as :meth:`Backend.compile` says. The payloads hold fp32 weights whatever the precision.

        Raises:
            InputError: a precision that this backend does not know, or int8 without anything to calibrate it on.
            BackendUnavailable: also for a precision that this CPU has no instructions for.
        """
        core = self._core()
        import openvino

        require_precision(self.name, self.precisions, options.precision)
        precision = _choose_precision(core, options.precision)
        if precision == _INT8:
            if options.calibration is None:
                raise InputError("int8 needs pictures to calibrate on.")
            int8.require_nncf()
        with build_extra():
            from ....export.onnx import export_onnx
        exported = export_onnx(network, spec, progress=lambda stage, done: progress(stage, 0.9 * done))
        progress("converting to OpenVINO", 0.9)
        try:
            model = core.read_model(exported.SerializeToString())
            split_concatenations(model)
            notes: dict[str, Any] = {}
            if precision == _INT8 and options.calibration is not None:
                quantised = int8.quantise(
                    model,
                    options.calibration,
                    exact=lambda network, batch: _run_once(core, network, batch, "fp32"),
                    low=lambda network, batch: _run_once(core, network, batch, _rest(core)),
                    progress=progress,
                )
                model, notes = quantised.network, {"kept_in_16_bits": list(quantised.kept)}
            if options.sizes.fixed:
                model.reshape([-1, 3, *options.sizes.least])
            payloads = serialise(model)
        except RuntimeError as error:
            raise BuildError(
                f"OpenVINO cannot convert the {spec.architecture} network: {_reason(error)}"
            ) from error
        progress("converted to OpenVINO", 1.0)
        sizes = options.sizes if options.sizes.fixed else spec.sizes.favouring(options.sizes.usual)
        return Artefact(self.name, openvino.__version__, precision, payloads, sizes=sizes, notes=notes)

    def open(self, artefact: Artefact, options: RunOptions) -> OpenVINOSession:
        """Open a session, as :meth:`Backend.open` says. A bf16 engine on a CPU without bf16 runs in fp32, which is
        more exact."""
        core = self._core()
        import openvino

        missing = [name for name in (_XML, _BIN) if name not in artefact.payloads]
        if missing:
            raise BundleError(
                f"The engine has no {' and no '.join(missing)}; it is not a whole OpenVINO engine."
            )
        if artefact.precision not in self.precisions:
            raise BundleError(f"The engine's precision {artefact.precision!r} is not one of OpenVINO's.")
        try:
            # Copied: the file that the payload is mapped from may be closed before the session is.
            weights = openvino.Tensor(np.frombuffer(artefact.payloads[_BIN], np.uint8), shared_memory=False)
            model = core.read_model(bytes(artefact.payloads[_XML]), weights)
        except (RuntimeError, ValueError) as error:
            raise BundleError(
                f"The engine's {_XML} cannot be read: {_reason(error)}. Build it again."
            ) from error
        if not _takes_images(model):
            raise BundleError(f"The engine's {_XML} is not a network from images to images.")
        rest = _rest(core) if artefact.precision != "fp32" else "fp32"
        precision = _INT8 if artefact.precision == _INT8 else rest
        return OpenVINOSession(core, model, precision, rest, options)

    def emulate(self, artefact: Artefact) -> None:
        """Return None: every machine has a CPU to open it on."""

    def _core(self) -> openvino.Core:
        if (reason := self.unavailable()) is not None:
            raise BackendUnavailable(reason)
        import openvino

        return openvino.Core()


def _rest(core: openvino.Core) -> str:
    """Return the fastest precision in floating point that the CPU has instructions for."""
    return "bf16" if "BF16" in core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES") else "fp32"


def _choose_precision(core: openvino.Core, wanted: str | None) -> str:
    """Return ``wanted``, or without a wish the fastest that needs no calibration."""
    if wanted is None:
        return _rest(core)
    if wanted == "bf16" and _rest(core) != "bf16":
        raise BackendUnavailable(
            "This CPU has no bf16 instructions (AVX-512 BF16 or AMX); "
            "build with fp32, or on a machine that has them."
        )
    return wanted


def _run_once(core: openvino.Core, model: openvino.Model, batch: np.ndarray, precision: str) -> np.ndarray:
    """Return the output for N x 3 x H x W float32."""
    fixed = model.clone()
    fixed.reshape(list(batch.shape))
    compiled = core.compile_model(fixed, _DEVICE, {"INFERENCE_PRECISION_HINT": _HINTS[precision]})
    return np.array(compiled(batch)[0])


def serialise(model: openvino.Model) -> dict[str, bytes]:
    """Return the IR's two files, the payloads of an engine; the same for the same model."""
    import openvino
    from openvino.passes import ConstantFolding, Manager

    # Computed here rather than at every opening: four of five layers only shape biases.
    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)
    # OpenVINO counts the layers that it makes itself over the life of the process: number them by place.
    for number, layer in enumerate(model.get_ordered_ops()):
        if re.fullmatch(r"[A-Z][A-Za-z]*_\d+", layer.get_friendly_name()):
            layer.set_friendly_name(f"{layer.get_type_name()}_{number}")
    with tempfile.TemporaryDirectory(prefix="derain-engine-") as folder:
        path = Path(folder, _XML)
        openvino.save_model(model, path, compress_to_fp16=False)
        return {name: Path(folder, name).read_bytes() for name in (_XML, _BIN)}


def _takes_images(model: openvino.Model) -> bool:
    import openvino

    images = openvino.PartialShape([-1, 3, -1, -1])
    ports = (*model.inputs, *model.outputs)
    return len(model.inputs) == len(model.outputs) == 1 and all(
        port.get_partial_shape().rank.is_static
        and images.compatible(port.get_partial_shape())
        and port.get_element_type() == openvino.Type.f32
        for port in ports
    )


def _with_pixels(model: openvino.Model, dtype: np.dtype) -> openvino.Model:
    """Put the model between N x H x W x 3 arrays: float32 as it is, uint8 divided by 255 before it and
    ``floor(255 * clamp(y, 0, 1) + 0.5)`` after it."""
    from openvino import Layout, Type, opset8
    from openvino.preprocess import PrePostProcessor

    pixels = dtype == np.uint8
    steps = PrePostProcessor(model)
    steps.input().tensor().set_layout(Layout("NHWC")).set_element_type(Type.u8 if pixels else Type.f32)
    steps.input().model().set_layout(Layout("NCHW"))
    steps.output().model().set_layout(Layout("NCHW"))
    steps.output().tensor().set_layout(Layout("NHWC")).set_element_type(Type.u8 if pixels else Type.f32)
    if pixels:
        steps.input().preprocess().convert_element_type(Type.f32).scale(255.0)

        def to_pixels(clean: openvino.Output) -> openvino.Output:
            scaled = opset8.multiply(opset8.clamp(clean, 0.0, 1.0), np.float32(255))
            return opset8.floor(opset8.add(scaled, np.float32(0.5))).output(0)

        steps.output().postprocess().custom(to_pixels)
    return steps.build()


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} frame(s) of {shape[2]}x{shape[1]} pixels"


def _reason(error: Exception) -> str:
    """Return the telling line of an OpenVINO message, whose first lines are places in its source code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next(
        (line for line in reversed(lines) if not line.startswith("Exception from")), "no reason given"
    )


backend = OpenVINOBackend()

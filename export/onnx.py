"""A PyTorch network as one ONNX file for any batch and any size that the network takes.

The network is traced at one tiny size and then set free of it. Tracing with symbolic sizes gives the same
function at three times the cost (SID on two cores: minutes), and resizes whose target sizes are computed at
run time, which other runtimes execute more slowly or refuse. What makes the shortcut sound: resizes become
constant scales, every other operator that is told a shape is refused, and :func:`check_onnx` runs the result at
sizes that were not traced.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from ..base.errors import BuildError, DerainError, InputError
from ..base.extras import importing
from ..base.progress import Progress, no_progress
from ..base.sizes import padded_side
from ..models.onnx_network import OnnxNetwork, open_model
from ..models.spec import ModelSpec
from .exportable import exportable
from .free_sizes import free_sizes

OPSET = 20
INPUT = "rainy"
OUTPUTS = ("clean", "rain", "code")

#: ONNX Runtime against PyTorch, both fp32: largest absolute error, times max(1, max|reference|).
TOLERANCE = 1e-5

#: Pixels of a side, for networks that take less.
_LEAST_TRACED = 8

#: Operators that the exporter would decompose into nothing but themselves.
_WHOLE_OPERATORS = {
    f"aten.{name}"
    for name in (
        "add.Tensor cat.default conv2d.default leaky_relu.default max_pool2d.default mul.Tensor new_zeros.default "
        "relu.default sigmoid.default sub.Tensor tanh.default upsample_bilinear2d.vec upsample_nearest2d.vec"
    ).split()
}

#: The wrapper's attribute for the network; the exporter puts it before every weight's name.
_PREFIX = "network."


def export_onnx(
    network: nn.Module,
    spec: ModelSpec,
    *,
    outputs: Sequence[str] = ("clean",),
    progress: Progress = no_progress,
) -> onnx.ModelProto:
    """Export the network, weights inside, as a checked ONNX model.

    Input ``rainy``: N x 3 x H x W float32, RGB in [0, 1], any N, H and W multiples of ``spec.granularity``
    and at least ``spec.smallest_side``. Outputs: those of ``clean`` (as the input, not clamped), ``rain`` and
    ``code`` that are named in ``outputs``, in that order. Weights keep their state-dict names; one that the
    network uses many times is stored once, one that no output depends on is left out. The same network gives
    the same bytes.

    Args:
        network: in eval mode, fp32; its forward returns the clean image, or a named tuple with the outputs as
            fields.
        progress: called with the stage and the fraction done.

    Raises:
        InputError: ``outputs`` names something that the network does not return.
        BuildError: the network cannot be exported for any size.
    """
    if not outputs or not set(outputs) <= set(OUTPUTS) or len(set(outputs)) != len(outputs):
        raise InputError(
            f"ONNX outputs must be some of {', '.join(OUTPUTS)}, each once; got {', '.join(outputs)!r}."
        )
    if isinstance(network, OnnxNetwork):
        if tuple(outputs) != OUTPUTS[:1]:
            raise InputError("An ONNX model has no output but clean.")
        progress("exported to ONNX", 1.0)
        return network.model
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    side = _traced_side(spec)
    # Batch, height and width all differ, so that none is taken for another.
    image = torch.zeros(2, 3, side, side + spec.granularity, device=device)
    try:
        with _quiet(), torch.no_grad():
            progress("tracing the network", 0.0)
            program = torch.export.export(_Chosen(exportable(network), outputs), (image,))
            progress("translating to ONNX", 0.4)
            _keep_whole(program)
            exported = torch.onnx.export(
                program,
                (image,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(outputs),
                # Half of the translation's time, for what free_sizes takes out anyway.
                optimize=False,
                verbose=False,
            )
        assert exported is not None
        progress("checking the graph", 0.9)
        model = exported.model_proto
        free_sizes(model, spec)
        _strip(model, spec, network)
        onnx.checker.check_model(model, full_check=True)
    except DerainError:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BuildError(
            f"The {spec.architecture} network could not be exported to ONNX: {reason}"
        ) from error
    progress("exported to ONNX", 1.0)
    return model


def check_onnx(model: onnx.ModelProto, network: nn.Module, spec: ModelSpec) -> float:
    """Run ``model`` in ONNX Runtime beside ``network`` at two sizes, and return the largest absolute error.

    Raises:
        BuildError: an error above ``1e-5 * max(1, max|reference|)``, or ONNX Runtime cannot run the model.
        BackendUnavailable: ONNX Runtime is not installed.
    """
    with importing(
        'Checking an ONNX model needs ONNX Runtime; install it with: pip install "derain-engine[build]"'
    ):
        import onnxruntime  # noqa: F401
    names = [output.name for output in model.graph.output]
    step, side = spec.granularity, _traced_side(spec)
    random = np.random.default_rng(0)
    worst = 0.0
    try:
        # Its idle threads spin, which on a busy machine costs more than these small frames.
        session = open_model(model, log_severity_level=3, intra_op_num_threads=1)
        for batch, height, width in ((1, side, side), (3, side + 2 * step, side)):
            image = random.random((batch, 3, height, width), dtype=np.float32)
            with torch.inference_mode():
                expected = _Chosen(network, names)(torch.from_numpy(image))
            for name, ours, result in zip(names, expected, session.run(names, {INPUT: image}), strict=True):
                theirs, reference = np.asarray(result), ours.numpy()
                error = float(np.abs(theirs - reference).max()) if theirs.shape == reference.shape else np.inf
                # Negated, so that NaN fails too.
                if not error <= TOLERANCE * max(1.0, float(np.abs(reference).max())):
                    raise BuildError(
                        f"The exported ONNX model's {name!r} differs from the network by {error:.3g} at "
                        f"{batch}x{height}x{width}; at most {TOLERANCE:g} of the value range is allowed."
                    )
                worst = max(worst, error)
    except BuildError:
        raise
    except Exception as error:
        raise BuildError(f"ONNX Runtime cannot run the exported model: {error}") from error
    return worst


class _Chosen(nn.Module):
    """The network's outputs of the given names, as a plain tuple."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(names)

    def forward(self, rainy: Tensor) -> tuple[Tensor, ...]:
        result = self.network(rainy)
        fields = {"clean": result} if isinstance(result, Tensor) else result._asdict()
        missing = [name for name in self.names if name not in fields]
        if missing:
            raise InputError(
                f"The network returns {', '.join(fields)}; it has no output {', '.join(missing)}."
            )
        return tuple(fields[name] for name in self.names)


def _keep_whole(program: torch.export.ExportedProgram) -> None:
    """Spare the exporter its second trace of the network, two thirds of the time, where it would find the first."""
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    if called <= _WHOLE_OPERATORS:
        program.run_decompositions = lambda *_, **__: program


def _traced_side(spec: ModelSpec) -> int:
    """Return the smallest side in pixels that needs no padding and is no number of a batch or of colours."""
    return padded_side(_LEAST_TRACED, spec.granularity, spec.smallest_side)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back the exporter's warnings, which speak to the authors of exporters, and pauses of the garbage collector:
    a trace makes millions of objects that live to its end (a quarter of the time)."""
    logger = logging.getLogger("torch.onnx")
    level, collecting = logger.level, gc.isenabled()
    logger.setLevel(logging.ERROR)
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if collecting:
            gc.enable()


def _strip(model: onnx.ModelProto, spec: ModelSpec, network: nn.Module) -> None:
    """Take out what the exporter notes about the tracing (source paths, stack traces: a third of the file),
    which also differs from machine to machine, and say what the model is instead, in place."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    # A shared tensor comes under the last of its names; the first is the one that is kept in files.
    first: dict[int, str] = {}
    named = (
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    )
    names = {_PREFIX + name: first.setdefault(id(tensor), name) for name, tensor in named}
    for initializer in graph.initializer:
        # A part of a weight is called after the whole.
        initializer.name = names.get(initializer.name, initializer.name.removeprefix(_PREFIX))
    for node in graph.node:
        node.input[:] = [names.get(name, name.removeprefix(_PREFIX)) for name in node.input]
    graph.name = spec.architecture
    model.producer_name = "derain-engine"
    model.ClearField("producer_version")
    facts = {
        "architecture": spec.architecture,
        "colour": "RGB",
        "granularity": str(spec.granularity),
        "range": "0..1",
        "smallest_side": str(spec.smallest_side),
    }
    onnx.helper.set_model_props(model, facts)

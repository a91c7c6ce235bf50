"""One of our launches as a quickly deployable plugin of TensorRT (``tensorrt.plugin``), compiled ahead of time.

TensorRT puts the PTX into its plan and launches it itself: running the plan takes neither Triton nor Python. Such a
plugin is one kernel, whose parameters TensorRT fixes: the addresses of the inputs, the numbers it is told to compute
from their shapes, the addresses of the outputs. A plugin here is one specialisation of a kernel; its name tells it
from every other, and it has no attributes.

**Not run yet**: written against the documented interface, and tested with a stand-in for it.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...base.errors import BackendUnavailable, BuildError
from ...kernels.aot import Compiled, specialisation
from ...kernels.launch import Call

#: The plugins' namespace in TensorRT, which is their nodes' domain in ONNX.
NAMESPACE = "derain_engine"
# More has to be asked for, and TensorRT is not known to ask.
_SHARED_MEMORY = 48 << 10
_THREADS_PER_WARP = 32
#: GPU -> the first version of PTX that knows it (PTX ISA, "Release Notes"). Triton writes the newest that its assembler
#: reads, which drivers older than that refuse; the kernels use nothing that needs it.
_PTX_VERSIONS = {
    "sm_80": "7.0",
    "sm_86": "7.1",
    "sm_89": "7.8",
    "sm_90": "8.0",
    "sm_100": "8.6",
    "sm_120": "8.7",
}


@dataclass(frozen=True)
class Plugin:
    """A kernel's specialisation as a plugin.

    call: the launch.
    inputs: names of its inputs; the kernel's pointers are these, then the output.
    channels: of the output, which is otherwise as the first input: 1 x height x width x channels.
    ptx: the kernel, of the plugin's name, for a GPU.
    shared, warps: bytes of shared memory and warps of a block.
    """

    name: str
    call: Call
    inputs: tuple[str, ...]
    channels: int
    ptx: str = field(repr=False)
    shared: int
    warps: int


def make_plugin(compiled: Compiled, inputs: Sequence[str], channels: int) -> Plugin:
    """Make a plugin of a compiled launch, whose run-time arguments are the inputs, one output, height and width.

    Raises:
        BuildError: the kernel is none that TensorRT can launch.
    """
    call, target = compiled.call, compiled.target
    if compiled.shared > _SHARED_MEMORY:
        raise BuildError(
            f"The kernel {call.kernel} needs {compiled.shared} bytes of shared memory for {target}; as a plugin it "
            f"may use {_SHARED_MEMORY}. Build without --plugins."
        )
    digest = hashlib.sha256(f"{specialisation(call)} {compiled.dtype} {target}".encode()).hexdigest()[:12]
    name = f"{call.kernel.replace('.', '_')}_{digest}"
    last = len(inputs)
    order = (*range(last), last + 1, last + 2, last)
    ptx = with_parameters(compiled.ptx, compiled.symbol, name, order)
    ptx = re.sub(r"\.version \S+", f".version {_PTX_VERSIONS[target]}", ptx, count=1)
    return Plugin(name, call, tuple(inputs), channels, ptx, compiled.shared, compiled.warps)


def with_parameters(ptx: str, symbol: str, name: str, order: Sequence[int]) -> str:
    """Rename PTX's only kernel from ``symbol`` to ``name``, with the parameters of these numbers in this order.

    Code reads parameters by name, so that only their declarations change places.

    Raises:
        BuildError: there is no such kernel, or it reads a parameter that is left out.
    """
    entry = re.search(rf"(\.entry\s+{re.escape(symbol)}\s*\()([^)]*)\)", ptx)
    if entry is None:
        raise BuildError(f"The compiler gave no PTX for the kernel {symbol}.")
    declared = [each.strip() for each in entry[2].split(",")]
    code = ptx[entry.end() :]
    for i, each in enumerate(declared):
        if i not in order and re.search(rf"\b{re.escape(each.split()[-1])}\b", code):
            raise BuildError(f"The kernel {symbol} reads its parameter {i}, which a plugin cannot give.")
    chosen = ",\n\t".join(declared[i] for i in order)
    changed = f"{ptx[: entry.start()]}{entry[1]}\n\t{chosen}\n){code}"
    return re.sub(rf"\b{re.escape(symbol)}(?=\b|_param_)", name, changed)


def register(plugin: Plugin, trt: Any) -> None:
    """Let TensorRT know the plugin, in this process, until it ends; again costs nothing.

    Args:
        trt: the module ``tensorrt``.

    Raises:
        BackendUnavailable: this TensorRT has no such plugins.
    """
    trtp = plugin_module(trt)
    if hasattr(getattr(trtp.op, NAMESPACE, None), plugin.name):
        return
    tile = plugin.call.config

    def describe(*inputs: Any) -> Any:
        out = inputs[0].like()
        out.shape_expr[3] = plugin.channels
        return out

    def launch(*arguments: Any) -> tuple[Any, ...]:
        _, height, width, _ = arguments[0].shape_expr
        params = trtp.KernelLaunchParams()
        # Call.grid, in the operations that TensorRT has for shapes.
        params.grid_x = trtp.cdiv(height, tile.tile_h) * trtp.cdiv(width, tile.tile_w)
        params.block_x = plugin.warps * _THREADS_PER_WARP
        params.shared_mem = plugin.shared
        sizes = trtp.SymIntExprs(2)
        sizes[0], sizes[1] = trtp.SymInt32(height), trtp.SymInt32(width)
        return plugin.name, plugin.ptx, params, sizes

    # TensorRT reads names and types of inputs from the functions' signatures.
    tensors = dict.fromkeys(plugin.inputs, trtp.TensorDesc)
    _sign(describe, tensors, trtp.TensorDesc)
    result = tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]
    _sign(launch, {**tensors, "outputs": tuple[trtp.TensorDesc], "tactic": int}, result)
    trtp.register(f"{NAMESPACE}::{plugin.name}")(describe)
    trtp.aot_impl(f"{NAMESPACE}::{plugin.name}")(launch)


def plugin_module(trt: Any) -> Any:
    """Import ``tensorrt.plugin``.

    Raises:
        BackendUnavailable: this TensorRT has none, or none that takes compiled kernels.
    """
    try:
        import tensorrt.plugin as trtp  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BackendUnavailable(f"TensorRT's plugins in Python do not load ({error}).") from error
    if not hasattr(trtp, "aot_impl"):
        raise BackendUnavailable(
            f"TensorRT {trt.__version__} takes no plugins that were compiled ahead of time; install a newer one, or "
            "build without --plugins."
        )
    return trtp


def _sign(function: Any, parameters: dict[str, Any], result: Any) -> None:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    named = [inspect.Parameter(name, kind, annotation=each) for name, each in parameters.items()]
    function.__signature__ = inspect.Signature(named, return_annotation=result)

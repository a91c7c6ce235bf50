"""The network in NVIDIA's TensorRT, or in TensorRT-RTX: one backend over what the two have in common.

An engine holds the graph with its types and the plan that the library made of it. Running it needs the library and
cuda-python, neither PyTorch nor ONNX.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....base import files
from ....base.errors import BackendUnavailable, BundleError, InputError
from ....base.progress import Progress, no_progress
from ....device import driver
from ....device.context import Context
from ....export.nvinfer import FLAVOURS, Flavour
from ....kernels.aot import TARGETS, parse_targets
from ....models.spec import ModelSpec
from ..base import Artefact, CompileOptions, RunOptions, build_extra, require_precision
from ..gpu_session import GpuSession
from .emulation import TensorRTEmulation
from .network import TensorRTNetwork

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

    from ....export.half import HalfModel
    from ....export.repair import FragileNodes
    from ....export.tensorrt.build import BuiltPlan

_GRAPH, _PLAN = "tensorrt/model.onnx", "tensorrt/plan.engine"


class TensorRTBackend:
    """Plans of one flavour of the library, in one CUDA graph for every size of frame."""

    precisions = ("fp16", "fp32")
    on_gpu = True

    def __init__(self, flavour: Flavour) -> None:
        self.name = flavour.name
        self.takes = frozenset({"sizes", "repair", "workspace"})
        if not flavour.gpus:
            self.takes |= {"hardware_compatibility", "version_compatible", "plugins"}
        self._flavour = flavour

    def unavailable(self, artefact: Artefact | None = None) -> str | None:
        reason = driver.unavailable() or self._flavour.unavailable()
        if reason is not None or artefact is None or not self._flavour.one_version:
            return reason
        installed, built_by = self._flavour.installed(), artefact.backend_version
        if installed in (None, built_by):
            return None
        return (
            f"The engine was built by {self._flavour.title} {built_by}, and {installed} is here, which runs its own "
            "engines alone; build it again."
        )

    def compile(
        self, network: nn.Module, spec: ModelSpec, options: CompileOptions, progress: Progress = no_progress
    ) -> Artefact:
        """Compile a network, as :meth:`Backend.compile` says.

        Without ``options.gpu`` TensorRT-RTX builds one plan for all the GPUs that it can name. TensorRT builds on the
        GPU that it builds for.
        """
        require_precision(self.name, self.precisions, options.precision)
        precision = options.precision or "fp16"
        if options.sizes.most is None:
            raise InputError(f"The {self.name} backend needs to know the sizes of frames.")
        version = self._flavour.version
        here = None if driver.unavailable() else driver.gpu(0).target
        named = self._named_gpus(options.gpu, here)
        if options.plugins:
            _require_plugins(options, precision, str(here))
        with build_extra():
            from ....export.half import HalfModel, to_half
            from ....export.onnx import export_onnx
            from ....export.repair import find_fragile
            from ....export.tensorrt.build import PlanOptions, build_plan

        model = export_onnx(network, spec, progress=progress)
        repair, wanted = None, options.repair
        if precision == "fp16" and wanted is not None:
            repair = find_fragile(model, wanted.frames, wanted.psnr, wanted.max_abs, progress)
        half = (
            to_half(model, repair.keep if repair else ()) if precision == "fp16" else HalfModel(model, (), {})
        )
        # The engine keeps the plain graph as well, which any machine can run to compare.
        graph, plugins = (
            self._with_plugins(half.model, str(here), progress) if options.plugins else (half.model, ())
        )
        built = build_plan(
            graph,
            self._flavour,
            options.sizes,
            PlanOptions(
                gpus=named,
                precision=precision,
                hardware_compatibility=options.hardware_compatibility,
                version_compatible=options.version_compatible,
                workspace=options.workspace,
                timing_cache=None if self._flavour.gpus else self._timing_cache(version),
                on_gpu=here is not None,
            ),
            progress,
        )
        return Artefact(
            self.name,
            version,
            precision,
            {_GRAPH: half.model.SerializeToString(deterministic=True), _PLAN: built.data},
            gpus=named or (str(here),),
            sizes=options.sizes,
            notes=_notes(half, repair, built, len(model.graph.node), plugins),
        )

    def open(self, artefact: Artefact, options: RunOptions) -> GpuSession:
        """Open a session, as :meth:`Backend.open` says. ``options.threads`` changes nothing."""
        if (reason := self.unavailable(artefact)) is not None:
            raise BackendUnavailable(reason)
        if _PLAN not in artefact.payloads:
            raise BundleError(f"The engine has no {_PLAN}; it is not a whole {self._flavour.title} engine.")
        plan = bytes(artefact.payloads[_PLAN])
        context = Context()
        folder = options.cache_dir
        kept = folder and folder / f"{self._key(self._flavour.version)}.cache"
        return GpuSession(
            context,
            lambda opened, stream: TensorRTNetwork(
                opened, self._flavour, plan, stream, cache=kept, built_by=artefact.backend_version
            ),
            artefact.precision,
            options,
        )

    def emulate(self, artefact: Artefact) -> TensorRTEmulation | None:
        """Open an emulation, as :meth:`Backend.emulate` says: the typed graph in ONNX Runtime, where that is."""
        if any(importlib.util.find_spec(each) is None for each in ("onnx", "onnxruntime")):
            return None
        if _GRAPH not in artefact.payloads:
            raise BundleError(f"The engine has no {_GRAPH}; it is not a whole {self._flavour.title} engine.")
        return TensorRTEmulation(artefact.payloads[_GRAPH], artefact.precision)

    def _named_gpus(self, gpu: str | None, here: str | None) -> tuple[str, ...] | None:
        """Return those to build for by name; None for this machine's."""
        flavour = self._flavour
        if flavour.gpus:
            named = flavour.gpus if gpu is None else parse_targets(gpu, here, flavour.gpus)
            return None if gpu == "current" else named
        if gpu not in (None, "current"):
            raise InputError(f"{flavour.title} builds for this machine's GPU alone; leave --gpu out.")
        if here is None:
            raise BackendUnavailable(
                f"{flavour.title} builds on the GPU that it builds for. {driver.unavailable()} "
                "The backend tensorrt-rtx builds without one."
            )
        return None

    def _with_plugins(self, graph: ModelProto, gpu: str, progress: Progress) -> tuple[ModelProto, list[str]]:
        """Return the graph with plugins that TensorRT knows, and their names."""
        from ....export.tensorrt.blocks import with_plugins
        from ....export.tensorrt.plugin import register

        changed, plugins = with_plugins(graph, gpu, progress)
        for plugin in plugins:
            register(plugin, self._flavour.bindings())
        return changed, [plugin.name for plugin in plugins]

    def _timing_cache(self, version: str) -> Path | None:
        with contextlib.suppress(OSError):
            return files.cache_dir("timing", self.name) / f"{self._key(version)}.cache"
        return None

    def _key(self, version: str) -> str:
        """Return a hash of everything that what the library measured or compiled here depends on."""
        gpu = driver.gpu(0)
        facts = (self.name, version, gpu.name, gpu.target, driver.driver_version())
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _require_plugins(options: CompileOptions, precision: str, gpu: str) -> None:
    """Raise InputError for an engine that plugins cannot be part of."""
    if precision != "fp16":
        raise InputError(f"Plugins compute in fp16, not in {precision}; leave --plugins or --precision out.")
    if options.hardware_compatibility != "none" or options.version_compatible:
        raise InputError(
            "Plugins are compiled for this GPU alone; leave --plugins, or --hardware-compatibility and "
            "--version-compatible, out."
        )
    if gpu not in TARGETS:
        raise InputError(f"There are plugins for {', '.join(TARGETS)}, not for {gpu}; leave --plugins out.")


def _notes(
    half: HalfModel, repair: FragileNodes | None, built: BuiltPlan, nodes: int, plugins: Sequence[str]
) -> Mapping[str, Any]:
    notes: dict[str, Any] = {
        "layers": dict(built.layers),
        "multiplying_layers": dict(built.products),
        "nodes": nodes,
        "kept_in_fp32": list(half.kept),
        "saturated_weights": dict(half.saturated),
    }
    if plugins:
        notes["plugins"] = list(plugins)
    if repair is not None and repair.keep:
        notes["repair"] = {
            "nodes": list(repair.keep),
            # JSON has no infinity: null stands for NaN or infinity in the output.
            "psnr_db_before": _finite(repair.before),
            "psnr_db_after": _finite(repair.after),
        }
    return notes


def _finite(psnr: float) -> float | None:
    return float(f"{psnr:.3g}") if abs(psnr) < float("inf") else None


tensorrt = TensorRTBackend(FLAVOURS["tensorrt"])
tensorrt_rtx = TensorRTBackend(FLAVOURS["tensorrt-rtx"])

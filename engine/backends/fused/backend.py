"""The whole network in our own kernels on an NVIDIA GPU.

An engine holds the plan, the packed weights and, for the GPUs that were named, kernels compiled ahead of time; such an
engine needs cuda-python and no more. On any other GPU its kernels are compiled when it is opened, which needs Triton.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from ....base.errors import BackendUnavailable
from ....base.progress import Progress, no_progress
from ....base.version import __version__
from ....device import driver
from ....device.context import Context
from ....kernels.aot import parse_targets
from ....kernels.launch import Configure
from ....kernels.record import heuristic
from ....kernels.tuned import configure_for
from ....models.spec import ModelSpec
from ....plan import Dtype, Plan
from ....plan.arena import arrange
from ..base import Artefact, CompileOptions, RunOptions, require_precision
from ..gpu_session import GpuSession
from . import kernels as fused_kernels
from . import payload
from .emulation import FusedEmulation
from .network import FusedNetwork

if TYPE_CHECKING:
    from torch import nn

#: Side of the picture that the memory of a pixel is taken from.
_LARGE = 1024


class FusedBackend:
    """Triton kernels, compiled ahead of time, in one CUDA graph."""

    name = "fused"
    precisions = ("fp16", "bf16", "fp32")
    on_gpu = True
    takes: frozenset[str] = frozenset()

    def unavailable(self, artefact: Artefact | None = None) -> str | None:
        return driver.unavailable()

    def compile(
        self, network: nn.Module, spec: ModelSpec, options: CompileOptions, progress: Progress = no_progress
    ) -> Artefact:
        """Compile a network, as :meth:`Backend.compile` says.

        Launches are cut for the first of the usual ``options.sizes``, without one for 512x512, as was measured to be
        best on each GPU where that was done; the engine takes any size.
        Without ``options.gpu`` kernels are compiled for this machine's GPU; where it has none, for none, so that
        every machine compiles them when it opens the engine.
        """
        from ....plan import lower
        from ....plan.cost import NOMINAL

        require_precision(self.name, self.precisions, options.precision)
        dtype = options.precision or "fp16"
        here = None if self.unavailable() else driver.gpu(0)
        if options.gpu is not None:
            gpus = parse_targets(options.gpu, here and here.target)
        else:
            gpus = () if here is None else (here.target,)
        nominal = next(iter(options.sizes.usual), NOMINAL)

        def lowered(configure: Configure) -> Plan:
            return lower(network, cast(Dtype, dtype), nominal=nominal, configure=configure)

        progress("Lowering", 0.0)
        plan = lowered(heuristic)
        plans: dict[str, Plan] = {}
        for gpu in gpus:
            name = here.name if here is not None and here.target == gpu else None
            configure = configure_for(gpu, name, dtype)
            plans[gpu] = plan if configure is heuristic else lowered(configure)
        payloads = payload.pack_plans(plan, plans)
        for gpu in gpus:
            payloads |= payload.pack_kernels(gpu, fused_kernels.compile_for(plans[gpu], gpu, progress))
        pixel = -(-arrange(plan, _LARGE, _LARGE).size // _LARGE**2)
        sizes = spec.sizes.favouring(options.sizes.usual)
        return Artefact(
            self.name, __version__, dtype, payloads, gpus=gpus, bytes_per_pixel=pixel, sizes=sizes
        )

    def open(self, artefact: Artefact, options: RunOptions) -> GpuSession:
        """Open an artefact, as :meth:`Backend.open` says. ``options.threads`` changes nothing."""
        if (reason := self.unavailable()) is not None:
            raise BackendUnavailable(reason)
        context = Context()
        gpu = context.gpu.target
        built_for = payload.targets(artefact.payloads)
        fitting = _fitting(gpu, built_for)
        plan = payload.read_plan(artefact.payloads, fitting or gpu)
        if fitting is not None:
            kernels = payload.read_kernels(artefact.payloads, fitting)
        else:
            kernels = fused_kernels.compile_here(plan, context.gpu, built_for, options.cache_dir)
        return GpuSession(
            context,
            lambda opened, stream: FusedNetwork(opened, plan, kernels, stream),
            artefact.precision,
            options,
        )

    def emulate(self, artefact: Artefact) -> FusedEmulation | None:
        """Open an artefact on a CPU, as :meth:`Backend.emulate` says: the plan by PyTorch's operators, where PyTorch
        is."""
        if importlib.util.find_spec("torch") is None:
            return None
        return FusedEmulation(payload.read_plan(artefact.payloads))


def _fitting(gpu: str, built_for: Sequence[str]) -> str | None:
    """Return, of the GPUs that kernels were compiled for, the one whose kernels run on ``gpu``; None where none do."""
    if gpu in built_for:
        return gpu
    # From sm_90 on, kernels use what their own GPU alone has; before, later GPUs of the generation run them.
    older = [each for each in built_for if each < gpu and each[:-1] == gpu[:-1] == "sm_8"]
    return max(older, default=None)


backend = FusedBackend()

"""A network's launches on this machine's GPU, from its name to the figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ...base.progress import Progress, no_progress
from ...kernels.aot_pool import compile_calls, require_compiler
from ...kernels.tuned import configure_for
from ...plan import Dtype
from .launches import LaunchTimes, measure_launches
from .networks import find_networks
from .rig import Rig, open_rig

if TYPE_CHECKING:
    from ...kernels.aot import Compiled


def measure_here(
    model: str,
    shape: tuple[int, int],
    precision: Dtype,
    *,
    kernels: Sequence[str],
    compiled: bool,
    runs: int,
    progress: Progress = no_progress,
    rig: Callable[[], AbstractContextManager[Rig]] = open_rig,
    compile_calls: Callable[..., list[Compiled]] = compile_calls,
    device: str = "cuda",
) -> tuple[LaunchTimes, dict[str, str]]:
    """The figures, and what the GPU and its software are. Kernels are cut as was measured for this GPU, or as the
    heuristic cuts them.

    Args:
        model: a name for :func:`.networks.find_networks`.
        shape: height and width of the picture, in pixels.
        rig, compile_calls, device: the GPU, the compiler, and where PyTorch's tensors are on that GPU.

    Raises:
        BackendUnavailable: no GPU, or no compiler.
        InputError: an unknown model or kernel, or sides that are no multiples of 32.
    """
    import torch

    from ...plan import lower
    from ...plan.memory import Memory

    require_compiler()
    (network,) = find_networks([model])
    with rig() as here:
        gpu = here.context.gpu
        configure = configure_for(gpu.target, gpu.name, precision)
        plan = lower(network, precision, nominal=shape, configure=configure)
        memory = Memory(plan, *shape, device)
        result = measure_launches(
            here,
            memory,
            compile_calls=compile_calls,
            kernels=kernels,
            runs=runs,
            compiled=compiled,
            progress=progress,
        )
        return result, {**here.facts(), "torch": torch.__version__}

"""Every kernel of a network's plan on a GPU, beside PyTorch's operators and ``torch.compile`` for the same, in one run.

All take turns on the same memory, the cache cleared before each, and all are captured in CUDA graphs, so that only the
GPU's time counts. Beside the speeds stand the ceilings that the GPU reached in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...base.errors import InputError
from ...base.progress import Progress, no_progress
from ...kernels.aot import specialisation
from ...kernels.aot.pool import compile_calls, require_compiler
from ...kernels.tuned import configure_for
from ...plan.program import GRANULARITY, Dtype
from ..contestants import find_networks
from .alike import Alike, Check, alike
from .ceilings import Ceilings, measure_ceilings
from .rig import Rig, TimedWork, open_rig

if TYPE_CHECKING:
    from torch import Tensor

    from ...kernels.aot import Compiled
    from ...plan.memory import Memory


@dataclass(frozen=True)
class Times:
    """Milliseconds of one launch."""

    median_ms: float
    p5_ms: float
    p95_ms: float


@dataclass(frozen=True)
class LaunchRow:
    """The figures of launches that are alike.

    kernel, channels, level: what a configuration is chosen by. step: the first of them, by the modules' names.
    constants, config: how it is compiled. height, width: of the map that it covers, in pixels. launches: a frame.
    flops, bytes: of one; a multiply-add is two operations, every map and weight is touched once.
    kernel_ms: ours. eager_ms: PyTorch's operators, channels_last, weights unpacked before. compiled_ms: those under
    ``torch.compile(mode="max-autotune-no-cudagraphs")``; None where that was not asked for or failed.
    tflop_s, gb_s: 10^12 operations and 10^9 bytes a second of ours. of_matmul, of_copy: those as fractions of the
    ceilings. verified: the result is as near to fp32 as PyTorch's in this precision (twice its error, and rounding).
    """

    kernel: str
    channels: int
    level: int
    step: str
    constants: dict[str, Any]
    config: dict[str, int]
    height: int
    width: int
    launches: int
    flops: float
    bytes: float
    kernel_ms: Times
    eager_ms: Times
    compiled_ms: Times | None
    tflop_s: float
    gb_s: float
    of_matmul: float
    of_copy: float
    verified: bool


@dataclass(frozen=True)
class LaunchTimes:
    """The figures of a plan's launches.

    rows: in the order of first use. frame_ms: of the plan's launches in one CUDA graph and one stream, the cache
    cold only before the first; None where not all kernels were measured. runs: timed ones of each. failed: why
    ``torch.compile`` gave nothing, for the first launch where it did not.
    """

    rows: tuple[LaunchRow, ...]
    ceilings: Ceilings
    frame_ms: Times | None
    runs: int
    failed: str | None

    def sum_ms(self, name: str) -> float | None:
        """Return milliseconds of a frame: medians times launches, of ``kernel_ms``, ``eager_ms`` or ``compiled_ms``."""
        times = [(row.launches, getattr(row, name)) for row in self.rows]
        return None if any(t is None for _, t in times) else sum(n * t.median_ms for n, t in times)


def measure_launches(
    rig: Rig,
    memory: Memory,
    *,
    compile_calls: Callable[..., list[Compiled]],
    kernels: Sequence[str] = (),
    runs: int = 30,
    compiled: bool = True,
    device: Any = "cuda",
    progress: Progress = no_progress,
) -> LaunchTimes:
    """Time a plan's launches.

    Args:
        memory: of the plan, on the rig's GPU.
        compile_calls: as :func:`derain_engine.kernels.aot.pool.compile_calls`.
        kernels: only these, by name; all without any.
        compiled: also ``torch.compile``, which takes long to choose.
        device: where the ceilings are measured.

    Raises:
        InputError: the plan has none of the kernels.
    """
    plan = memory.plan
    found = [each for each in alike(memory) if not kernels or each.step.call.kernel in kernels]
    if not found:
        names = sorted({step.call.kernel for step in plan.steps})
        raise InputError(f"The network has no kernel {' or '.join(kernels)}; it has {', '.join(names)}.")
    progress("measuring ceilings", 0.0)
    ceilings = measure_ceilings(device, plan.dtype, runs=runs)
    calls = [each.step.call for each in found]
    ready = compile_calls(calls, plan.dtype, [rig.context.gpu.target], progress=progress)
    by_name = {specialisation(kernel.call): kernel for kernel in ready}
    rows, failed = [], None
    for done, each in enumerate(found):
        progress(f"timing {each.step.call.kernel}", done / len(found))
        kernel = by_name[specialisation(each.step.call)]
        row, reason = _measure(rig, each, kernel, ceilings, runs, compiled and failed is None)
        rows.append(row)
        failed = failed or reason
    progress("timing the whole plan", 0.0)
    frame = None if kernels else _times(rig.time([_frame(rig, memory, by_name)], runs)[0])
    return LaunchTimes(tuple(rows), ceilings, frame, runs, failed)


def _measure(
    rig: Rig, each: Alike, kernel: Compiled, ceilings: Ceilings, runs: int, compiled: bool
) -> tuple[LaunchRow, str | None]:
    import torch

    from ...kernels.plain import plain

    step, memory = each.step, each.memory
    call, pointers = step.call, each.pointers(step.call)
    ours = rig.launcher(replace(kernel, call=call), pointers, each.sizes)
    verified = Check(each).passes(ours)
    function, arguments = plain(call, pointers, each.sizes)
    works, reason = [rig.captured(ours), captured(function, arguments)], None
    if compiled:
        torch.compiler.reset()
        try:
            fast = torch.compile(function, mode="max-autotune-no-cudagraphs", dynamic=False)
            works.append(captured(fast, arguments))
        except Exception as error:  # of Dynamo, Inductor, Triton, a C compiler that is not there
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    times = [_times(found) for found in rig.time(works, runs)]
    area = memory.height * memory.width / GRANULARITY**2
    flops, moved = step.flops * area, step.map_bytes * area + step.weight_bytes
    seconds = times[0].median_ms / 1000
    tflop_s, gb_s = flops / seconds / 1e12, moved / seconds / 1e9
    name, channels, level = each.key
    row = LaunchRow(
        kernel=name,
        channels=channels,
        level=level,
        step=step.name,
        constants=call.compile_time(),
        config=vars(call.config),
        height=each.sizes[0],
        width=each.sizes[1],
        launches=each.launches,
        flops=flops,
        bytes=moved,
        kernel_ms=times[0],
        eager_ms=times[1],
        compiled_ms=times[2] if len(times) > 2 else None,
        tflop_s=tflop_s,
        gb_s=gb_s,
        of_matmul=tflop_s / ceilings.matmul_tflop_s,
        of_copy=gb_s / ceilings.copy_gb_s,
        verified=verified,
    )
    return row, reason


def captured(function: Callable[..., object], arguments: Sequence[Tensor]) -> TimedWork:
    """Capture PyTorch's operators in a CUDA graph, which starts in the current stream."""
    import torch

    cudnn: Any = torch.backends.cudnn
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(current)
    # Let cuDNN try its algorithms, which it does at the first run.
    before, cudnn.benchmark = cudnn.benchmark, True
    try:
        with torch.no_grad():
            with torch.cuda.stream(side):
                for _ in range(3):
                    function(*arguments)
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                function(*arguments)
    finally:
        cudnn.benchmark = before
    return graph.replay


def _frame(rig: Rig, memory: Memory, by_name: dict[str, Compiled]) -> TimedWork:
    """Capture the whole plan, launch after launch, in a CUDA graph, for a random picture."""
    import torch

    device = memory.map(memory.plan.image).device
    memory.fill(torch.rand(memory.height, memory.width, 3, device=device))
    works = [
        rig.launcher(
            replace(by_name[specialisation(step.call)], call=step.call),
            [memory.flat(pointer) for pointer in step.pointers],
            memory.sizes(step),
        )
        for step in memory.plan.steps
    ]

    def launch_all() -> None:
        for work in works:
            work()

    # The driver may load code at its first launch, which a capture does not allow.
    launch_all()
    return rig.captured(launch_all)


def _times(milliseconds: np.ndarray) -> Times:
    p5, median, p95 = (float(value) for value in np.percentile(milliseconds, (5, 50, 95)))
    return Times(median, p5, p95)


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
    """Return the figures of a network's launches on this machine's GPU, and what the GPU and its software are.

    Kernels are cut as was measured for this GPU, or as the heuristic cuts them.

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

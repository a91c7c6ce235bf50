"""A GPU to time kernels on: events around every launch, its cache cleared before each.

Kernels are launched as deployed engines launch them, through the device layer, in the primary context, which PyTorch
shares: its tensors are the kernels' memory, and its operators run in the same stream.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...base.errors import BackendUnavailable
from ...device import driver
from ...device.context import Context
from ...device.graph import Graph
from ...device.memory import DeviceBuffer, fill
from ...device.module import Arguments, Module, launch
from ...device.stream import Event, Stream

if TYPE_CHECKING:
    from torch import Tensor

    from ...kernels.aot import Compiled

#: Something that puts work into the rig's stream.
TimedWork = Callable[[], object]

_WARM_UP = 3
_DRIVER_TABLE = Path("/proc/driver/nvidia/version")


class Rig:
    """A GPU that is ready to time work.

    context: current. stream: where all work goes. cold: twice the GPU's cache.
    """

    def __init__(self, context: Context, stream: Stream, cold_bytes: int) -> None:
        self.context, self.stream = context, stream
        self._cold = DeviceBuffer(context, cold_bytes)

    def launcher(self, kernel: Compiled, pointers: Sequence[Tensor], sizes: Sequence[int]) -> TimedWork:
        """Return one launch of a kernel on tensors, which are not kept alive, over ``sizes[0]`` x ``sizes[1]`` pixels.

        Raises:
            BackendUnavailable: the kernel needs more shared memory than this GPU has, or is another GPU's.
        """
        module = Module(self.context, kernel.cubin, f"the kernel {kernel.call.kernel}")
        function = module.function(kernel.symbol, kernel.shared)
        scratch = len(kernel.arguments) - len(pointers) - len(sizes)
        values = [*(tensor.data_ptr() for tensor in pointers), *sizes, *[None] * scratch]
        arguments = Arguments(kernel.arguments, values)
        grid = kernel.call.grid(sizes[0], sizes[1])
        return lambda: launch(function, grid, 32 * kernel.warps, arguments, self.stream)

    def captured(self, work: TimedWork) -> TimedWork:
        """Return the same as a CUDA graph, so that the CPU's time to launch it is not measured."""
        graph = Graph(self.stream, work)
        return lambda: graph.launch(self.stream)

    def time(self, works: Sequence[TimedWork], runs: int) -> np.ndarray:
        """Milliseconds of every work, len(works) x runs. They take turns, so that a GPU that slows down slows all,
        and before each twice the size of the GPU's cache is written, so that it finds nothing there."""
        for work in works:
            for _ in range(_WARM_UP):
                work()
        with contextlib.ExitStack() as stack:

            def event() -> Event:
                return stack.enter_context(Event(self.context, timing=True))

            marks = []
            for run in range(runs):
                for work in works:
                    start, end = event(), event()
                    # While this runs the CPU puts the rest behind it, so that no gap is measured.
                    fill(self._cold, run % 256, self.stream)
                    start.record(self.stream)
                    work()
                    end.record(self.stream)
                    marks.append((start, end))
            self.stream.synchronise()
            times = [end.elapsed_ms(start) for start, end in marks]
        return np.array(times).reshape(runs, len(works)).T

    def facts(self) -> dict[str, str]:
        """Return the GPU's name and target, the driver's release, the newest CUDA that it speaks, Triton's version."""
        import triton

        gpu = self.context.gpu
        return {
            "gpu": gpu.name,
            "target": gpu.target,
            "driver": _driver_release(),
            "cuda": "{}.{}".format(*driver.driver_version()),
            "triton": triton.__version__,
        }


def unavailable() -> str | None:
    """Return why kernels cannot be measured on a GPU here, or None where they can."""
    import torch

    if (reason := driver.unavailable()) is not None:
        return reason
    if not torch.cuda.is_available():
        return f"This PyTorch ({torch.__version__}) was built without CUDA; install one that has it."
    return None


@contextlib.contextmanager
def open_rig() -> Iterator[Rig]:
    """Open this machine's first GPU. Meanwhile PyTorch works in the rig's stream, and convolves fp32 without TF32.

    Raises:
        BackendUnavailable: as :func:`unavailable`.
    """
    import torch

    if (reason := unavailable()) is not None:
        raise BackendUnavailable(reason)
    torch.cuda.init()
    properties: Any = torch.cuda.get_device_properties(0)
    cudnn: Any = torch.backends.cudnn
    before, cudnn.allow_tf32 = cudnn.allow_tf32, False
    try:
        with Context(0) as context, context.current(), Stream(context) as stream:
            with torch.cuda.stream(torch.cuda.ExternalStream(stream.number)):
                yield Rig(context, stream, 2 * properties.L2_cache_size)
    finally:
        cudnn.allow_tf32 = before


def _driver_release() -> str:
    """Such as ``580.95.05``, from Linux's table of the driver."""
    text = _DRIVER_TABLE.read_text("utf-8", "replace") if _DRIVER_TABLE.is_file() else ""
    found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)*\b", text)
    return found[0] if found else "unknown"

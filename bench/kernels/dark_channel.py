"""The separable dark channel beside ``nn.MaxPool3d`` on a CPU, forward and backward, in one run.

Both take turns on the same pictures, so that a machine that slows down slows both; before that, their values and
gradients are compared on a picture of random values and on one of 8 grey levels, where ties are the rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...base.errors import InputError
from ...base.progress import Progress, no_progress
from ...engine import environment

if TYPE_CHECKING:
    from torch import Tensor

#: Pictures that take turns as input, so that none is met with its own values still in the caches.
_INPUTS = 4
_WARM_UP = 2


@dataclass(frozen=True)
class Timing:
    """One implementation at one window.

    name: of the implementation. height, width: of the float32 picture, 1 x 3 x height x width; window: P, padding:
    all in pixels. threads: CPU threads allowed. runs: timed ones, after warm-up. median_ms, p5_ms, p95_ms: of
    forward and backward together. speedup: the median of ``nn.MaxPool3d`` in the same run divided by this one.
    verified: values and gradients equal those of ``nn.MaxPool3d``, to the bit; None for itself.
    """

    name: str
    height: int
    width: int
    window: int
    padding: int
    threads: int
    runs: int
    median_ms: float
    p5_ms: float
    p95_ms: float
    speedup: float
    verified: bool | None


def measure(
    *,
    windows: Sequence[int] = (35, 128),
    height: int = 128,
    width: int = 128,
    runs: int = 30,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> list[Timing]:
    """Time the maximum over (3, P, P) around every pixel of a picture, padded by P // 2, and its gradient.

    Args:
        windows: P in pixels.
        height, width: of the picture, in pixels; by default the paper's training patch.
        runs: timed ones of each implementation and window.
        threads: CPU threads for both; all that the process may use by default.
        progress: told every window and the fraction done of it.

    Returns:
        Two rows for each window, ``nn.MaxPool3d`` first.

    Raises:
        InputError: nothing to measure.
    """
    if not windows or min(*windows, height, width, runs, 1 if threads is None else threads) < 1:
        raise InputError("A benchmark needs a window, a picture, threads and runs of at least 1.")
    import torch

    count: int = threads or environment.cores()["threads"] or 1
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return [row for window in windows for row in _measure(window, (height, width), runs, count, progress)]
    finally:
        torch.set_num_threads(before)


def _measure(window: int, size: tuple[int, int], runs: int, threads: int, progress: Progress) -> list[Timing]:
    import torch

    from ...kernels import dark_channel
    from ...kernels.dark_channel import by_torch

    padding = window // 2
    contestants: dict[str, Callable[[Tensor, int, int], Tensor]] = {
        "nn.MaxPool3d": by_torch.box_maximum_reference,
        "separable": dark_channel.dark_channel_maximum,
    }
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(1, 3, *size, generator=generator).requires_grad_() for _ in range(_INPUTS)]
    levels = (torch.randint(8, (1, 3, *size), generator=generator) / 7).requires_grad_()
    out = [side + 2 * padding - window + 1 for side in size]
    # Whole numbers: their sums are exact in whatever order they are added up.
    grad = torch.randint(-8, 9, (1, 1, *out), generator=generator).float()

    def forward_and_backward(name: str, image: Tensor) -> tuple[Tensor, Tensor]:
        maxima = contestants[name](image, window, padding)
        return maxima, torch.autograd.grad(maxima, image, grad)[0]

    label = f"Dark channel, P = {window}"
    progress(label, 0.0)
    verified = all(
        torch.equal(found, expected)
        for image in (images[0], levels)
        for found, expected in zip(
            forward_and_backward("separable", image), forward_and_backward("nn.MaxPool3d", image), strict=True
        )
    )
    for name in contestants:
        for image in images[:_WARM_UP]:
            forward_and_backward(name, image)
    times = {name: np.empty(runs) for name in contestants}
    for run in range(runs):
        progress(label, run / runs)
        for name, seconds in times.items():
            began = time.perf_counter()
            forward_and_backward(name, images[run % _INPUTS])
            seconds[run] = time.perf_counter() - began
    rival = float(np.median(times["nn.MaxPool3d"]))
    rows = []
    for name, seconds in times.items():
        p5, median, p95 = (float(value) for value in np.percentile(seconds, (5, 50, 95)))
        row = Timing(
            name=name,
            height=size[0],
            width=size[1],
            window=window,
            padding=padding,
            threads=threads,
            runs=runs,
            median_ms=1000 * median,
            p5_ms=1000 * p5,
            p95_ms=1000 * p95,
            speedup=rival / median,
            verified=verified if name == "separable" else None,
        )
        rows.append(row)
    return rows

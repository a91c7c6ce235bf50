"""Kernels timed by pytest-benchmark: ``make bench``. The figures of ``bench kernels`` are made with more care (a cold
cache, all in turns); these are for comparing two checkouts, with ``--benchmark-save`` and ``--benchmark-compare``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from derain_engine.bench.contestants import find_networks
from derain_engine.bench.kernels import rig as gpu
from derain_engine.bench.kernels.alike import Check, alike
from derain_engine.kernels import dark_channel
from derain_engine.kernels.aot import pool
from derain_engine.kernels.dark_channel import by_torch
from derain_engine.kernels.plain import plain
from derain_engine.kernels.record import kernels
from derain_engine.kernels.tuned import configure_for
from derain_engine.plan import lower
from derain_engine.plan.memory import Memory

BOXES = {"separable": dark_channel.dark_channel_maximum, "nn.MaxPool3d": by_torch.box_maximum_reference}
#: All that a plan may launch; of those, what sid launches at full scale is timed.
KERNELS = [kernel.name for kernel in kernels() if not kernel.frames]
SHAPE = (512, 512)


@pytest.mark.parametrize("window", [35, 128])
@pytest.mark.parametrize("name", BOXES)
def test_dark_channel(benchmark: Callable, name: str, window: int) -> None:
    """Forward and backward of a training patch, on the CPU."""
    benchmark.group = f"dark channel, P = {window}, {torch.get_num_threads()} threads"  # pyright: ignore
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def forward_and_backward() -> tuple[torch.Tensor, ...]:
        maxima = BOXES[name](image, window, window // 2)
        return torch.autograd.grad(maxima.sum(), image)

    benchmark(forward_and_backward)


@pytest.fixture(scope="module")
def on_gpu() -> Iterator[tuple[gpu.Rig, Memory]]:
    """Yield the first GPU, and the memory of sid's plan on it."""
    if (reason := gpu.unavailable()) is not None:
        pytest.skip(reason)
    (network,) = find_networks(["sid"])
    with gpu.open_rig() as rig:
        about = rig.context.gpu
        plan = lower(network, "fp16", nominal=SHAPE, configure=configure_for(about.target, about.name))
        yield rig, Memory(plan, *SHAPE, "cuda")


@pytest.mark.parametrize("rival", ["kernel", "PyTorch eager"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel(benchmark: Callable, on_gpu: tuple[gpu.Rig, Memory], kernel: str, rival: str) -> None:
    """Time one launch of the full scale and the wait for it, the cache warm."""
    rig, memory = on_gpu
    each = next((each for each in alike(memory) if each.key == (kernel, 24, 0)), None)
    if each is None:
        pytest.skip("sid has no such launch of 24 channels at full scale")
    call, pointers = each.step.call, each.pointers(each.step.call)
    benchmark.group = f"{kernel} at {SHAPE[0]}x{SHAPE[1]}, {rig.context.gpu.name}"  # pyright: ignore
    if rival == "kernel":
        (compiled,) = pool.compile_calls([call], "fp16", [rig.context.gpu.target], jobs=1)
        work = rig.launcher(compiled, pointers, each.sizes)
        assert Check(each).passes(work)
    else:
        function, arguments = plain(call, pointers, each.sizes)

        def work() -> object:
            with torch.no_grad():
                return function(*arguments)

    def launch_and_wait() -> None:
        work()
        rig.stream.synchronise()

    benchmark(launch_and_wait)

"""The best that a device can do, measured: bytes a second of a copy, and operations a second of a matrix product.

Speeds of kernels mean something beside these, from the same run: data sheets give peaks that no program reaches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...base.errors import InputError

#: A copy reads this many bytes and writes as many: many times any cache.
_COPIED = {"cuda": 1 << 30, "cpu": 1 << 28}
#: Rows and columns of both factors of the product.
_SIDE = {"cuda": 8192, "cpu": 1024}
_WARM_UP = 3


@dataclass(frozen=True)
class Ceilings:
    """The measured limits of a device.

    copy_gb_s: gigabytes (10^9) a second, read and written together. matmul_tflop_s: 10^12 operations a second in
    ``precision``, a multiply-add counted as two. copied_bytes: read by one copy. side: of the square factors. runs:
    timed ones of each, of which these are the medians. threads: of a CPU, None of a GPU.
    """

    device: Literal["cuda", "cpu"]
    precision: Literal["fp16", "bf16", "fp32"]
    copy_gb_s: float
    matmul_tflop_s: float
    copied_bytes: int
    side: int
    runs: int
    threads: int | None


def measure_ceilings(
    device: Literal["cuda", "cpu"],
    precision: Literal["fp16", "bf16", "fp32"] = "fp16",
    *,
    runs: int = 20,
    copied_bytes: int | None = None,
    side: int | None = None,
) -> Ceilings:
    """Copy random bytes and multiply random matrices, with PyTorch: on a CPU with as many threads as it is set to, on a
    GPU in the current stream. Products in fp32 are not rounded to TF32.

    Args:
        copied_bytes, side: instead of sizes that are large for the device.

    Raises:
        InputError: nothing to measure.
    """
    import torch

    copied_bytes = copied_bytes or _COPIED[device]
    side = side or _SIDE[device]
    if min(runs, copied_bytes, side) < 1:
        raise InputError("Ceilings need runs, bytes and sides of at least 1.")
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    generator = torch.Generator(device).manual_seed(0)
    copied = torch.randint(256, (2, copied_bytes), dtype=torch.uint8, device=device, generator=generator)
    copy = _median_seconds(lambda: copied[1].copy_(copied[0]), device, runs)
    a, b = (torch.randn(side, side, device=device, generator=generator).to(kind) for _ in range(2))
    out = torch.empty_like(a)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        product = _median_seconds(lambda: torch.matmul(a, b, out=out), device, runs)
    finally:
        torch.set_float32_matmul_precision(before)
    return Ceilings(
        device=device,
        precision=precision,
        copy_gb_s=2 * copied_bytes / copy / 1e9,
        matmul_tflop_s=2 * side**3 / product / 1e12,
        copied_bytes=copied_bytes,
        side=side,
        runs=runs,
        threads=torch.get_num_threads() if device == "cpu" else None,
    )


def _median_seconds(work: Callable[[], object], device: str, runs: int) -> float:
    for _ in range(_WARM_UP):
        work()
    return float(np.median(_gpu_seconds(work, runs) if device == "cuda" else _cpu_seconds(work, runs)))


def _cpu_seconds(work: Callable[[], object], runs: int) -> list[float]:
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds


def _gpu_seconds(work: Callable[[], object], runs: int) -> list[float]:
    import torch

    marks = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(runs)]
    for start, end in marks:
        start.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1000 for start, end in marks]

"""A made-up run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from derain_engine.bench.results import Benchmark, EngineTiming


def make_row(**changes: Any) -> EngineTiming:
    row: dict[str, Any] = {
        "name": "PyTorch eager fp32",
        "backend": "pytorch",
        "backend_version": "2.9.0",
        "precision": "fp32",
        "height": 512,
        "width": 256,
        "threads": 2,
        "device": "A CPU",
        "driver": None,
        "cold_start_ms": 900.0,
        "warm_start_ms": 800.0,
        "open_ms": 30.0,
        "first_ms": 20.0,
        "runs": 8,
        "median_ms": 10.0,
        "p95_ms": 11.0,
        "p99_ms": 12.0,
        "noise": 0.01,
        "frames_per_second": 100.0,
        "peak_host_mb": 321.0,
        "device_mb": None,
        "verified": True,
        "psnr_db": None,
        "max_abs": 0.0,
        "macs_per_pixel": 1e6,
        "flop_per_byte": 50.0,
        "matmul_tflop_s": 40.0,
        "copy_gb_s": 20.0,
    }
    return EngineTiming(**(row | changes))


def make_benchmark(*rows: EngineTiming) -> Benchmark:
    environment = {
        "derain_engine": "1.2.3",
        "python": "3.12.1",
        "platform": "Linux",
        "cpu": {"model": "A CPU", "features": ["avx2", "avx512_bf16"]},
    }
    return Benchmark(rows, environment, "derain-engine bench table3", "2026-01-02T03:04:05+00:00")


@pytest.fixture
def row() -> Callable[..., EngineTiming]:
    return make_row


@pytest.fixture
def benchmark_of() -> Callable[..., Benchmark]:
    return make_benchmark


@pytest.fixture
def measured() -> Benchmark:
    """Make a run of two contestants at two sizes."""
    fast = {"name": "a|b.derain", "backend": "openvino", "precision": "bf16", "noise": 0.2, "psnr_db": 61.25}
    return make_benchmark(
        make_row(),
        make_row(**fast, median_ms=4.0),
        make_row(height=1024, median_ms=20.0),
        make_row(**fast, height=1024, median_ms=5.0, verified=False),
    )

from __future__ import annotations

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from derain_engine.bench.kernels import dark_channel, launches, rig
from derain_engine.bench.kernels.ceilings import Ceilings
from derain_engine.bench.kernels.launches import LaunchRow, LaunchTimes, Times

ROW = LaunchRow(
    kernel="mffb.stage1",
    channels=24,
    level=0,
    step="net.units.0.mffb.1",
    constants={"C": 24},
    config={"tile_h": 8},
    height=512,
    width=768,
    launches=20,
    flops=2e9,
    bytes=3e7,
    kernel_ms=Times(0.1, 0.09, 0.12),
    eager_ms=Times(0.4, 0.3, 0.5),
    compiled_ms=Times(0.2, 0.1, 0.3),
    tflop_s=20.0,
    gb_s=300.0,
    of_matmul=0.04,
    of_copy=0.1,
    verified=True,
)
OTHER = replace(ROW, kernel="dense.dense1x1", launches=3, step="net.conv1x1.0")
CEILINGS = Ceilings("cuda", "fp16", 3000.0, 500.0, 1 << 30, 8192, 20, None)
FACTS = {
    "gpu": "A GPU",
    "target": "sm_90",
    "driver": "580.1",
    "cuda": "13.0",
    "triton": "3.6.0",
    "torch": "2.11",
}


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setattr(rig, "unavailable", lambda: "The NVIDIA driver is not here.")


@pytest.fixture
def gpu(monkeypatch):
    """Stands for a GPU: what it is asked for, and what it answers."""
    answer = LaunchTimes((ROW, OTHER), CEILINGS, Times(2.0, 1.9, 2.2), 30, None)
    gpu = SimpleNamespace(answer=answer, asked=[])

    def measure_here(*about, progress, **options):
        progress("timing", 0.5)
        gpu.asked.append((about, options))
        return gpu.answer, FACTS

    monkeypatch.setattr(rig, "unavailable", lambda: None)
    monkeypatch.setattr(launches, "measure_here", measure_here)
    return gpu


@pytest.mark.slow
def test_without_a_gpu_the_dark_channel_is_measured_and_compared(cli, cpu, monkeypatch):
    done = cli("bench", "kernels", "--runs", "2", "--threads", "1", "--json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    assert [(r["name"], r["window"]) for r in rows] == [
        (name, window) for window in (35, 128) for name in ("nn.MaxPool3d", "separable")
    ]
    assert [r["verified"] for r in rows] == [None, True, None, True]
    assert all(r["device"] and r["torch"] and r["command"].startswith("derain-engine") for r in rows)
    right = dark_channel.measure(runs=1, threads=1, windows=(3,), height=8, width=8)
    monkeypatch.setattr(
        dark_channel, "measure", lambda **options: [replace(r, verified=False) for r in right]
    )
    done = cli("bench", "kernels")
    assert done.code == 4 and "differs" in done.err and "NO" in done.out and "Speed-up" in done.out


@pytest.mark.parametrize(
    "options",
    [["--device", "gpu"], ["--model", "sid"], ["--shape", "32x32"], ["--kernel", "x"], ["--no-compile"]],
)
def test_what_needs_a_gpu_says_that_there_is_none(cli, cpu, options):
    done = cli("bench", "kernels", *options)
    assert done.code == 3 and not done.out
    assert done.err.strip() == "derain-engine: The NVIDIA driver is not here."


def test_options_of_the_other_device_are_refused(cli, cpu, gpu):
    done = cli("bench", "kernels", "--device", "cpu", "--model", "sid")
    assert done.code == 2 and "only --threads and --runs" in done.err
    done = cli("bench", "kernels", "--threads", "2")
    assert done.code == 2 and "--threads is for a CPU" in done.err and not gpu.asked


def test_the_gpus_table(cli, gpu):
    done = cli("bench", "kernels")
    assert done.code == 0, done.err
    assert gpu.asked == [(("sid", (512, 512), "fp16"), {"kernels": [], "compiled": True, "runs": 30})]
    row = next(line.split() for line in done.out.splitlines() if line.strip().startswith("mffb.stage1"))
    times = ["0.1000", "0.0900", "0.1200", "0.4000", "0.2000"]
    assert row == ["mffb.stage1", "24", "512x768", "20", *times, "20.0", "4.0%", "300", "10.0%", "yes"]
    for fact in (
        "2.300 ms",
        "9.200 ms",
        "4.600 ms",
        "2.000 ms",
        "3000 GB/s",
        "500 TFLOP/s",
        "A GPU",
        "580.1",
    ):
        assert fact in done.out


def test_json_holds_every_row_with_its_circumstances(cli, gpu):
    options = (
        "--model sid-lite --shape 64x96 --precision bf16 --json --kernel mffb.stage1 --no-compile --runs 7"
    )
    done = cli("bench", "kernels", *options.split())
    assert done.code == 0, done.err
    assert gpu.asked == [
        (("sid-lite", (64, 96), "bf16"), {"kernels": ["mffb.stage1"], "compiled": False, "runs": 7})
    ]
    rows = json.loads(done.out)
    assert [row["step"] for row in rows] == ["net.units.0.mffb.1", "net.conv1x1.0"]
    for row in rows:
        assert row["ceilings"] == asdict(CEILINGS) and row["sum_ms"]["kernel_ms"] == pytest.approx(2.3)
        assert FACTS.items() <= row.items() and row["frame_ms"]["median_ms"] == 2.0
        assert row["model"] == "sid-lite" and row["picture"] == "64x96" and row["verified"] is True
        assert row["command"].startswith("derain-engine") and row["date"].endswith("+00:00")


def test_what_differs_leaves_with_four_and_failed_rivals_are_told(cli, gpu):
    rows = (replace(ROW, compiled_ms=None, verified=False), OTHER)
    gpu.answer = replace(gpu.answer, rows=rows, frame_ms=None, failed="RuntimeError: no gcc")
    done = cli("bench", "kernels")
    assert done.code == 4 and "mffb.stage1 (net.units.0.mffb.1)" in done.err and "NO" in done.out
    assert "torch.compile failed and was left out: RuntimeError: no gcc" in done.err
    assert "torch.compile, launches" not in done.out and "one CUDA graph" not in done.out

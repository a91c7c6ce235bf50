from __future__ import annotations

import pytest

from derain_engine.bench.kernels import rig, tune
from derain_engine.bench.kernels.tune import Tuned, TuningResult
from derain_engine.kernels import tuned
from derain_engine.kernels.launch import LaunchConfig

BEST = LaunchConfig(8, 16, 64, 8, 2)
KEYS = (("mffb.stage2", 24, 0), ("dense.dense1x1", 32, 1), ("conv.conv3x3", 4, 2))
RESULTS = (
    Tuned(KEYS[0], 20, BEST, 0.0234, 0.0123, 41, 3, (LaunchConfig(8, 8, 16, 4, 2),)),
    Tuned(KEYS[1], 4, None, 0.0345, 0.0345, 40, 0, ()),
    Tuned(KEYS[2], 1, None, 0.0456, 0.0456, 1, 0, ()),
)


@pytest.fixture
def tuning(monkeypatch, tmp_path):
    """Stands for a GPU; notes what it is asked for."""
    asked = []

    def stand_in(request, progress):
        asked.append(request)
        progress("timing", 0.5)
        entries = (tuned.Entry(*KEYS[0], BEST, 0.0234, 0.0123),)
        size, made = request.shape, request.command
        about = ("A GPU", "sm_90", request.precision, "580.95.05", "13.0", "3.6.0")
        run = tuned.TuningRun(*about, size[0], size[1], "2026", made, entries)
        return TuningResult(RESULTS, run, tmp_path / "tuned.json")

    monkeypatch.setattr(rig, "unavailable", lambda: None)
    monkeypatch.setattr(tune, "tune_here", stand_in)
    return asked


def test_the_table_and_the_notes(cli, tuning):
    done = cli("kernels", "tune")
    assert done.code == 0
    (request,) = tuning
    assert (request.models, request.precision, request.shape) == ((), "fp16", (512, 512))
    assert (request.kernels, request.budget, request.output) == ((), 900, None)
    rows = [
        line.split() for line in done.out.splitlines() if line.strip().startswith(("mffb", "dense", "conv"))
    ]
    assert rows[0][:8] == ["mffb.stage2", "24", "0", "20", "0.0234", "0.0123", "41", "3"]
    assert " ".join(rows[0][8:]) == "8x16x64, 8 warps, 2 stages"
    assert rows[1][4:] == ["0.0345", "0.0345", "40", "0", "heuristic"]
    for fact in ("A GPU (sm_90)", "512x512", "580.95.05, CUDA 13.0", "3.6.0", "1 to ", "tuned.json", "fp16"):
        assert fact in done.out
    assert "mffb.stage2 of 24 channels is wrong in LaunchConfig(tile_h=8, tile_w=8" in done.err
    assert "1 of 3 kernels were not tried for want of time" in done.err


def test_options_are_passed_on(cli, tuning, tmp_path):
    options = (
        "--model sid --model x.pt --precision bf16 --shape 64x96 --kernel mffb.stage1 --kernel chain.chain"
    )
    done = cli("kernels", "tune", *options.split(), "--budget", "60", "-o", tmp_path / "t.json")
    assert done.code == 0, done.err
    (request,) = tuning
    assert (request.models, request.precision, request.shape) == (("sid", "x.pt"), "bf16", (64, 96))
    assert request.kernels == ("mffb.stage1", "chain.chain") and request.budget == 60
    assert request.output == tmp_path / "t.json"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shape", "512"], "not HxW"),
        (["--precision", "fp32"], "--precision"),
        (["--budget", "0"], "--budget"),
    ],
)
def test_bad_options_are_one_line_and_two(cli, tuning, options, message):
    done = cli("kernels", "tune", *options)
    assert done.code == 2 and message in done.err and not done.out and not tuning


def test_without_a_gpu_it_is_one_line_and_three(cli, monkeypatch):
    monkeypatch.setattr(rig, "unavailable", lambda: "The NVIDIA driver is not here.")
    done = cli("kernels", "tune")
    assert done.code == 3 and not done.out
    assert done.err.strip() == "derain-engine: The NVIDIA driver is not here."

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from derain_engine.bench import race
from derain_engine.bench.contestants import Contestant
from derain_engine.bench.kernels import ceilings
from derain_engine.bench.roofs import Roofs
from derain_engine.engine.backends.reference import ReferenceSession


@pytest.fixture(autouse=True)
def low_ceilings(monkeypatch):
    monkeypatch.setattr(ceilings, "_COPIED", {"cpu": 1 << 16})
    monkeypatch.setattr(ceilings, "_SIDE", {"cpu": 64})


@pytest.mark.slow
def test_engines_and_rivals_are_measured_and_verified_in_one_run(cli, engine_file, model):
    options = "--size 32x64 --size 33x40 --runs 4 --threads 1 --compare --no-starts --json".split()
    done = cli("bench", "engine", engine_file, "--model", model, *options)
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    assert [(r["name"], r["backend"], r["height"], r["width"]) for r in rows] == [
        (name, backend, *size)
        for size in ((32, 64), (33, 40))
        for name, backend in (
            (engine_file.name, "openvino"),
            ("PyTorch eager", "pytorch"),
            ("ONNX Runtime", "onnxruntime"),
        )
    ]
    for row in rows:
        assert row["verified"] is True and row["max_abs"] <= 1e-5
        assert (row["threads"], row["runs"], row["precision"]) == (1, 4, "fp32")
        assert 0 < row["median_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert min(row["open_ms"], row["first_ms"], row["frames_per_second"]) > 0
        assert row["backend_version"][0].isdigit() and row["command"].startswith("derain-engine")
        assert row["date"].endswith("+00:00") and row["environment"]["cpu"]["model"] == row["device"]
        assert row["cold_start_ms"] is row["peak_host_mb"] is row["device_mb"] is row["driver"] is None
        assert min(row["macs_per_pixel"], row["matmul_tflop_s"], row["copy_gb_s"]) > 0
        assert row["flop_per_byte"] is None, "the fused kernels do not know a network of 4 channels"


@pytest.mark.slow
def test_starts_are_those_of_new_processes(cli, engine_file):
    done = cli(
        "bench", "engine", str(engine_file), "--size", "32x64", "--runs", "1", "--threads", "1", "--json"
    )
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)
    assert row["cold_start_ms"] > row["open_ms"] + row["first_ms"], "the interpreter and imports are missing"
    assert row["warm_start_ms"] > 0 and 50 < row["peak_host_mb"] < 5000


def test_without_the_model_the_table_says_that_nothing_was_verified(cli, reference_file):
    done = cli("bench", "engine", str(reference_file), "--size", "32x32", "--runs", "1", "--no-starts")
    assert done.code == 0, done.err
    row = next(line for line in done.out.splitlines() if reference_file.name in line)
    assert row.rstrip().endswith("no model") and "reference fp32" in row and "32x32" in row
    for head in ("Median ms", "Frames/s", "Device", "Threads", "Versions", "Date", "Command"):
        assert head in done.out
    done = cli("bench", "engine", str(reference_file), "--compare")
    assert done.code == 2 and "give that model" in done.err


def test_a_wrong_output_is_shown_and_leaves_with_four(cli, reference_file, model, monkeypatch):
    right = ReferenceSession.run

    def wrong(self, batch, out=None):
        clean = right(self, batch, out)
        return clean if clean.dtype == np.uint8 else clean + np.float32(1e-3)

    monkeypatch.setattr(ReferenceSession, "run", wrong)
    options = "--size 32x32 --runs 1 --threads 1 --no-starts".split()
    done = cli("bench", "engine", reference_file, "--model", model, *options)
    assert done.code == 4 and f"{reference_file.name} at 32x32" in done.err
    assert "NO, 60.0 dB" in done.out


def test_another_networks_model_is_refused(cli, reference_file, model, tmp_path):
    from derain_engine.models.checkpoint import load_checkpoint, save_checkpoint

    network = load_checkpoint(model).network
    next(network.parameters()).data.mul_(1.01)
    save_checkpoint(tmp_path / "other.safetensors", network, "ssid-kd", metadata={})
    done = cli("bench", "engine", str(reference_file), "--model", str(tmp_path / "other.safetensors"))
    assert done.code == 4 and "other weights" in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "512"], "not HxW"),
        (["--size", "0x4"], "below 1"),
        (["--runs", "0"], "--runs"),
        (["--threads", "0"], "--threads"),
        (["--json", "--csv"], "exclude each other"),
        (["--onnx", "PReNet"], "not NAME=FILE"),
        (["--onnx", "a=b", "--onnx", "a=c"], "two ONNX files"),
    ],
)
def test_bad_options_are_one_line_and_two(cli, options, message):
    done = cli("bench", "engine", "x.derain", *options)
    assert done.code == 2 and message in done.err and not done.out


class Recorder:
    """Stands for an engine; notes its calls."""

    precision = "fp32"

    def __init__(self, name, mode, calls):
        self.name, self.mode, self.calls, self.closed = name, mode, calls, False

    def __call__(self, image):
        assert not self.closed and image.dtype == np.uint8
        self.calls.append((self.name, self.mode, int(image.sum())))
        return image

    def stream(self, images):
        return map(self, images)

    def close(self):
        self.closed = True


def test_contestants_take_turns_on_rotating_frames_and_are_closed(monkeypatch):
    calls, opened = [], []

    class Manifest:
        backend, backend_version, precision, weights_sha256 = "fake", "1", "fp32", "0"

    def contestant(name):
        def opener(mode):
            opened.append(Recorder(name, mode, calls))
            return opened[-1]

        opener.on_gpu = False  # pyright: ignore
        return Contestant(name, Manifest(), None, opener)  # pyright: ignore

    racing = race._Race([race._Racer(contestant(name)) for name in "ab"], (4, 5), runs=8, threads=1)
    rows = race._run(racing, starts=False, roofs=Roofs({}, {}))
    assert [row.name for row in rows] == ["a", "b"] and all(row.verified is None for row in rows)
    assert all(each.closed for each in opened) and len(opened) == 4
    timed = [call for call in calls if call[1] == "latency"][2 + 2 * race._WARM_UP :]
    assert [name for name, *_ in timed] == ["a", "b"] * 8
    frames = [total for name, _, total in timed if name == "a"]
    assert len(set(frames)) == race._INPUTS and frames == [t for name, _, t in timed if name == "b"]
    assert all(one != two for one, two in itertools.pairwise(frames))
    streamed = [name for name, mode, _ in calls if mode == "throughput"][2:]
    assert streamed == (["a"] * 3 + ["b"] * 3) * 3


def test_noise_is_the_difference_between_the_halves():
    assert race._noise(np.array([1.0, 1.0, 1.2, 1.2])) == pytest.approx(0.2)
    assert race._noise(np.array([3.0, 2.0, 3.0, 3.0, 2.0, 3.0])) == 0
    assert race._noise(np.array([1.0, 2.0, 3.0])) is None

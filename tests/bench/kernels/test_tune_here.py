from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest

from derain_engine.base.errors import CheckpointError, DerainError, InputError
from derain_engine.bench.contestants import find_networks
from derain_engine.bench.kernels import candidates, tune
from derain_engine.bench.kernels.tune import TuningRequest
from derain_engine.kernels import tuned
from derain_engine.kernels.launch import LaunchConfig
from derain_engine.kernels.record import heuristic
from derain_engine.models.ssid_kd import SSIDKD
from derain_engine.plan.memory import Memory

from ...plan.networks import strong
from .conftest import SMALL, Gpu

BEST = LaunchConfig(8, 8, 64, 4, 2)
OTHER = tuned.TuningRun(
    "Another",
    "sm_90",
    "fp16",
    "1",
    "13.0",
    "3.6.0",
    512,
    512,
    "2026",
    "made by hand",
    entries=(tuned.Entry("mffb.stage2", 16, 0, LaunchConfig(), 2.0, 1.0),),
)


@pytest.fixture
def request_(tmp_path) -> TuningRequest:
    return TuningRequest(
        (), "fp16", (32, 64), ("mffb.stage2",), 1000.0, tmp_path / "tuned.json", "the command"
    )


@pytest.fixture
def run(rig, cuda, cubin, monkeypatch):
    """Tunes a small network on the stand-in, where one configuration is fast."""
    monkeypatch.setattr(candidates, "TILES", ((8, 8),))
    monkeypatch.setattr(candidates, "STAGES", (2,))
    monkeypatch.setattr(tune, "RUNS", 2)
    monkeypatch.setattr(tune, "FINAL_RUNS", 4)
    monkeypatch.setattr(tune, "find_networks", lambda names: [strong(SMALL)])
    gpus = []

    def compile_each(wanted, dtype):
        return gpus[-1].compile_each(wanted, dtype)

    def run(request, set_up=lambda gpu: None, best=BEST):
        made = Memory.__init__

        def remember(self, *about):
            made(self, *about)
            gpus.append(Gpu(cuda, cubin, self))
            gpus[-1].ticks = lambda call: 4 if call.config == best else 10
            set_up(gpus[-1])

        with monkeypatch.context() as patch:
            patch.setattr(Memory, "__init__", remember)
            return tune.tune_here(
                request, rig=lambda: contextlib.nullcontext(rig), compile_each=compile_each, device="cpu"
            )

    return run


def test_what_gains_is_written_and_used_on_that_gpu_alone(run, request_):
    found = run(request_)
    assert {each.key for each in found.results} == {
        ("mffb.stage2", *at) for at in ((16, 0), (16, 1), (24, 2))
    }
    assert found.path == request_.output and tuned.load(found.path) == (found.run,)
    written = found.run
    assert (written.gpu, written.target, written.precision) == ("Stand-in 9000", "sm_90", "fp16")
    assert (written.height, written.width, written.command) == (32, 64, "the command")
    assert written.date.endswith("+00:00") and written.triton and written.cuda == "13.4"
    assert [(e.config, e.heuristic_ms, e.tuned_ms) for e in written.entries] == [(BEST, 5.5, 2.5)] * 3
    configure = tuned.configure_for("sm_90", "Stand-in 9000", path=found.path)
    assert configure("mffb.stage2", 24, 2) == BEST
    assert tuned.configure_for("sm_90", "NVIDIA H100", path=found.path) is heuristic


def test_other_gpus_stay_and_what_is_tried_again_is_replaced(run, request_):
    assert request_.output is not None
    old = replace(
        OTHER,
        gpu="Stand-in 9000",
        entries=(
            tuned.Entry("mffb.stage2", 24, 2, LaunchConfig(), 2.0, 1.0),
            tuned.Entry("conv.conv3x3", 4, 0, LaunchConfig(), 2.0, 1.0),
        ),
    )
    tuned.save((OTHER, old), request_.output)
    found = run(request_)
    assert tuned.load(request_.output) == (OTHER, replace(old, entries=old.entries[1:]), found.run)
    # Tuned again where nothing is faster any more, so that the heuristic's are the best.
    again = run(request_, best=heuristic("mffb.stage2", 16))
    assert again.run.entries == ()
    assert tuned.load(request_.output) == (OTHER, replace(old, entries=old.entries[1:]))


def test_an_interrupted_run_keeps_what_it_has(run, request_):
    def fail_at_the_end(gpu):
        ticks = gpu.ticks

        def tick(call):
            if call.constants["C"] == 24 and call.config == BEST:
                raise DerainError("the GPU is gone")
            return ticks(call)

        gpu.ticks = tick

    with pytest.raises(DerainError, match="gone"):
        run(request_, fail_at_the_end)
    (kept,) = tuned.load(request_.output)
    assert kept.entries and all(entry.channels == 16 for entry in kept.entries)


def test_nothing_gained_writes_nothing(run, request_):
    found = run(request_, best=None)
    assert found.run.entries == () and not found.path.exists()


def test_a_file_that_cannot_be_written_or_read_costs_no_work(run, request_, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"does not exist; create it first\.$"):
        run(replace(request_, output=tmp_path / "none" / "tuned.json"))
    monkeypatch.setattr(tuned, "DATA", tmp_path / "none" / "tuned.json")
    with pytest.raises(InputError, match=r"create it first\. Name a file to write with --out\.$"):
        run(replace(request_, output=None))
    (tmp_path / "tuned.json").write_text("{", "utf-8")
    with pytest.raises(InputError, match=r"tuned\.json are damaged"):
        run(request_)


def test_the_packages_file_is_the_default(run, request_, tmp_path, monkeypatch):
    monkeypatch.setattr(tuned, "DATA", tmp_path / "data.json")
    assert run(replace(request_, output=None)).path == tmp_path / "data.json"
    assert len(json.loads((tmp_path / "data.json").read_text("utf-8"))["runs"]) == 1


def test_networks_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    everything = find_networks()
    both = find_networks(["sid", "sid-lite"])
    assert [n.config for n in everything] == [n.config for n in both]  # pyright: ignore[reportAttributeAccessIssue]
    assert all(isinstance(network, SSIDKD) for network in both)
    with pytest.raises((CheckpointError, InputError), match="nothing"):
        find_networks(["nothing"])

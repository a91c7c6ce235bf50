from __future__ import annotations

import dataclasses
import json

import pytest

from derain_engine.kernels.aot import TARGETS, Compiled, distinct, pool
from derain_engine.models import weights
from derain_engine.models.checkpoint import save_checkpoint
from derain_engine.models.registry import create, spec_of
from derain_engine.models.ssid_kd import SSIDKDConfig

REGISTERS = 77


@pytest.fixture
def asked(monkeypatch):
    """Stands for the compiler; notes what it is asked for."""
    asked = []

    def compile_calls(calls, dtype, targets, *, jobs, progress):
        calls = distinct(calls)
        asked.append((calls, dtype, targets, jobs))
        progress("compiling kernels", 0.5)
        matrix = {"HMMA": 8}
        return [
            Compiled(
                call, dtype, target, b"cubin", "kernel", ("i32",), 4, 4096, REGISTERS, 0, matrix, "3.9.0"
            )
            for target in targets
            for call in calls
        ]

    monkeypatch.setattr(pool, "compile_calls", compile_calls)
    return asked


@pytest.fixture
def narrow(tmp_path):
    """Return a model of 8 and 16 channels."""
    path = tmp_path / "narrow.safetensors"
    network = create(spec_of("ssid-kd", SSIDKDConfig((8, 16, 8), (1, 1, 1))))
    save_checkpoint(path, network, "ssid-kd", metadata={})
    return path


def test_the_table_has_a_row_for_every_kernel_and_gpu(cli, asked, narrow):
    done = cli("kernels", "compile", "--model", narrow, "--precision", "bf16", "--jobs", "3")
    assert done.code == 0 and not done.err
    ((calls, dtype, targets, jobs),) = asked
    assert (dtype, tuple(targets), jobs) == ("bf16", TARGETS, 3)
    assert {call.constants["C"] for call in calls if "C" in call.constants} == {4, 8, 16, 32}
    kernels = {call.kernel for call in calls}
    assert {"mffb.stage2", "pffb.pyramid", "chain.chain", "dense.dense1x1", "pixels.frame_in"} <= kernels
    lines = done.out.splitlines()
    rows = [line.split() for line in lines if " sm_" in line]
    assert len(rows) == len(calls) * len(TARGETS)
    assert all(row[-6:] == ["4", "77", "4096", "0", "8", "HMMA"] for row in rows)
    assert any("mffb.stage2 C=16 SLOPE=0.2 tile=8x16x32" in line for line in lines)
    assert "pixels.frame_in BYTES tile=8x32x4" in done.out and "Spilled bytes" in done.out
    assert f"Kernels    {len(rows)}" in done.out and "3.9.0" in done.out and "bf16" in done.out


def test_json_and_cubins_hold_the_same(cli, asked, narrow, tmp_path):
    folder = tmp_path / "cubins"
    done = cli("kernels", "compile", "--model", narrow, "--gpu", "sm_90,sm_80", "--json", "-o", folder)
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    assert [row["target"] for row in rows] == ["sm_90"] * (len(rows) // 2) + ["sm_80"] * (len(rows) // 2)
    assert all(row["registers"] == REGISTERS and row["precision"] == "fp16" for row in rows)
    written = json.loads((folder / "kernels.json").read_text("utf-8"))
    assert [{name: row[name] for name in row if name != "file"} for row in written] == rows
    assert all((folder / row["file"]).read_bytes() == b"cubin" for row in written)


def test_presets_are_the_default_and_names_mean_them(cli, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("kernels", "compile", "--gpu", "sm_80").code == 0
    assert cli("kernels", "compile", "--gpu", "sm_80", "--model", "sid", "--model", "sid-lite").code == 0
    (everything, *_), (both, *_) = asked
    assert everything == both
    assert {call.constants["C"] for call in both if call.kernel == "mffb.stage1"} == {16, 24, 32, 48}
    assert set(weights.shipped_names()) == {"semi-derain-gan-small", "sid-lite"}


def test_faults_are_named_after_the_table_and_leave_with_one(cli, narrow, monkeypatch):
    def compile_calls(calls, dtype, targets, **_):
        kernels = [
            Compiled(call, dtype, "sm_80", b"", "kernel", (), 4, 0, 255, 16, {"HMMA": 1}, "3.9.0")
            for call in distinct(calls)
        ]
        return [dataclasses.replace(each, spilled=0) for each in kernels[5:]] + kernels[:5]

    monkeypatch.setattr(pool, "compile_calls", compile_calls)
    done = cli("kernels", "compile", "--model", narrow, "--gpu", "sm_80")
    assert done.code == 1 and "mffb.stage2" in done.out
    assert done.err.count("on sm_80 spills 16 bytes a thread") == 3 and "and 2 more" in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpu", "sm_75"], "sm_80, sm_86, sm_89, sm_90, sm_100, sm_120"),
        (["--model", "nothing"], "nothing is neither a file"),
        (["--precision", "fp8"], "--precision"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_bad_options_are_one_line_and_two(cli, asked, options, message):
    done = cli("kernels", "compile", *options)
    assert done.code == 2 and message in done.err and not done.out and not asked


def test_a_network_that_the_kernels_do_not_know_is_refused(cli, asked, model):
    done = cli("kernels", "compile", "--model", model)
    assert done.code == 2 and "4 channels" in done.err and not asked


def test_a_folder_that_cannot_be_made_costs_no_work(cli, asked, narrow, tmp_path):
    (tmp_path / "file").write_text("")
    done = cli("kernels", "compile", "--model", narrow, "-o", tmp_path / "file")
    assert done.code == 2 and "cannot be made" in done.err and not asked


def test_without_triton_the_extra_is_named(cli, monkeypatch):
    monkeypatch.setattr(pool.importlib.util, "find_spec", lambda name: None)
    done = cli("kernels", "compile")
    assert done.code == 3 and "pip install 'derain-engine[build,triton]'" in done.err


def test_current_needs_a_gpu(cli, asked, monkeypatch):
    from derain_engine.base.errors import BackendUnavailable
    from derain_engine.device import driver

    def none(index):
        raise BackendUnavailable("no GPU")

    monkeypatch.setattr(driver, "gpu", none)
    done = cli("kernels", "compile", "--gpu", "current")
    assert done.code == 3 and "no GPU" in done.err and not asked


@pytest.mark.slow
def test_cubins_are_compiled_and_shown(cli, narrow, tmp_path, monkeypatch):
    def compile_some(calls, *about, **more):
        return compile_calls(list(calls)[:2], *about, **more)

    compile_calls = pool.compile_calls
    monkeypatch.setattr(pool, "compile_calls", compile_some)
    done = cli("kernels", "compile", "--model", narrow, "--gpu", "sm_89", "-o", tmp_path)
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines() if " sm_89 " in line]
    assert [row[0] for row in rows] == ["resample.bilinear", "conv.conv3x3"]
    assert rows[0][-1] == "none" and rows[1][-1] == "HMMA" and rows[1][-3] == "0"
    assert [path.read_bytes()[:4] for path in tmp_path.rglob("*.cubin")] == [b"\x7fELF"] * 2


def test_kernels_are_cut_as_was_measured_for_each_gpu(cli, asked, narrow, tmp_path, monkeypatch):
    from derain_engine.kernels import tuned
    from derain_engine.kernels.launch import LaunchConfig

    best = LaunchConfig(16, 16, 64, 8, 2)
    entry = tuned.Entry("mffb.stage1", 16, 1, best, 2.0, 1.0)
    about = ("580.1", "13.0", "3.6.0", 512, 512, "2026", "kernels tune")
    monkeypatch.setattr(tuned, "DATA", tmp_path / "tuned.json")
    tuned.save([tuned.TuningRun("A GPU", "sm_90", "fp16", *about, entries=(entry,))], tuned.DATA)
    done = cli("kernels", "compile", "--model", narrow, "--gpu", "sm_89,sm_90,sm_80", "--json")
    assert done.code == 0, done.err
    assert [targets for _, _, targets, _ in asked] == [["sm_89", "sm_80"], ["sm_90"]]
    for calls, _, targets, _ in asked:
        cuts = {call.config for call in calls if call.kernel == "mffb.stage1" and call.constants["C"] == 16}
        assert (best in cuts) == (targets == ["sm_90"])
    rows = json.loads(done.out)
    assert list(dict.fromkeys(row["target"] for row in rows)) == ["sm_89", "sm_90", "sm_80"]
    tuned.DATA.write_text("{}", "utf-8")
    done = cli("kernels", "compile", "--model", narrow)
    assert done.code == 2 and "tuned.json are damaged" in done.err

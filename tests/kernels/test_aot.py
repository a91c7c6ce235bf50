from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from derain_engine.base.errors import BuildError, InputError
from derain_engine.device.module import Arguments, cubin_target
from derain_engine.kernels import conv, dense, mffb, resample
from derain_engine.kernels.aot import (
    TARGETS,
    Compiled,
    compile_call,
    distinct,
    parse_targets,
    picture_calls,
    specialisation,
    video_calls,
    write_cubins,
)
from derain_engine.kernels.aot.pool import compile_calls, compile_each
from derain_engine.kernels.launch import Call, LaunchConfig
from derain_engine.kernels.record import heuristic

ROOT = Path(__file__).resolve().parents[2]
CONV = conv.conv3x3_call(16, 1, 16, LaunchConfig())
RESIZE = resample.bilinear_call(16, 4, heuristic("resample.bilinear", 16))
#: What Triton makes of a product of matrices that is large enough for the units of its GPU.
MATRIX = {"sm_90": "HGMMA", "sm_100": "UTCHMMA"}


@pytest.fixture(scope="module")
def few() -> list[Compiled]:
    frames = [call for call in picture_calls() if not call.constants["PLANAR"] and not call.constants["BGR"]]
    calls = [CONV, RESIZE, dense.dense1x1_call(24, LaunchConfig(), True), *frames, *video_calls()]
    return compile_calls(calls, "fp16", ["sm_80", "sm_90"])


def test_kernels_are_compiled_without_spills_and_with_matrix_instructions(few):
    assert [(each.target, each.call.kernel) for each in few] == [
        (target, kernel)
        for target in ("sm_80", "sm_90")
        for kernel in (
            "conv.conv3x3",
            "resample.bilinear",
            "dense.dense1x1",
            "pixels.frame_in",
            "pixels.frame_in",
            "pixels.frame_out",
            "pixels.frame_out",
            "pixels_nv12.nv12_in",
            "pixels_nv12.nv12_in",
            "pixels_nv12.nv12_out",
            "pixels_nv12.nv12_out",
        )
    ]
    for each in few:
        assert each.faults() == [] and each.spilled == 0
        assert each.warps == each.call.config.warps and 16 <= each.registers <= 255
        assert cubin_target(each.cubin, "a cubin") == each.target
        assert each.symbol.encode() in each.cubin
        multiplies = each.call.kernel in ("conv.conv3x3", "dense.dense1x1")
        assert (MATRIX.get(each.target, "HMMA") in each.matrix) == bool(each.matrix) == multiplies
        assert (each.shared > 0) == multiplies


def test_arguments_are_typed_by_their_records(few):
    scratch = ("*u8", "*u8")
    by_kernel = {
        (each.call.kernel, each.call.constants.get("BYTES", each.call.constants.get("BITS"))): each.arguments
        for each in few
    }
    maps = "*fp16"
    assert by_kernel == {
        ("conv.conv3x3", None): (maps, maps, "*fp32", *[maps] * 3, "i32", "i32", *scratch),
        ("resample.bilinear", None): (maps, maps, *["i32"] * 4, *scratch),
        ("dense.dense1x1", None): (maps, maps, "*fp32", maps, maps, *["i32"] * 3, *scratch),
        ("pixels.frame_in", True): ("*u8", maps, *["i32"] * 4, *scratch),
        ("pixels.frame_in", False): ("*fp32", maps, *["i32"] * 4, *scratch),
        ("pixels.frame_out", True): ("*u8", maps, "*u8", *["i32"] * 3, *scratch),
        ("pixels.frame_out", False): ("*fp32", maps, "*fp32", *["i32"] * 3, *scratch),
        ("pixels_nv12.nv12_in", 8): ("*u8", "*u8", maps, *["i32"] * 6, *scratch),
        ("pixels_nv12.nv12_in", 10): ("*u16", "*u16", maps, *["i32"] * 6, *scratch),
        ("pixels_nv12.nv12_out", 8): ("*u8", "*u8", maps, "*u8", "*u8", *["i32"] * 8, *scratch),
        ("pixels_nv12.nv12_out", 10): ("*u16", "*u16", maps, "*u16", "*u16", *["i32"] * 8, *scratch),
    }
    for arguments in by_kernel.values():
        assert Arguments(arguments, [0] * len(arguments)).sizes == tuple(
            8 if kind.startswith("*") else 4 for kind in arguments
        )


@pytest.mark.slow
def test_bf16_uses_matrix_instructions_and_fp32_none():
    (half,) = compile_calls([CONV], "bf16", ["sm_80"], jobs=1)
    (whole,) = compile_calls([CONV], "fp32", ["sm_80"], jobs=1)
    assert half.faults() == whole.faults() == [] and set(half.matrix) == {"HMMA"} and whole.matrix == {}
    assert half.arguments[:3] == ("*bf16", "*bf16", "*fp32") and whole.arguments[:3] == ("*fp32",) * 3


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes_wherever_the_package_lies(few, tmp_path):
    package = tmp_path / "elsewhere" / "derain_engine"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kernels", package / "kernels", ignore=ignored)
    shutil.copytree(ROOT / "base", package / "base", ignore=ignored)
    (package / "__init__.py").touch()
    program = f"""
import sys
sys.path.insert(0, {str(package.parent)!r})
from derain_engine.kernels import aot, conv
from derain_engine.kernels.launch import LaunchConfig
assert aot.__file__.startswith({str(package)!r}), aot.__file__
sys.stdout.buffer.write(aot.compile_call(conv.conv3x3_call(16, 1, 16, LaunchConfig()), "fp16", "sm_90").cubin)
"""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    (here,) = (each for each in few if (each.call, each.target) == (CONV, "sm_90"))
    assert done.stdout == here.cubin


def test_no_path_of_this_machine_is_in_a_cubin(few):
    for each in few:
        for path in (ROOT, Path.home(), Path(sys.prefix), "/tmp", ".py", ".ptx"):
            assert str(path).encode() not in each.cubin


def test_cubins_are_written_with_what_they_are(few, tmp_path):
    write_cubins(few, tmp_path / "new" / "cubins")
    rows = json.loads((tmp_path / "new" / "cubins" / "kernels.json").read_text("utf-8"))
    assert len({row["file"] for row in rows}) == len(rows) == len(few)
    for row, each in zip(rows, few, strict=True):
        assert (tmp_path / "new" / "cubins" / row["file"]).read_bytes() == each.cubin
        assert row["file"].startswith(f"{each.target}/{each.call.kernel}-fp16-")
        assert row == {"file": row["file"], **each.to_json()}
        assert row["constants"]["TILE_W"] == each.call.config.tile_w
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        write_cubins(few, tmp_path / "file")


def test_faults_are_told_in_words(few):
    good = few[0]
    assert good.call.kernel == "conv.conv3x3" and good.target == "sm_80"

    def faults(**changes):
        return dataclasses.replace(good, **changes).faults()

    assert faults(spilled=8) == ["spills 8 bytes a thread"]
    assert faults(matrix={}) == ["multiplies matrices without matrix instructions"]
    assert faults(matrix={}, dtype="fp32") == faults(matrix={}, call=RESIZE) == []
    assert faults(shared=120 << 10) == []
    assert faults(shared=120 << 10, target="sm_89") == ["needs 122880 bytes of shared memory of 101376"]
    assert faults(shared=120 << 10, target="sm_121") == []


def test_one_specialisation_is_compiled_once():
    larger = resample.bilinear_call(16, 6, heuristic("resample.bilinear", 16))
    tiled = dataclasses.replace(CONV, config=LaunchConfig(tile_w=32))
    staged = dataclasses.replace(CONV, config=LaunchConfig(stages=2))
    assert specialisation(larger) == specialisation(RESIZE)
    assert distinct([CONV, RESIZE, larger, tiled, CONV, staged]) == [CONV, RESIZE, tiled, staged]
    assert len(distinct(picture_calls())) == len(picture_calls()) == 16


def test_gpus_are_named_one_by_one_or_together():
    assert parse_targets("all") == TARGETS == ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
    assert parse_targets("sm_90, sm_80,sm_90") == ("sm_90", "sm_80")
    assert parse_targets("current", "sm_121") == ("sm_121",)
    with pytest.raises(InputError, match=r"no GPU.*current.*sm_80, sm_86"):
        parse_targets("current")


@pytest.mark.parametrize("text", ["", "sm_75", "sm_80,", "90", "all,sm_80", "sm_90a"])
def test_unknown_gpus_are_refused_with_the_known_ones(text):
    with pytest.raises(InputError, match="sm_80, sm_86, sm_89, sm_90, sm_100, sm_120"):
        parse_targets(text)


@pytest.mark.parametrize(
    ("call", "dtype", "target", "message"),
    [
        (CONV, "fp8", "sm_80", "not in fp8 for sm_80"),
        (CONV, "fp16", "hopper", "for hopper"),
        (Call("conv.conv7x7", {}, LaunchConfig()), "fp16", "sm_80", "no kernel conv.conv7x7"),
        (Call("convolution.conv3x3", {}, LaunchConfig()), "fp16", "sm_80", "no kernel convolution.conv3x3"),
    ],
)
def test_what_cannot_be_meant_is_refused(call, dtype, target, message):
    with pytest.raises(InputError, match=message):
        compile_call(call, dtype, target)


def test_the_compilers_errors_name_kernel_constants_and_gpu():
    wrong = dataclasses.replace(CONV, config=LaunchConfig(block_k=48))
    told = []
    with pytest.raises(BuildError, match=r"conv\.conv3x3 C=16 .*BLOCK_K=48.* fp16 for sm_90 .*power of 2"):
        compile_calls([wrong], "fp16", ["sm_90"], jobs=1, progress=lambda *about: told.append(about))
    assert told == [("compiling kernels", 0.0)]


def test_one_that_fails_does_not_end_the_others():
    wrong = dataclasses.replace(CONV, config=LaunchConfig(block_k=48))
    wanted = [(wrong, "sm_90"), (RESIZE, "sm_80"), (wrong, "sm_80"), (RESIZE, "sm_90")]
    answers = {(call.kernel, target): answer for call, target, answer in compile_each(wanted, "fp16", jobs=1)}
    assert len(answers) == 4
    for (kernel, target), answer in answers.items():
        if kernel == "conv.conv3x3":
            assert isinstance(answer, BuildError) and f"for {target}" in str(answer)
        else:
            assert isinstance(answer, Compiled) and (answer.call, answer.target) == (RESIZE, target)


def test_a_compiler_that_dies_is_followed_by_another(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho $$ >> "${0%/*}/started"\nkill -KILL $$\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))
    wanted = [(CONV, "sm_80"), (RESIZE, "sm_80"), (CONV, "sm_90")]
    answers = [answer for *_, answer in compile_each(wanted, "fp16", jobs=1)]
    assert [isinstance(answer, BuildError) and "exit code -9" in str(answer) for answer in answers] == [
        True
    ] * 3
    assert len((tmp_path / "started").read_text().split()) == 3


def test_a_compiler_that_dies_is_an_error_of_its_kernel(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'LLVM ERROR: out of registers' >&2\nkill -ABRT $$\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(BuildError, match=r"conv\.conv3x3 .*for sm_80 .*exit code -6: LLVM ERROR: out of"):
        compile_calls([CONV], "fp16", ["sm_80"])


@pytest.mark.slow
def test_every_kernel_of_sid_is_sound_on_hopper():
    from derain_engine.models.registry import create, spec_of
    from derain_engine.models.ssid_kd import PRESETS
    from derain_engine.plan import lower

    compiled = compile_calls(lower(create(spec_of("ssid-kd", PRESETS["sid"]))).calls(), "fp16", ["sm_90"])
    assert len(compiled) > 30
    assert [(each.call, fault) for each in compiled for fault in each.faults()] == []
    for each in compiled:
        # The last convolution has eight columns, which Triton 3.6 multiplies by HMMA.
        if each.call.constants.get("N0", 0) >= 16:
            assert "HGMMA" in each.matrix, each.call


@pytest.mark.slow
def test_the_largest_kernels_are_sound_on_every_gpu():
    others = [target for target in TARGETS if target != "sm_90"]
    calls = [
        mffb.stage2_call(48, heuristic("mffb.stage2", 48)),
        mffb.stage2_call(32, heuristic("mffb.stage2", 32)),
        conv.conv3x3_call(24, 10, 32, heuristic("conv.conv3x3", 24), True),
    ]
    compiled = compile_calls(calls, "fp16", others)
    assert len(compiled) == len(calls) * len(others)
    assert [(each.call, fault) for each in compiled for fault in each.faults()] == []
    for each in compiled:
        assert MATRIX.get(each.target, "HMMA") in each.matrix, each.call

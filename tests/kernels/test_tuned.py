from __future__ import annotations

import json
from dataclasses import replace

import pytest

from derain_engine.base.errors import InputError
from derain_engine.kernels import tuned
from derain_engine.kernels.launch import LaunchConfig
from derain_engine.kernels.record import heuristic
from derain_engine.kernels.tuned import Entry, TuningRun, configure_for, load, merge, save

FAST, OTHER = LaunchConfig(16, 16, 64, 8, 2), LaunchConfig(4, 16, 16, 4, 4)
STAGE = ("mffb.stage2", 24, 0)
RUN = TuningRun(
    gpu="A",
    target="sm_90",
    precision="fp16",
    driver="580.1",
    cuda="13.0",
    triton="3.6.0",
    height=512,
    width=512,
    date="2026-01-01T00:00:00+00:00",
    command="derain-engine kernels tune",
    entries=(Entry(*STAGE, FAST, 2.0, 1.0), Entry("conv.conv3x3", 4, 1, OTHER, 0.5, 0.25)),
)


@pytest.fixture
def path(tmp_path):
    save((RUN,), tmp_path / "tuned.json")
    return tmp_path / "tuned.json"


def test_the_package_comes_with_a_file_that_can_be_read():
    assert all(run.entries for run in load())
    assert json.loads(tuned.DATA.read_text("utf-8"))["format"] == tuned.FORMAT


def test_entries_are_used_for_their_kernel_channels_and_level_alone(path):
    configure = configure_for("sm_90", "A", path=path)
    assert configure(*STAGE) == FAST and configure("conv.conv3x3", 4, 1) == OTHER
    for other in (("mffb.stage1", 24, 0), ("mffb.stage2", 32, 0), ("mffb.stage2", 24, 1)):
        assert configure(*other) == heuristic(*other)


@pytest.mark.parametrize(
    ("target", "gpu", "precision"),
    [("sm_90", "B", "fp16"), ("sm_80", "A", "fp16"), ("sm_90", "A", "bf16"), ("sm_80", None, "fp16")],
)
def test_another_gpus_or_precisions_entries_are_never_used(path, target, gpu, precision):
    assert configure_for(target, gpu, precision, path) is heuristic


def test_driver_cuda_triton_size_and_date_are_soft(path):
    newer = replace(RUN, driver="999.9", cuda="14.0", triton="4.0.0", height=64, date="2030")
    save((newer,), path)
    assert configure_for("sm_90", "A", path=path)(*STAGE) == FAST


def test_without_a_name_what_all_gpus_of_the_target_agree_on_is_used(path):
    twin = replace(RUN, gpu="B", entries=(RUN.entries[0], replace(RUN.entries[1], config=FAST)))
    save((RUN, twin, replace(twin, target="sm_80", entries=(Entry(*STAGE, OTHER, 2.0, 1.0),))), path)
    configure = configure_for("sm_90", path=path)
    assert configure(*STAGE) == FAST
    assert configure("conv.conv3x3", 4, 1) == heuristic("conv.conv3x3", 4)
    assert configure_for("sm_90", "B", path=path)("conv.conv3x3", 4, 1) == FAST


def test_what_was_saved_comes_back_and_the_last_run_counts(path):
    assert load(path) == (RUN,)
    later = replace(RUN, date="2027", entries=(Entry(*STAGE, OTHER, 2.0, 0.9),))
    save((RUN, later), path)
    assert load(path) == (RUN, later) and configure_for("sm_90", "A", path=path)(*STAGE) == OTHER


def test_merging_replaces_what_was_tried_on_that_gpu_and_nothing_else():
    others = (replace(RUN, gpu="B"), replace(RUN, target="sm_80"), replace(RUN, precision="bf16"))
    new = replace(RUN, date="2027", entries=(Entry(*STAGE, OTHER, 2.0, 0.9),))
    merged = merge((*others, RUN), new, {STAGE})
    assert merged == (*others, replace(RUN, entries=RUN.entries[1:]), new)
    nothing_gained = replace(new, entries=())
    assert merge((*others, RUN), nothing_gained, {STAGE}) == (*others, replace(RUN, entries=RUN.entries[1:]))
    assert merge((RUN,), nothing_gained, {entry.key for entry in RUN.entries}) == ()
    assert merge((), new, {STAGE}) == (new,)


def damaged(data, *steps):
    *steps, value = steps
    at = data
    for step in steps[:-1]:
        at = at[step]
    at[steps[-1]] = value
    return data


ENTRY = ("runs", 0, "entries", 0)


@pytest.mark.parametrize(
    "change",
    [
        ("format", 2),
        ("runs", 7),
        ("runs", 0, []),
        ("runs", 0, "gpu", 7),
        ("runs", 0, "more", "x"),
        (*ENTRY, "kernel", 7),
        (*ENTRY, "level", "0"),
        (*ENTRY, "channels", None),
        (*ENTRY, "tuned_ms", 0),
        (*ENTRY, "config", {"tile": 1}),
        (*ENTRY, "config", "tile_h", 12),
        (*ENTRY, "config", "tile_w", 256),
        (*ENTRY, "config", "tile_w", 16.0),
        (*ENTRY, "config", "block_k", 128),
        (*ENTRY, "config", "warps", 64),
        (*ENTRY, "config", "stages", 0),
        (*ENTRY, "kernel", "pffb.pyramid"),
    ],
    ids=str,
)
def test_a_damaged_file_is_named(path, change):
    data = damaged(json.loads(path.read_text("utf-8")), *change)
    if change[-1] == "pffb.pyramid":
        data = damaged(data, *ENTRY, "config", "tile_h", 8)
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(InputError, match=r"tuned\.json are damaged"):
        configure_for("sm_90", path=path)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"null", b'{"format": 1}'])
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"tuned\.json are damaged"):
        load(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json cannot be read: No such file"):
        load(tmp_path / "none.json")

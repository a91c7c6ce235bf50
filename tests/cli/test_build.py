"""The verbs build, inspect, verify and unpack: what they make and print, and what they refuse."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from derain_engine.engine import verify

Cli = Callable[..., Any]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Make an existing file that a failing command must leave alone."""
    path = tmp_path / "kept.derain"
    path.write_bytes(b"precious")
    return path


@pytest.fixture
def newer(reference_file: Path, tmp_path: Path) -> Path:
    """Make a sound engine file but for the number of its format."""
    data = reference_file.read_bytes()
    start = data.index(b"{")
    end = data.index(b"\n}\n", start) + 3
    old = data[start:end]
    new = old.replace(b'"format": 1', b'"format": 9')
    assert new != old
    data = data.replace(old, new)
    data = data.replace(struct.pack("<I", zlib.crc32(old)), struct.pack("<I", zlib.crc32(new)))
    path = tmp_path / "newer.derain"
    path.write_bytes(data)
    return path


@pytest.fixture
def damaged(reference_file: Path, tmp_path: Path) -> Path:
    data = bytearray(reference_file.read_bytes())
    data[len(data) // 2] ^= 1
    path = tmp_path / "damaged.derain"
    path.write_bytes(data)
    return path


def test_build_prints_a_report_card(cli: Cli, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.derain"
    arguments = ("--backend", "reference", "--shape", "50x64", "--option", "pyramid=maxpool")
    done = cli("build", model, "-o", file, *arguments)
    assert (done.code, done.err) == (0, "")
    for words in ("small (ssid-kd)", "maxpool", "fp32", "reference", "27,183", "ms at 64x64", str(file)):
        assert words in done.out
    facts = json.loads(cli("inspect", file, "--json").out)
    assert facts["config"]["pyramid"] == "maxpool"
    done = cli("verify", file, model)
    assert done.code == 0
    # Threads may sum in another order, and a value between two levels then rounds the other way.
    assert any(f"{levels} of 255" in done.out for levels in (0, 1))


@pytest.mark.slow
def test_an_engine_of_one_size_takes_frames_of_that_padded_size_only(
    cli: Cli, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "one.derain"
    assert cli("build", model, "-o", file, "--precision", "fp32", "--shape", "50x64").code == 0
    facts = json.loads(cli("inspect", file, "--json").out)
    assert facts["backend"] == "openvino"
    assert facts["input"]["size"] == [64, 64]
    assert 0 < facts["verification"]["max_abs"] <= 1e-4
    assert cli("verify", file, model).code == 0

    pixels = np.random.default_rng(0).integers(0, 256, (70, 60, 3), np.uint8)
    Image.fromarray(pixels[:60]).save(tmp_path / "fits.png")
    Image.fromarray(pixels).save(tmp_path / "larger.png")
    assert cli("run", tmp_path / "fits.png", "-o", tmp_path / "a.png", "-e", file).code == 0
    done = cli("run", tmp_path / "larger.png", "-o", tmp_path / "b.png", "-e", file)
    assert done.code == 2
    assert "larger.png" in done.err
    assert not (tmp_path / "b.png").exists()


def test_a_miss_exits_4_and_writes_nothing_unless_accepted(
    cli: Cli, model: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "FP32_MAX_ABS", -1.0)
    arguments = ("build", model, "-o", kept, "--backend", "reference", "--shape", "32x32")
    done = cli(*arguments)
    assert done.code == 4
    assert "max-abs" in done.err
    assert done.out == ""
    assert kept.read_bytes() == b"precious"
    done = cli(*arguments, "--accept", "max-abs")
    assert done.code == 0
    assert "Missed" in done.out
    assert kept.read_bytes() != b"precious"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--precision", "int4"], "no precision 'int4'"),
        (["--backend", "abacus"], "no backend 'abacus'"),
        (["--shape", "64"], "not HxW"),
        (["--option", "pyramid"], "not NAME=VALUE"),
        (["--option", "pyramid=a", "--option", "pyramid=b"], "twice"),
        (["--option", "pyramid=stairs"], "stairs"),
        (["--option", "weather=rain"], "weather"),
        (["--accept", "everything"], "no check 'everything'"),
        (["--colour-order", "grb"], "grb"),
        (["--colour", "rgb"], "--colour"),
    ],
)
def test_options_that_cannot_be_are_refused(
    cli: Cli, model: Path, kept: Path, arguments: list[str], words: str
) -> None:
    done = cli("build", model, "-o", kept, *arguments)
    assert done.code == 2
    assert words in done.err
    assert done.err.startswith("derain-engine: ")
    assert done.err.count("\n") == 1
    assert kept.read_bytes() == b"precious"


def test_files_that_are_no_models_are_refused(
    cli: Cli, reference_file: Path, kept: Path, tmp_path: Path
) -> None:
    text = tmp_path / "notes.pt"
    text.write_text("the weights are elsewhere\n" * 20)
    for bad in (text, reference_file, tmp_path, tmp_path / "missing.pt"):
        done = cli("build", bad, "-o", kept)
        assert done.code == 2, done.err
        assert str(bad) in done.err
        assert kept.read_bytes() == b"precious"


def test_outputs_that_cannot_be_written_are_refused_before_the_work(
    cli: Cli, model: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("derain_engine.engine.build.load_model", None)
    copy = tmp_path / "copy.safetensors"
    shutil.copy(model, copy)
    for output in (tmp_path / "missing" / "x.derain", kept / "x.derain", tmp_path):
        done = cli("build", copy, "-o", output)
        assert done.code == 2, done.err
        assert str(output) in done.err
    done = cli("build", copy, "-o", copy)
    assert done.code == 2
    assert "the model itself" in done.err
    assert copy.read_bytes() == model.read_bytes()
    assert kept.read_bytes() == b"precious"


@pytest.mark.parametrize("verb", ["inspect", "verify", "unpack", "run"])
def test_reference_files_that_are_not_sound_are_refused(
    cli: Cli, newer: Path, damaged: Path, tmp_path: Path, verb: str
) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    for bad, words in ((newer, "newer"), (damaged, "damaged")):
        arguments = {
            "unpack": (bad, "-o", tmp_path / "parts"),
            "run": (picture, "-o", tmp_path / "clean.png", "-e", bad),
        }.get(verb, (bad,))
        done = cli(verb, *arguments)
        assert done.code == 2
        assert bad.name in done.err
        assert words in done.err
        assert done.err.count("\n") == 1
    assert not (tmp_path / "parts").exists()
    assert not (tmp_path / "clean.png").exists()


def test_inspect_tells_engine_and_model_apart_by_content(
    cli: Cli, reference_file: Path, model: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "thing.bin"
    shutil.copy(reference_file, renamed)
    engine, network = (json.loads(cli("inspect", file, "--json").out) for file in (renamed, model))
    assert (engine["kind"], network["kind"]) == ("engine", "model")
    assert engine["weights_sha256"] == network["weights_sha256"]
    assert network["parameters"] == 27183
    assert network["config"]["channels"] == [4, 4, 4]
    assert network["metadata"] == {"made": "for a test"}
    done = cli("inspect", model)
    assert "config.channels" in done.out
    assert "4, 4, 4" in done.out


def test_verify_knows_other_weights_and_a_miss(
    cli: Cli, reference_file: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    from derain_engine.models.checkpoint import load_checkpoint, save_checkpoint

    network = load_checkpoint(model).network
    next(network.parameters()).data[0] += 1
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, network, "ssid-kd", metadata={})
    assert safetensors.torch.load_file(other).keys() == safetensors.torch.load_file(model).keys()
    done = cli("verify", reference_file, other)
    assert done.code == 4
    assert "other weights" in done.err
    done = cli("verify", reference_file)
    assert done.code == 2
    assert "small" in done.err

    monkeypatch.setattr(verify, "FP32_MAX_ABS", -1.0)
    done = cli("verify", reference_file, model)
    assert done.code == 4
    assert "Missed" in done.out
    assert "max-abs" in done.err


def test_unpack_names_the_files_it_wrote_and_leaves_full_folders_alone(
    cli: Cli, reference_file: Path, tmp_path: Path
) -> None:
    done = cli("unpack", reference_file, "-o", tmp_path / "parts")
    assert done.code == 0
    names = [Path(line) for line in done.out.splitlines()]
    assert {name.name for name in names} == {"manifest.json", "reference.safetensors"}
    assert all(name.is_file() for name in names)
    done = cli("unpack", reference_file, "-o", tmp_path / "parts")
    assert done.code == 2
    assert "parts" in done.err

"""The verb run: pictures in, pictures out, and every way it can end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import derain_engine
from derain_engine.engine import shipped
from derain_engine.models import weights

Cli = Callable[..., Any]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Make a folder with two good pictures and one that is cut short between them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / name)
    cut = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(cut[: len(cut) // 2])
    return folder


def test_one_picture_is_what_the_engine_makes_of_it(
    cli: Cli, engine_file: Path, photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "clean [1].png"
    done = cli("run", photos / "a.png", "-o", output, "-e", engine_file, "--threads", 1)
    assert (done.code, done.out, done.err) == (0, "", "")
    pixels = np.asarray(Image.open(photos / "a.png"))
    with derain_engine.load(engine_file, threads=1) as engine:
        expected = engine(pixels)
    assert np.array_equal(np.asarray(Image.open(output)), expected)
    assert not np.array_equal(expected, pixels)

    both = tmp_path / "both.png"
    assert cli("run", photos / "a.png", "-o", both, "-e", engine_file, "--side-by-side").code == 0
    assert Image.open(both).size == (100, 40)


def test_a_folder_with_an_unreadable_picture_is_finished_and_exits_5(
    cli: Cli, engine_file: Path, photos: Path, tmp_path: Path
) -> None:
    done = cli("run", photos, "-o", tmp_path / "clean", "-e", engine_file)
    assert done.code == 5
    first, last = done.err.splitlines()
    assert "b.png" in first
    assert "1 of 3" in last
    assert sorted(path.name for path in (tmp_path / "clean").iterdir()) == ["a.png", "c.png"]


def test_when_no_picture_can_be_read_it_exits_2(
    cli: Cli, engine_file: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "a.png").write_bytes(b"")
    (photos / "c.png").write_text("a picture")
    done = cli("run", photos, "-o", tmp_path / "clean", "-e", engine_file)
    assert done.code == 2
    assert "3 of 3" in done.err
    done = cli("run", photos / "a.png", "-o", tmp_path / "clean.png", "-e", engine_file)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "a.png is empty" in done.err


def test_what_cannot_be_is_refused_before_the_engine_is_loaded(
    cli: Cli, photos: Path, tmp_path: Path
) -> None:
    picture = photos / "a.png"
    before = picture.read_bytes()
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ((picture, "-o", picture), "is the input"),
        ((tmp_path / "empty", "-o", tmp_path / "out"), "no pictures"),
        ((tmp_path / "missing.png", "-o", tmp_path / "x.png"), "does not exist"),
        ((picture, "-o", tmp_path / "missing" / "x.png"), "does not exist"),
        ((picture, "-o", picture / "x.png"), "does not exist"),
        ((photos, "-o", picture), "one file"),
        ((picture, "-o", tmp_path / "x.xyz"), ".png"),
        ((picture, "-o", tmp_path / "x.png", "--tile", "many"), "--tile"),
        ((picture, "-o", tmp_path / "x.jpg", "--quality", 101), "--quality"),
        ((picture, "-o", tmp_path / "x.png", "--side-by-side", "--rain-layer"), "exclude"),
        ((picture, "-o", tmp_path / "x.png", "-e", tmp_path / "no.derain"), "no.derain"),
    ):
        done = cli("run", *arguments)
        assert done.code == 2, done.err
        assert words in done.err
        assert done.err.count("\n") == 1
    assert picture.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "photos"]


def test_a_shipped_engine_is_built_once_and_anew_when_damaged(
    cli: Cli,
    model: Path,
    engine_file: Path,
    photos: Path,
    own_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = []

    def build(source: Path, output: Path, **_: object) -> None:
        built.append(source)
        output.write_bytes(engine_file.read_bytes())

    monkeypatch.setattr(weights, "_FOLDER", model.parent)
    monkeypatch.setattr(shipped.build, "build", build)
    arguments = ("run", photos / "a.png", "-o", tmp_path / "clean.png", "-e", "small")
    done = cli(*arguments)
    assert done.code == 0
    (kept,) = (own_cache / "engines").iterdir()
    assert "Building the small engine" in done.err
    assert str(kept) in done.err
    assert built == [model]

    assert cli(*arguments).err == ""
    assert built == [model]
    kept.write_bytes(kept.read_bytes()[:-1])
    assert cli(*arguments).code == 0
    assert built == [model, model]
    # Another CPU does not take this one's engine.
    monkeypatch.setattr(shipped.environment, "cpu", lambda: {"machine": "abacus", "features": []})
    assert cli(*arguments).code == 0
    assert len(built) == 3
    assert len(list((own_cache / "engines").iterdir())) == 2

    (photos / "small").write_bytes(b"a file of that name goes first")
    monkeypatch.chdir(photos)
    assert "small" in cli(*arguments).err


def test_a_cache_that_cannot_be_written_says_what_to_do(
    cli: Cli, model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_FOLDER", model.parent)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    done = cli("run", photos / "a.png", "-o", tmp_path / "clean.png", "-e", "small")
    assert done.code == 2
    assert "derain-engine build small" in done.err


def test_the_program_itself(engine_file: Path, photos: Path, tmp_path: Path) -> None:
    """Run it in a process of its own, without PyTorch in it."""
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv[0] = 'derain-engine'\n"
        "from derain_engine.cli import main; main()"
    )
    arguments = ["run", str(photos), "-o", str(tmp_path / "clean"), "-e", str(engine_file)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 5, done.stderr
    assert done.stdout == ""
    assert all(line.startswith("derain-engine: ") for line in done.stderr.splitlines())
    assert (tmp_path / "clean" / "c.png").is_file()

"""Inputs become pairs of files, or one clear refusal before anything is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from derain_engine.base.errors import InputError
from derain_engine.media.pictures.jobs import Job, find_pictures


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Make the working folder: in/ with three pictures and other things, out/ empty."""
    for name in ("in/b.png", "in/a.JPG", "in/c.tiff", "in/notes.txt", "in/.hidden.png", "in/deeper/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pairs(jobs: list[Job]) -> list[tuple[str, str]]:
    return [(job.input.as_posix(), job.output.as_posix()) for job in jobs]


def test_one_file_to_a_file_or_into_a_folder(home):
    assert pairs(find_pictures(["in/a.JPG"], "clean.png")) == [("in/a.JPG", "clean.png")]
    assert pairs(find_pictures(["in/a.JPG"], Path("out"))) == [("in/a.JPG", "out/a.JPG")]
    assert pairs(find_pictures(["in/a.JPG"], "new/")) == [("in/a.JPG", "new/a.JPG")]
    assert not (home / "new").exists()


def test_a_folder_gives_its_pictures_sorted(home):
    expected = [("in/a.JPG", "new/a.JPG"), ("in/b.png", "new/b.png"), ("in/c.tiff", "new/c.tiff")]
    assert pairs(find_pictures(["in"], "new")) == expected
    # Even of one picture: a folder's pictures go to a folder.
    assert pairs(find_pictures(["in/deeper"], "new")) == [("in/deeper/d.png", "new/d.png")]


def test_patterns_that_the_shell_left_alone(home):
    assert pairs(find_pictures(["in/[ab].*"], "out")) == [
        ("in/a.JPG", "out/a.JPG"),
        ("in/b.png", "out/b.png"),
    ]
    assert pairs(find_pictures(["in/**/*.png"], "out")) == [
        ("in/b.png", "out/b.png"),
        ("in/deeper/d.png", "out/d.png"),
    ]
    with pytest.raises(InputError, match=r"No file matches in/\*\.bmp"):
        find_pictures(["in/*.bmp"], "out")
    with pytest.raises(InputError, match=r"No file matches \*"):
        find_pictures(["*"], "out")  # two folders and no file


def test_a_file_called_like_a_pattern_wins(home):
    (home / "in/[ab].png").write_bytes(b"")
    assert pairs(find_pictures(["in/[ab].png"], "out")) == [("in/[ab].png", "out/[ab].png")]


def test_a_file_named_twice_is_one_job(home):
    assert len(find_pictures(["in/a.JPG", "./in/../in/a.JPG", "in"], "out")) == 3


@pytest.mark.parametrize(
    ("inputs", "output", "reason"),
    [
        ([], "out", "No picture was named"),
        (["in/none.png"], "out", "in/none.png does not exist"),
        (["out"], "new", "out has no pictures"),
        (["in/notes.txt"], "out", "out/notes.txt cannot be written: pictures end in one of .png"),
        (["in/a.JPG"], "x.gif", "x.gif cannot be written"),
        (["in/a.JPG"], "nowhere", "not a folder and has no suffix"),
        (["in/a.JPG"], "nowhere/x.png", "the folder nowhere does not exist"),
        (["in"], "x.png", "3 pictures cannot go into the one file x.png"),
        (["in"], "in/notes.txt", "3 pictures cannot go into the one file in/notes.txt"),
        (["in"], "in/notes.txt/new", "in/notes.txt is a file, not a folder"),
        (["in"], "in", "in/a.JPG is the input in/a.JPG"),
        (["in/a.JPG"], "in/../in/a.JPG", "is the input in/a.JPG"),
        (["in/b.png", "in/a.JPG"], "./in/", "is the input"),
    ],
)
def test_refused_before_work_starts(home, inputs, output, reason):
    before = sorted(home.rglob("*"))
    with pytest.raises(InputError, match=reason.replace(".", r"\.")):
        find_pictures(inputs, output)
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_do_not_hide_an_input(home, link):
    link(home / "in/b.png", home / "out/a.JPG")
    # The result of a.JPG would land on b.png, which is an input too.
    with pytest.raises(InputError, match=r"out/a\.JPG is the input in/b\.png"):
        find_pictures(["in"], "out")
    assert find_pictures(["in/a.JPG"], "out/")  # where b.png is none of the inputs, it is an old result


def test_a_linked_folder_does_not_hide_an_input(home):
    (home / "same").symlink_to("in")
    with pytest.raises(InputError, match="is the input"):
        find_pictures(["in"], "same")


@pytest.mark.parametrize("name", ["b.png", "B.PNG"])
def test_two_inputs_for_one_name(home, name):
    (home / "in/deeper" / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"in/b\.png and in/deeper/{name} would both be written"):
        find_pictures(["in", f"in/deeper/{name}"], "out")


def test_a_dangling_link_is_missing(home):
    (home / "in/gone.png").symlink_to("nothing")
    with pytest.raises(InputError, match="does not exist"):
        find_pictures(["in/gone.png"], "out")
    assert len(find_pictures(["in"], "out")) == 3


def test_a_folder_that_may_not_be_written_to(home, monkeypatch):
    closed = home / "out"
    real = os.access
    # Asked this way since the superuser may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and real(path, mode))
    with pytest.raises(InputError, match="cannot be written to"):
        find_pictures(["in"], closed / "new" / "newer")
    with pytest.raises(InputError, match="cannot be written to"):
        find_pictures(["in/a.JPG"], closed / "x.png")

"""Exit codes, error lines and help of the whole program."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from derain_engine.base.errors import (
    BackendUnavailable,
    BuildError,
    BundleError,
    MediaError,
    VerificationError,
)
from derain_engine.base.files import atomic_write
from derain_engine.base.version import __version__
from derain_engine.cli import app, main, progress, terminal

Cli = Callable[..., Any]


def raising(error: BaseException) -> typer.Typer:
    tool = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
    tool.callback()(app._top)

    @tool.command("go")
    def go() -> None:
        raise error

    return tool


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", "x.png")


def media_error_of_a_full_disk() -> MediaError:
    error = MediaError("x.png cannot be written: the disk is full.")
    error.__cause__ = full_disk()
    return error


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MediaError("a.png is empty."), 2, "a.png is empty."),
        (
            BundleError("[bold]x[/bold].derain :smile: is damaged"),
            2,
            "[bold]x[/bold].derain :smile: is damaged",
        ),
        (BackendUnavailable("no"), 3, "no"),
        (VerificationError("far off"), 4, "far off"),
        (BuildError("no way"), 1, "no way"),
        (MediaError("two\nlines \x1b[31m"), 2, r"two\nlines \x1b[31m"),
        (full_disk(), 1, "The disk is full while x.png was written"),
        (media_error_of_a_full_disk(), 1, "the disk is full"),
        (MemoryError(), 1, "not enough memory"),
        (PermissionError(errno.EACCES, "Permission denied", "y"), 1, "y: Permission denied"),
        (RuntimeError("odd"), 1, "RuntimeError: odd. For where it happened, put --debug"),
        (typer.BadParameter("no such thing."), 2, "no such thing. See 'derain-engine"),
    ],
)
def test_every_error_is_one_line_and_a_code(
    error: Exception, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.answer(raising(error), ["go"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("derain-engine: ")
    assert words in err
    assert err.count("\n") == 1
    assert app.answer(raising(error), ["--debug", "go"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_an_interruption_exits_130_without_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.answer(raising(KeyboardInterrupt()), ["go"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_polite_kill_cleans_up_like_an_interruption(name: str, tmp_path: Path) -> None:
    number = getattr(signal, name)
    tool = typer.Typer(rich_markup_mode=None, add_completion=False)

    @tool.command()
    def go() -> None:
        with atomic_write(tmp_path / "half.txt"):
            os.kill(os.getpid(), number)
            time.sleep(5)
            raise AssertionError("not ended")

    # Below nohup it would be ignored.
    before = signal.signal(number, signal.SIG_DFL)
    try:
        assert app.answer(tool, []) == 128 + number
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_ignored_stays_so() -> None:
    tool = typer.Typer(rich_markup_mode=None, add_completion=False)
    tool.command()(lambda: os.kill(os.getpid(), signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert app.answer(tool, []) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_warnings_of_the_package_are_lines_like_errors(capsys: pytest.CaptureFixture[str]) -> None:
    tool = typer.Typer(rich_markup_mode=None, add_completion=False)

    @tool.command()
    def go() -> None:
        logging.getLogger("derain_engine.media").warning("%s: left out", "[a].png")

    assert app.answer(tool, []) == 0
    assert capsys.readouterr().err == "derain-engine: [a].png: left out\n"


def test_the_console_script_passes_arguments_and_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, code, words in (
        (["--version"], 0, __version__),
        (["no-verb"], 2, "no-verb"),
        ([], 0, "build"),
    ):
        monkeypatch.setattr("sys.argv", ["derain-engine", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == code
        assert words in "".join(capsys.readouterr())


def verbs(command: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    below = getattr(command, "commands", {})
    return [path, *(found for name, each in below.items() for found in verbs(each, (*path, name)))]


@pytest.mark.parametrize("path", verbs(typer.main.get_command(app.make_app())))
def test_help_of_every_verb_shows_examples_of_it(cli: Cli, path: tuple[str, ...]) -> None:
    done = cli(*path, "--help")
    assert (done.code, done.err) == (0, "")
    examples = done.out.partition("Examples:")[2] or done.out.partition("COMMAND [ARGS]")[2]
    assert " ".join(path) in done.out
    assert examples


def test_progress_is_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal_there in (True, False):
        drawn = io.StringIO()
        console = Console(file=drawn, force_terminal=terminal_there, width=120, markup=False)
        monkeypatch.setattr(progress, "ERR", console)
        with progress.progress_bar() as report:
            report("Reading [a].png", 0.0)
            report("Reading [a].png", 1.0)
            report("Next", 0.25)
        assert ("Reading [a].png" in drawn.getvalue()) is terminal_there
        assert ("25%" in drawn.getvalue()) is terminal_there


def test_names_that_no_terminal_can_show_are_written_out() -> None:
    assert terminal.printable("Größe\t\udc80\u202e") == r"Größe\t\udc80\u202e"


def test_sizes_are_for_people() -> None:
    assert [terminal.file_size(n) for n in (0, 999, 1000, 1_430_000, 5_000_000_000)] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "1.43 MB",
        "5 GB",
    ]

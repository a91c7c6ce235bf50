"""Words for the user: results on stdout, notes and errors on stderr, nothing in them taken for markup."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

#: Progress bars live on this console too, so that lines printed meanwhile appear above them.
ERR = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
#: Where nobody looks at the width, lines stay whole for the program that reads them.
_ENDLESS = 10_000


class LogToTerminal(logging.Handler):
    """Warnings from below, in the form of every other note."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def printable(text: object) -> str:
    """Return a text on one line, with control characters (names of files may hold them) and half characters written
    out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def note(message: object) -> None:
    """Print one line on stderr."""
    ERR.print(f"derain-engine: {printable(str(message).strip())}")


def note_building(name: str, kept: Path) -> None:
    """Tell that the engine of shipped weights is built."""
    note(f"Building the {name} engine for this machine, once: {kept}")


def say(text: object = "") -> None:
    """Print one line on stdout."""
    print(printable(text))


def say_lines(text: str) -> None:
    """Print a text of several lines on stdout."""
    for line in text.splitlines():
        say(line)


def say_json(value: Any) -> None:
    """Print a value as one line of JSON on stdout."""
    say(json.dumps(value, allow_nan=False))


def show_table(rows: Iterable[tuple[str, Any]]) -> None:
    """Print names and values in two columns on stdout."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(printable(name), printable(value))
    _print(table)


def show_columns(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, summary: Iterable[Sequence[str]] = ()
) -> None:
    """Print a table: text on the left in the first column, figures in the others.

    Args:
        summary: rows set off below.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    table.add_section()
    for row in summary:
        table.add_row(*map(printable, row))
    _print(table)


def show_rows(rows: Sequence[Mapping[str, str]], *, summary: Iterable[Sequence[str]] = ()) -> None:
    """Print a table as :func:`show_columns` does, of one row or more by the columns' heads."""
    show_columns(list(rows[0]), [list(row.values()) for row in rows], summary=summary)


def _print(table: Table) -> None:
    width = None if sys.stdout.isatty() else _ENDLESS
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)


def command_line() -> str:
    """Return what the user typed."""
    return shlex.join(["derain-engine", *sys.argv[1:]])


def file_size(count: int) -> str:
    """Return a number of bytes for people: ``1.4 MB``."""
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"

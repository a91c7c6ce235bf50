"""Words for the user: results on stdout, notes and errors on stderr, nothing in them taken for markup."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any

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


def say(text: object = "") -> None:
    """Print one line on stdout."""
    print(printable(text))


def show_table(rows: Iterable[tuple[str, Any]]) -> None:
    """Print names and values in two columns on stdout."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(printable(name), printable(value))
    width = None if sys.stdout.isatty() else _ENDLESS
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    console.print(table)


def file_size(count: int) -> str:
    """Return a number of bytes for people: ``1.4 MB``."""
    size = float(count)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"

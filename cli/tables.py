"""Figures in columns on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from .terminal import printable

#: Where nobody looks at the width, rows stay whole for the program that reads them.
_ENDLESS = 10_000


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
    width = None if sys.stdout.isatty() else _ENDLESS
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)

"""The verb ``bench page``: saved results as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import say

EXAMPLES = """
derain-engine bench page bench/results/*.json -o docs/benchmarks.md
derain-engine bench page -o tables.md
"""


def bench_page(
    page: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The Markdown file to write.")],
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RESULT",
            help="Files that 'bench engine', 'table3', 'cpu', 'builds' or 'video' printed with --json.",
        ),
    ] = None,
) -> None:
    """Write a page of results with their plots beside it, in a folder of the page's name.

    The paper's Tables III and IV come first, then each file as a section of its own, in the given order.
    """
    from ...bench.page import make_page

    for path in make_page(results or [], page):
        say(path)

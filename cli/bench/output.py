"""What the verbs that time whole networks have in common: their options, and how they show what they found."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..tables import show_columns
from ..terminal import note, say, show_table
from ..values import Sides, frame_size

if TYPE_CHECKING:
    from ...bench.results import Benchmark

FrameSizesOption = Annotated[
    list[Sides] | None,
    typer.Option(
        "--size",
        parser=frame_size,
        metavar="HxW",
        help="Height and width of the frames in pixels; may be repeated.",
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads for everything measured.", show_default="all")
]
Onnx = Annotated[
    list[str] | None,
    typer.Option(
        "--onnx",
        metavar="NAME=FILE",
        help="Another network to time in ONNX Runtime in the same run: one float input N x 3 x H x W in [0, 1], the "
        "first output of the same shape; may be repeated.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a row.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV, one line a row.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")]
Plots = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Write plots as PNG into this folder: speed-up by backend, latency by size (of several), roofline "
        "(where the network is known); needs matplotlib.",
    ),
]


def command_line() -> str:
    """What the user typed."""
    return shlex.join(["derain-engine", *sys.argv[1:]])


def require_one_format(as_json: bool, as_csv: bool, as_markdown: bool) -> None:
    """Raises typer.BadParameter for several."""
    if as_json + as_csv + as_markdown > 1:
        raise typer.BadParameter("--json, --csv and --markdown exclude each other.")


def onnx_files(pairs: list[str] | None) -> list[tuple[str, Path]]:
    """``NAME=FILE`` each. Raises typer.BadParameter for anything else, or a name given twice."""
    found: dict[str, Path] = {}
    for pair in pairs or []:
        name, _, file = pair.partition("=")
        if not name or not file:
            raise typer.BadParameter(f"{pair!r} is not NAME=FILE, such as PReNet=prenet.onnx.")
        if name in found:
            raise typer.BadParameter(f"The name {name} is given to two ONNX files.")
        found[name] = Path(file)
    return list(found.items())


def show_benchmark(
    result: Benchmark, *, as_json: bool, as_csv: bool, as_markdown: bool, plots: Path | None
) -> None:
    """On stdout, and as plots where there is a folder for them. Rows that are not verified raise VerificationError
    after that, and noisy ones are named on stderr."""
    from ...base.errors import VerificationError
    from ...bench import results

    if as_json:
        say(json.dumps(result.to_json(), allow_nan=False))
    elif as_csv or as_markdown:
        text = results.as_csv(result) if as_csv else results.as_markdown(result)
        for line in text.splitlines():
            say(line)
    else:
        show_columns(*results.without_empty(results.HEADS, results.cells(result)))
        show_table(results.facts(result))
    if plots is not None:
        from ...bench.plots import plot_all

        plots.mkdir(parents=True, exist_ok=True)
        plot_all(result, plots)
    if noisy := [f"{row.name} at {row.height}x{row.width}" for row in result.rows if row.noisy]:
        note(f"Noisy, as the medians of their halves differ by more than 10 %: {', '.join(noisy)}.")
    missed = [f"{row.name} at {row.height}x{row.width}" for row in result.rows if row.verified is False]
    if missed:
        raise VerificationError(f"Too far from the fp32 reference: {', '.join(missed)}.")

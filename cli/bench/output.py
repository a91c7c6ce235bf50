"""The options that verbs which time whole networks share, and how they show what they found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...base.options import option
from ..terminal import note, say_json, say_lines, show_columns, show_table
from ..values import Sides, sized

if TYPE_CHECKING:
    from ...bench.results import Benchmark

SizesOption = Annotated[
    list[Sides] | None, sized("Height and width of the frames in pixels; may be repeated.", True, "--size")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads for everything measured.", show_default="all")
]
OnnxOption = Annotated[
    list[str] | None,
    typer.Option(
        "--onnx",
        metavar="NAME=FILE",
        help="Another network to time in ONNX Runtime in the same run: one float input N x 3 x H x W in [0, 1], the "
        "first output of the same shape; may be repeated.",
    ),
]
_JSON = "Print JSON, one object a row."
AsJson = Annotated[bool, typer.Option("--json", help=_JSON)]


@dataclass(frozen=True)
class BenchmarkOutput:
    """The form in which a benchmark is shown: a table, unless one of the others is asked for.

    Raises:
        typer.BadParameter: several are.
    """

    as_json: bool = option(False, flags=("--json",), help=_JSON)
    as_csv: bool = option(False, flags=("--csv",), help="Print CSV, one line a row.")
    as_markdown: bool = option(False, flags=("--markdown",), help="Print the table as Markdown.")
    plots: Path | None = option(
        None,
        metavar="FOLDER",
        help="Write plots as PNG into this folder: speed-up by backend, latency by size (of several), roofline "
        "(where the network is known); needs matplotlib.",
    )

    def __post_init__(self) -> None:
        if self.as_json + self.as_csv + self.as_markdown > 1:
            raise typer.BadParameter("--json, --csv and --markdown exclude each other.")

    @property
    def is_table(self) -> bool:
        """True where no other form was asked for."""
        return not (self.as_json or self.as_csv or self.as_markdown)

    def show(self, result: Benchmark) -> None:
        """Print a benchmark on stdout, and draw plots where there is a folder for them.

        Noisy rows are named on stderr.

        Raises:
            VerificationError: in the end, for rows that are not verified.
        """
        from ...base.errors import VerificationError
        from ...bench import results

        if self.as_json:
            say_json(result.to_json())
        elif self.is_table:
            show_columns(*results.as_columns(results.cells(result)))
            show_table(results.facts(result))
        else:
            say_lines(results.as_csv(result) if self.as_csv else results.as_markdown(result))
        if self.plots is not None:
            from ...bench.plots import plot_all

            self.plots.mkdir(parents=True, exist_ok=True)
            plot_all(result, self.plots)
        if noisy := [f"{row.name} at {row.height}x{row.width}" for row in result.rows if row.noisy]:
            note(f"Noisy, as the medians of their halves differ by more than 10 %: {', '.join(noisy)}.")
        missed = [f"{row.name} at {row.height}x{row.width}" for row in result.rows if row.verified is False]
        if missed:
            raise VerificationError(f"Too far from the fp32 reference: {', '.join(missed)}.")


def onnx_files(pairs: list[str] | None) -> list[tuple[str, Path]]:
    """Read ``NAME=FILE`` each. Raises typer.BadParameter for anything else, or a name given twice."""
    found: dict[str, Path] = {}
    for pair in pairs or []:
        name, _, file = pair.partition("=")
        if not name or not file:
            raise typer.BadParameter(f"{pair!r} is not NAME=FILE, such as PReNet=prenet.onnx.")
        if name in found:
            raise typer.BadParameter(f"The name {name} is given to two ONNX files.")
        found[name] = Path(file)
    return list(found.items())

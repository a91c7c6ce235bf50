"""``bench``: how fast."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .bench_kernels import EXAMPLES, bench_kernels
from .progress import progress_bar
from .tables import show_columns
from .terminal import say, show_table
from .values import Size, Trust, frame_size

if TYPE_CHECKING:
    from ..bench.engine import Benchmark, Row

_EXAMPLES = """Examples:

\b
derain-engine bench engine sid-lite --compare
derain-engine bench engine a.derain b.derain --size 512x512 --size 1080x1920 --runs 50
derain-engine bench engine model.derain --model model.pt --json > speed.json
"""


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Measure speed.", no_args_is_help=True, rich_markup_mode=None)
    group.callback()(lambda: None)
    group.command("engine", epilog=_EXAMPLES)(_bench_engine)
    group.command("kernels", epilog=EXAMPLES)(bench_kernels)
    app.add_typer(group, name="bench")


def _bench_engine(
    engines: Annotated[
        list[str], typer.Argument(metavar="ENGINE", help="Engine files, or names of shipped weights.")
    ],
    sizes: Annotated[
        list[Size] | None,
        typer.Option(
            "--size",
            parser=frame_size,
            metavar="HxW",
            help="Height and width of the frames in pixels; may be repeated.",
            show_default="512x512",
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed frames for each engine and size.")] = 30,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads for everything measured.", show_default="all")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="What the engines were built from, to verify their output.",
            show_default="the shipped weights of that name and hash",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also run the model in PyTorch eager and ONNX Runtime, in fp32.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a row.")] = False,
    trust: Trust = None,
) -> None:
    """Time engines frame by frame and as a stream, all taking turns, and verify what they give.

    Frames are random 8-bit RGB. Opening and first frame are without compiled code from earlier runs. Leaves
    with 4 if an output is not within the bounds around the fp32 reference.
    """
    from ..bench.engine import bench_engines
    from ..engine.errors import VerificationError

    with progress_bar() as progress:
        result = bench_engines(
            engines,
            sizes=sizes or [(512, 512)],
            runs=runs,
            threads=threads,
            model=model,
            compare=compare,
            trust=trust or (),
            command=shlex.join(["derain-engine", *sys.argv[1:]]),
            progress=progress,
        )
    if as_json:
        say(json.dumps(result.to_json(), allow_nan=False))
    else:
        _show(result)
    missed = [f"{row.name} at {row.height}x{row.width}" for row in result.rows if row.verified is False]
    if missed:
        raise VerificationError(f"Too far from the fp32 reference: {', '.join(missed)}.")


def _show(result: Benchmark) -> None:
    heads = ["Engine", "Runs in", "Frame", "Open ms", "First ms", "Median ms", "p95 ms", "p99 ms", "Frames/s"]
    rows = [
        [
            row.name,
            f"{row.backend} {row.precision}",
            f"{row.height}x{row.width}",
            *(f"{ms:.1f}" for ms in (row.open_ms, row.first_ms, row.median_ms, row.p95_ms, row.p99_ms)),
            f"{row.frames_per_second:.2f}",
            _verified(row),
        ]
        for row in result.rows
    ]
    show_columns([*heads, "Verified"], rows)
    facts = result.environment
    versions = {row.backend: row.backend_version for row in result.rows}
    first = result.rows[0]
    show_table(
        [
            ("Device", facts["cpu"]["model"]),
            ("Threads", first.threads),
            ("Runs", first.runs),
            ("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
            ("derain-engine", facts["derain_engine"]),
            ("Date", result.date),
            ("Command", result.command),
        ]
    )


def _verified(row: Row) -> str:
    if row.verified is None:
        return "no model"
    closeness = "equal" if row.psnr_db is None else f"{row.psnr_db:.1f} dB"
    return f"{'yes' if row.verified else 'NO'}, {closeness}"

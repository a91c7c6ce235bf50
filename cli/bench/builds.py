"""The verb ``bench builds``: what building engines of TensorRT takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..progress import progress_bar
from ..tables import show_columns
from ..terminal import file_size, say, show_table
from .output import command_line

if TYPE_CHECKING:
    from ...bench.builds import Builds

EXAMPLES = """Examples:

\b
derain-engine bench builds
derain-engine bench builds sid sid-lite --json > builds.json
derain-engine bench builds model.pt --precision fp32
"""


def bench_builds(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Model files, shipped weights or presets.",
            show_default="sid and sid-lite",
        ),
    ] = None,
    backend: Annotated[
        Literal["tensorrt", "tensorrt-rtx"], typer.Option(help="The library that builds.")
    ] = "tensorrt-rtx",
    precision: Annotated[Literal["fp16", "fp32"], typer.Option(help="Of the engines.")] = "fp16",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Build engines for 512x512 and for a range of sizes, each in a process of its own, and show what that took.

    TensorRT-RTX builds for all GPUs that it can name, and needs none.
    """
    from ...bench.builds import bench_builds as measure

    with progress_bar() as progress:
        builds = measure(
            models or ["sid", "sid-lite"],
            backend=backend,
            precision=precision,
            command=command_line(),
            progress=progress,
        )
    if as_json:
        say(json.dumps(builds.to_json(), allow_nan=False))
    else:
        _show(builds)


def _show(builds: Builds) -> None:
    heads = ["Network", "Frames", "Parameters", "Nodes", "Export s", "Plan s", "Graph", "Plan", "Peak memory"]
    rows = [
        [
            row.name,
            row.takes,
            f"{row.parameters:,}",
            str(row.nodes),
            f"{row.export_s:.1f}",
            f"{row.plan_s:.1f}",
            file_size(row.graph_bytes),
            file_size(row.plan_bytes),
            "" if row.peak_bytes is None else file_size(row.peak_bytes),
        ]
        for row in builds.rows
    ]
    show_columns(heads, rows)
    facts, first = builds.environment, builds.rows[0]
    show_table(
        [
            ("Device", facts["cpu"]["model"]),
            ("Threads", facts["cpu"]["threads"]),
            ("Backend", f"{first.backend} {first.backend_version}, {first.precision}"),
            ("Built for", ", ".join(first.gpus) or "this machine's GPU"),
            ("derain-engine", facts["derain_engine"]),
            ("Date", builds.date),
            ("Command", builds.command),
        ]
    )

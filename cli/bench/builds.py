"""The verb ``bench builds``: what building engines of TensorRT takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..progress import progress_bar
from ..terminal import command_line, file_size, say_json, show_rows, show_table

if TYPE_CHECKING:
    from ...bench.builds import Builds

EXAMPLES = """
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
        say_json(builds.to_json())
    else:
        _show(builds)


def _show(builds: Builds) -> None:
    rows = [
        {
            "Network": row.name,
            "Frames": row.takes,
            "Parameters": f"{row.parameters:,}",
            "Nodes": str(row.nodes),
            "Export s": f"{row.export_s:.1f}",
            "Plan s": f"{row.plan_s:.1f}",
            "Graph": file_size(row.graph_bytes),
            "Plan": file_size(row.plan_bytes),
            "Peak memory": "" if row.peak_bytes is None else file_size(row.peak_bytes),
        }
        for row in builds.rows
    ]
    show_rows(rows)
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

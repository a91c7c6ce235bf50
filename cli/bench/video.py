"""The verb ``bench video``: how fast video goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..progress import progress_bar
from ..terminal import command_line, note, say_json, show_columns, show_table
from ..values import Sides, sized
from .output import AsJson

if TYPE_CHECKING:
    from ...bench.video import VideoBenchmark

EXAMPLES = """
derain-engine bench video
derain-engine bench video sid-lite
derain-engine bench video model.derain --size 720x1280 --seconds 4 --json > video.json
"""
_SIZE = Sides(360, 640)


def bench_video(
    engine: Annotated[
        str | None,
        typer.Argument(
            metavar="[ENGINE]",
            help="An engine file, or the name of shipped weights.",
            show_default="the plumbing alone",
        ),
    ] = None,
    size: Annotated[Sides | None, sized("Of the engine's clip, in pixels.", "360x640")] = None,
    seconds: Annotated[
        float, typer.Option(min=0.04, help="Length of the engine's clip, at 25 frames a second.")
    ] = 10,
    runs: Annotated[int, typer.Option(min=1, help="Of each; the rate is their median.")] = 3,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the engine.", show_default="all")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time what is around an engine, and an engine on a rainy clip.

    First frames go through pipes and two stand-ins that change nothing: one at once, at 1280x720, one after 5 ms, at
    640x360. Then the engine, in throughput mode, cleans a photograph in falling rain from one H.264 file to another.
    Shown with how many cores are busy, and what each stage works for a frame; stages overlap.
    """
    from ...bench.video import bench_video as measure
    from ...engine.shipped import find_engine

    with progress_bar() as progress:
        path = None if engine is None else find_engine(engine, progress=progress)
        result = measure(
            path,
            name=engine or "",
            seconds=seconds,
            size=size or _SIZE,
            runs=runs,
            threads=threads,
            command=command_line(),
            progress=progress,
        )
    if as_json:
        say_json(result.to_json())
    else:
        _show(result)
    for row in result.rows:
        if row.wanted is not None and row.frames_per_second < row.wanted:
            note(f"{row.name}: {row.frames_per_second:.1f} frames a second, fewer than {row.wanted:g}.")


def _show(result: VideoBenchmark) -> None:
    from ...bench.results import as_columns
    from ...bench.video import cells

    show_columns(*as_columns(cells(result)))
    facts = result.environment
    show_table(
        [
            ("Device", facts["cpu"]["model"]),
            ("Stages", "in ms of work a frame; they overlap"),
            ("Runs", result.rows[0].runs),
            ("derain-engine", facts["derain_engine"]),
            ("Date", result.date),
            ("Command", result.command),
        ]
    )

"""The verb ``run``: pictures through an engine."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from .progress import progress_bar
from .terminal import note, note_building
from .values import EngineName, Trust, tile_side

EXAMPLES = """
derain-engine run rain.jpg -o clean.jpg
derain-engine run photos/ -o clean/ -e model.derain
derain-engine run 'photos/*.tif' -o clean/ --tile 1024
derain-engine run rain.png -o compare.png --side-by-side
derain-engine run rain.png -o clean.png -e gpu.derain --trust SHA256
"""


def run(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Pictures, folders of pictures, or patterns.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            help="A file for one picture, else a folder; existing files are replaced.",
        ),
    ],
    engine: EngineName = "sid-lite",
    tile: Annotated[
        str,
        typer.Option(
            metavar="auto|N|0",
            help="Side in pixels of the tiles that large pictures are cut into; 0 for never, "
            "auto for pictures that the memory cannot hold.",
        ),
    ] = "auto",
    mode: Annotated[
        Literal["latency", "throughput"],
        typer.Option(help="All cores on one picture, or several pictures at once, which takes more memory."),
    ] = "latency",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; by default all cores.")] = None,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="Of JPEG and WebP, 1 to 100; 95 unless given.")
    ] = None,
    side_by_side: Annotated[
        bool, typer.Option("--side-by-side", help="Write the rainy and the clean picture beside each other.")
    ] = False,
    rain_layer: Annotated[
        bool, typer.Option("--rain-layer", help="Write what was taken away instead of what is left.")
    ] = False,
    trust: Trust = None,
) -> None:
    """Take the rain out of pictures.

    PNG, JPEG, WebP, TIFF and BMP. Names, bit depth, transparency, colour profile and EXIF data are kept. Pictures
    that fail are named at the end (exit code 5), the others are finished.
    """
    from ..engine.runtime import load
    from ..engine.shipped import find_engine
    from ..media.pictures.clean import Show, clean_pictures
    from ..media.pictures.jobs import find_pictures

    if side_by_side and rain_layer:
        raise typer.BadParameter("--side-by-side and --rain-layer exclude each other.")
    show: Show = "side-by-side" if side_by_side else "rain-layer" if rain_layer else "clean"
    side = tile_side(tile)
    jobs = find_pictures(inputs, output)
    with progress_bar() as progress:
        path = find_engine(engine, progress=progress, building=note_building)
        with load(path, mode=mode, threads=threads, tile=side, trust=trust or ()) as loaded:
            failures = clean_pictures(loaded, jobs, show=show, quality=quality, progress=progress)
    if not failures:
        return
    if len(jobs) == 1:
        raise failures[0].error
    for failure in failures:
        note(failure.error)
    note(f"{len(failures)} of {len(jobs)} pictures failed.")
    raise typer.Exit(2 if len(failures) == len(jobs) else 5)

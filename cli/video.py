"""``video``: a video file through an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .progress import progress_bar
from .terminal import note
from .values import Trust, tile_side

#: Failed frames that are named one by one.
_NAMED = 10

_EXAMPLES = """Examples:

\b
derain-engine video rain.mp4 -o clean.mp4
derain-engine video rain.mkv -o clean.mkv -e model.derain --mode throughput
derain-engine video rain.mp4 -o clean.mkv --codec ffv1
derain-engine video damaged.mp4 -o clean.mp4 --on-error skip
"""


def register(app: typer.Typer) -> None:
    app.command("video", epilog=_EXAMPLES)(_video)


def _video(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="A video file.")],
    output: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            help="A file; its ending says the container: .mp4, .mkv, .mov, .webm. An existing file is replaced.",
        ),
    ],
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            "-e",
            help="An engine file, or the name of shipped weights, whose engine is built at the first use and kept.",
        ),
    ] = "sid-lite",
    codec: Annotated[
        Literal["h264", "h265", "av1", "vp9", "prores", "ffv1"] | None,
        typer.Option(
            help="By default h264 for 8 bits and h265 for more, vp9 or av1 in .webm, ffv1 for RGB. ffv1 is lossless.",
        ),
    ] = None,
    crf: Annotated[
        int | None,
        typer.Option(
            help="Quality, smaller is better: 16 for h264 and h265, 20 for av1 and vp9 unless given."
        ),
    ] = None,
    pix_fmt: Annotated[
        str | None,
        typer.Option(
            help="Convert frames to this pixel format first, such as yuv422p10le; else they keep theirs."
        ),
    ] = None,
    on_error: Annotated[
        Literal["stop", "skip", "passthrough"],
        typer.Option(
            help="At a broken frame, or one that cannot be cleaned: end the output before it, leave it out, or write "
            "it unclean.",
        ),
    ] = "stop",
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="audio|subtitle|data|attachment", help="Leave these streams out; may be repeated."
        ),
    ] = None,
    tile: Annotated[
        str,
        typer.Option(
            metavar="auto|N|0",
            help="Side in pixels of the tiles that large frames are cut into; 0 for never, auto for frames that the "
            "memory cannot hold.",
        ),
    ] = "auto",
    mode: Annotated[
        Literal["latency", "throughput"],
        typer.Option(help="All cores on one frame, or several frames at once, which takes more memory."),
    ] = "latency",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the engine; by default all cores.")
    ] = None,
    trust: Trust = None,
) -> None:
    """Take the rain out of a video.

    Every frame keeps its timestamp; audio, subtitles, chapters, metadata, rotation and colour properties are kept,
    other streams are copied as they are. Where frames fail, what could be finished is kept and can be played, and the
    exit code is 5.
    """
    from ..engine.media.video import clean_video
    from ..engine.media.video_reader import require_av
    from ..engine.runtime import load
    from ..engine.shipped import find_engine

    side = tile_side(tile)
    require_av()
    with progress_bar() as progress:
        path = find_engine(
            engine,
            progress=progress,
            building=lambda name, kept: note(f"Building the {name} engine for this machine, once: {kept}"),
        )
        with load(path, mode=mode, threads=threads, tile=side, trust=trust or ()) as loaded:
            done = clean_video(
                loaded,
                source,
                output,
                codec=codec,
                crf=crf,
                pix_fmt=pix_fmt,
                on_error=on_error,
                drop=drop or (),
                progress=progress,
            )
    note(
        f"{done.frames} frames in {done.seconds:.1f} s, {done.frames / max(done.seconds, 1e-9):.3g} fps: {output}"
    )
    if not done.failures:
        return
    for failure in done.failures[:_NAMED]:
        note(failure.message)
    if len(done.failures) > _NAMED:
        note(f"{len(done.failures)} frames failed in all.")
    if on_error == "stop":
        note(f"{output} ends there; --on-error skip or passthrough goes on.")
    raise typer.Exit(5)

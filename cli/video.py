"""``video``: a video through an engine, from file to file or through pipes."""

from __future__ import annotations

import sys
from fractions import Fraction
from typing import Annotated, Any, BinaryIO, Literal, TextIO

import typer

from .progress import progress_bar
from .terminal import note
from .values import Sides, Trust, moment, rate, tile_side, width_and_height
from .video_live import run_live

#: Failed frames that are named one by one.
_NAMED = 10

_EXAMPLES = """Examples:

\b
derain-engine video rain.mp4 -o clean.mp4
derain-engine video rain.mkv -o clean.mkv -e model.derain --mode throughput
derain-engine video rain.mp4 -o clean.mkv --codec ffv1
derain-engine video damaged.mp4 -o clean.mp4 --on-error skip
derain-engine video rain.mp4 -o clean.mp4 --start 1:30 --end 2:00
derain-engine video long.mkv -o clean.mkv --resume
derain-engine video dashcam.mp4 -o clean.mp4 --skip-dry
derain-engine video rtsp://camera/stream -o clean.mkv --latency-ms 300
derain-engine video /dev/video0 --live -o clean.mkv
ffmpeg -i rain.ts -f yuv4mpegpipe - | derain-engine video - -o - | ffmpeg -i - clean.mp4
derain-engine video - -o - --size 1280x720 --fps 25 --pix-fmt nv12 --format rawvideo < rain.yuv > clean.yuv
"""


def register(app: typer.Typer) -> None:
    app.command("video", epilog=_EXAMPLES)(_video)


def _video(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A video file; - for standard input; live, a URL such as rtsp://... or, with --live, a camera such as "
            "/dev/video0.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            help="A file; its ending says the container: .mp4, .mkv, .mov, .webm. An existing file is replaced. Or - "
            "for standard output, which takes the frames alone.",
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
    like_input: Annotated[
        bool,
        typer.Option(
            "--like-input",
            help="Encode with the input's codec, profile and, on average, bit rate; of codecs that are not written "
            "here, the bit rate alone.",
        ),
    ] = False,
    pix_fmt: Annotated[
        str | None,
        typer.Option(
            help="Convert frames to this pixel format first, such as yuv422p10le; else they keep theirs. Raw frames on "
            "standard output are written in it, nv12 and p010le included. Of raw frames on standard input: the format "
            "that they have."
        ),
    ] = None,
    size: Annotated[
        Sides | None,
        typer.Option(
            parser=width_and_height,
            metavar="WxH",
            help="Standard input is raw frames of this width and height, without a header; with --fps and --pix-fmt.",
        ),
    ] = None,
    fps: Annotated[
        Fraction | None,
        typer.Option(
            parser=rate, metavar="N", help="Frames a second of raw frames, such as 25 or 30000/1001."
        ),
    ] = None,
    pipe_format: Annotated[
        Literal["y4m", "rawvideo"],
        typer.Option(
            "--format",
            help="What is written to standard output: frames with a header, or nothing but frames.",
        ),
    ] = "y4m",
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
    start: Annotated[
        Fraction | None,
        typer.Option(
            parser=moment, metavar="TIME", help="Begin there, in seconds or h:mm:ss; the output begins at 0."
        ),
    ] = None,
    end: Annotated[
        Fraction | None,
        typer.Option(parser=moment, metavar="TIME", help="End before that time of the input."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Work in segments of 10 s, kept in OUT.segments until OUT is whole; after an interruption, even a "
            "kill, the same command goes on after the last finished one, and gives the same frames as an "
            "uninterrupted run with --resume, which cuts the same segments.",
        ),
    ] = False,
    skip_dry: Annotated[
        bool,
        typer.Option(
            "--skip-dry",
            help="Frames in which a cheap detector sees no rain are left as they are, which saves the network's work. "
            "It would rather clean a dry frame than leave a rainy one.",
        ),
    ] = False,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="The input is a camera: always the newest frame, until Ctrl-C, which leaves a whole file. Only the "
            "picture is written. So are URLs taken, without being asked.",
        ),
    ] = False,
    latency_ms: Annotated[
        float,
        typer.Option(
            min=1, help="Live: frames that are later than this before the engine is asked are left out."
        ),
    ] = 500,
    reconnect: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Live: try for so long to get a lost source back."),
    ] = 60,
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

    Standard input is read in any container that needs no seeking (y4m, Matroska, MPEG-TS, ...), or as raw frames.
    """
    from ..engine.runtime import load
    from ..engine.shipped import find_engine
    from ..media.video.clean import clean_video
    from ..media.video.live_source import is_url
    from ..media.video.pipes import RawFrames
    from ..media.video.reader import require_av

    side = tile_side(tile)
    require_av()
    live = live or is_url(source)
    whole = (like_input, size, fps, on_error != "stop", drop, start, end, resume, skip_dry)
    if live and (source == "-" or any(whole)):
        raise typer.BadParameter(
            "Of a live source, which is not -, only frames are written: --like-input, --size, --fps, --on-error, "
            "--drop, --start, --end, --resume and --skip-dry are for files and pipes."
        )
    raw = None
    if size is not None or fps is not None:
        if source != "-" or size is None or fps is None or pix_fmt is None:
            raise typer.BadParameter(
                "Raw frames are read from - and need all of --size, --fps and --pix-fmt."
            )
        raw = RawFrames(size.width, size.height, fps, pix_fmt)
    incoming = _piped(sys.stdin, "INPUT") if source == "-" else source
    outgoing = _piped(sys.stdout, "OUT") if output == "-" else output
    written = "standard output" if output == "-" else output
    with progress_bar() as progress:
        path = find_engine(
            engine,
            progress=progress,
            building=lambda name, kept: note(f"Building the {name} engine for this machine, once: {kept}"),
        )
    with load(path, mode=mode, threads=threads, tile=side, trust=trust or ()) as loaded:
        if live:
            options: Any = {"codec": codec, "crf": crf, "pix_fmt": pix_fmt, "pipe_format": pipe_format}
            run_live(loaded, source, outgoing, written, latency_ms, give_up=reconnect, **options)
            return
        with progress_bar() as progress:
            done = clean_video(
                loaded,
                incoming,
                outgoing,
                codec=codec,
                crf=crf,
                like_input=like_input,
                pix_fmt=None if raw else pix_fmt,
                on_error=on_error,
                drop=drop or (),
                raw=raw,
                pipe_format=pipe_format,
                start=start,
                end=end,
                resume=resume,
                skip_dry=skip_dry,
                progress=progress,
            )
    note(
        f"{done.frames} frames in {done.seconds:.1f} s, {done.frames / max(done.seconds, 1e-9):.3g} fps: {written}"
    )
    if skip_dry:
        saved = f", which saved about {done.saved:.1f} s" if done.saved else ""
        note(f"{done.dry} of them were dry and are as they were{saved}.")
    if not done.failures:
        return
    for failure in done.failures[:_NAMED]:
        note(failure.message)
    if len(done.failures) > _NAMED:
        note(f"{len(done.failures)} frames failed in all.")
    if done.halted:
        note(f"{written} ends there; --on-error skip or passthrough goes on.")
    raise typer.Exit(5)


def _piped(stream: TextIO, what: str) -> BinaryIO:
    """Raises typer.BadParameter for a terminal, which has no video and shows none."""
    if stream.isatty():
        raise typer.BadParameter(f"{what} is -, and that is a terminal; put a pipe or a file there.")
    return stream.buffer

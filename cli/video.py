"""The verb ``video``: a video through an engine, from file to file, through pipes, or live."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, TextIO

import typer

from ..media.video.options import LiveOptions, RawFrames, VideoOptions
from .options import with_options
from .progress import progress_bar
from .terminal import ERR, note, note_building, printable
from .values import EngineName, Sides, Trust, rate, tile_side, width_and_height

if TYPE_CHECKING:
    from ..engine.runtime import Engine
    from ..media.video.live import LiveReport

#: Failed frames that are named one by one.
_NAMED = 10
#: Seconds between two status lines, on a terminal and where they go into a log.
_REFRESH, _LOGGED = 0.5, 10.0

EXAMPLES = """
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


@with_options(options=VideoOptions, live_options=LiveOptions)
def video(
    *,
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
    engine: EngineName = "sid-lite",
    options: VideoOptions,
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
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="The input is a camera: always the newest frame, until Ctrl-C, which leaves a whole file. Only the "
            "picture is written. So are URLs taken, without being asked.",
        ),
    ] = False,
    live_options: LiveOptions,
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
    from ..media.video.ffmpeg import require_av
    from ..media.video.live_source import is_url

    side = tile_side(tile)
    require_av()
    live = live or is_url(source)
    if live and (source == "-" or size is not None or fps is not None or not _suits_live(options)):
        raise typer.BadParameter(
            "Of a live source, which is not -, only frames are written: --like-input, --size, --fps, --on-error, "
            "--drop, --start, --end, --resume and --skip-dry are for files and pipes."
        )
    if size is not None or fps is not None:
        if source != "-" or size is None or fps is None or options.pix_fmt is None:
            raise typer.BadParameter(
                "Raw frames are read from - and need all of --size, --fps and --pix-fmt."
            )
        raw = RawFrames(size.width, size.height, fps, options.pix_fmt)
        options = replace(options, raw=raw, pix_fmt=None)
    incoming = _piped(sys.stdin, "INPUT") if source == "-" else source
    outgoing = _piped(sys.stdout, "OUT") if output == "-" else output
    written = "standard output" if output == "-" else output
    with progress_bar() as progress:
        path = find_engine(engine, progress=progress, building=note_building)
    with load(path, mode=mode, threads=threads, tile=side, trust=trust or ()) as loaded:
        if live:
            _clean_live(loaded, source, outgoing, live_options, written)
            return
        with progress_bar() as progress:
            done = clean_video(loaded, incoming, outgoing, options, progress=progress)
    speed = done.frames / max(done.seconds, 1e-9)
    note(f"{done.frames} frames in {done.seconds:.1f} s, {speed:.3g} fps: {written}")
    if options.skip_dry:
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


def _suits_live(options: VideoOptions) -> bool:
    """Say whether nothing was asked for that only files and pipes have."""
    return replace(options, codec=None, crf=None, pix_fmt=None, pipe_format="y4m") == VideoOptions()


def _piped(stream: TextIO, what: str) -> BinaryIO:
    """Return a pipe's bytes. Raise typer.BadParameter for a terminal, which has no video and shows none."""
    if stream.isatty():
        raise typer.BadParameter(f"{what} is -, and that is a terminal; put a pipe or a file there.")
    return stream.buffer


def _clean_live(
    engine: Engine, source: str, target: str | BinaryIO, options: LiveOptions, written: str
) -> None:
    """Clean until it ends or is interrupted; leave with 5 where it ended by itself because something failed."""
    from ..media.video.live import clean_live

    with _interruptible() as stop, _status_line() as status:
        report = clean_live(engine, source, target, options, stop=stop, status=status)
    note(f"{report.line()}: {written}")
    if report.percentiles()[1] > options.latency:
        note(
            f"More than one frame in twenty was later than {1000 * options.latency:g} ms: the engine is slow for this "
            "source; a smaller network or picture helps."
        )
    if report.failure is not None:
        note(report.failure)
        raise typer.Exit(5)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C and a polite kill set; a second Ctrl-C interrupts as ever."""
    stop = threading.Event()

    def ask(number: int, _: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _status_line() -> Iterator[Callable[[LiveReport], None]]:
    """Yield what shows how it goes: on a terminal in one line that changes, elsewhere in another one now and then."""
    status = ERR.status("Waiting for frames") if ERR.is_terminal else None
    told = time.monotonic()

    def show(report: LiveReport) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told < (_LOGGED if status is None else _REFRESH):
            return
        told = now
        if status is None:
            note(report.line())
        else:
            status.update(printable(report.line()))

    with status or contextlib.nullcontext():
        yield show

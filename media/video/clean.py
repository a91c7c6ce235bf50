"""Videos cleaned from file to file or through pipes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ...base.errors import InputError, MediaError
from ...base.files import atomic_write, require_writable
from ...base.options import combined
from ...base.progress import Progress, no_progress
from ...engine.runtime import Engine
from .dry import mark_dry
from .ffmpeg import require_av
from .options import VideoOptions
from .output_file import OutputFile
from .pipes import PipeReader, PipeWriter
from .pixel_formats import convert
from .reader import DecodedFrame, VideoReader
from .segments import Segments
from .stages import Cleaned, Stages
from .trim import Trim
from .working_format import WorkingFormat

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame


def clean_video(
    engine: Engine,
    source: str | Path | BinaryIO,
    target: str | Path | BinaryIO,
    options: VideoOptions | None = None,
    *,
    progress: Progress = no_progress,
    **fields: Any,
) -> Cleaned:
    """Clean the first video stream of ``source``; all other streams go into ``target`` packet for packet.

    Timestamps, chapters, metadata, rotation, aspect ratio and colour properties are kept. A written frame is the
    source's code values plus the engine's difference, so what the engine leaves alone reaches the encoder unchanged.

    Args:
        source: a file, or a binary stream to read from, such as ``sys.stdin.buffer``.
        target: a file, whose ending says the container; or a binary stream that only frames are written to, such as
            ``sys.stdout.buffer``.
        options: by default those of ``VideoOptions()``.
        progress: told the frames that are done and their rate, with the share of the video.
        fields: of the options, by their names, in place of what ``options`` has: ``codec="ffv1"``.

    Returns:
        What became of it. With failures, ``target`` holds the frames up to the first (``stop``) or without them, and
        can be played.

    Raises:
        InputError: before the work: options that do not fit, a stream or codec that the container cannot hold, an
            output that is the input, interlaced frames.
        MediaError: no frame could be written; nothing is then left under ``target``. Or the disk is full.
        BackendUnavailable: PyAV is not installed.
    """
    require_av()
    options = combined(VideoOptions, options, fields)
    source = Path(source) if isinstance(source, str) else source
    target = Path(target) if isinstance(target, str) else target
    _check_ends(source, target, options)
    with VideoReader(source) if isinstance(source, Path) else PipeReader(source, options.raw) as reader:
        trim = Trim(reader, options.start, options.end)
        items = trim.read()
        held, first = _first(items, reader.name)
        form = WorkingFormat.choose(first, reader, options)
        items = chain(held, items)
        if options.skip_dry:
            # Before finished segments are left out, so that each frame is told the same when the run is resumed.
            items = mark_dry(items, form)
        with contextlib.ExitStack() as stack:
            if not isinstance(target, Path):
                sink = PipeWriter(target, options.pipe_format, convert(form.first, form.piped), reader)
            elif options.resume:
                sink = Segments(OutputFile(target, trim, form, options), engine)
                items = sink.unfinished(items)
            else:
                path = stack.enter_context(atomic_write(target))
                sink = OutputFile(target, trim, form, options).begin(path)
            stack.callback(sink.close)
            stages = Stages(
                engine, trim, sink, form, on_error=options.on_error, progress=progress, already=sink.frames
            )
            if not isinstance(sink, Segments):
                return stages.run(items)
            sink.attach(stages)
            return _with_earlier(stages.run(items), sink)


def _with_earlier(done: Cleaned, segments: Segments) -> Cleaned:
    """Add the failures of earlier runs. Raise MediaError where the segments were not joined."""
    if not segments.joined:
        raise MediaError(done.failures[-1].message)
    return replace(done, failures=(*segments.earlier, *done.failures))


def _check_ends(source: Path | BinaryIO, target: Path | BinaryIO, options: VideoOptions) -> None:
    """Raise InputError where the source or the target cannot be taken, or not with these options."""
    of_files = options.codec is not None or options.crf is not None or options.like_input or options.drop
    if not isinstance(target, Path) and of_files:
        raise InputError(
            "Frames are not encoded for a pipe, and stand alone there: codec, crf, like_input and drop are for files."
        )
    if isinstance(source, Path) and not source.exists():
        raise InputError(f"{source} does not exist.")
    if isinstance(target, Path):
        require_writable(target)
        if isinstance(source, Path) and target.exists() and target.samefile(source):
            raise InputError(f"{target} is the input; write to another name.")
    if options.resume and not (isinstance(source, Path) and isinstance(target, Path)):
        raise InputError("Only from one file to another can a run be resumed.")


def _first(
    items: Iterator[DecodedFrame | Packet], name: str
) -> tuple[list[DecodedFrame | Packet], VideoFrame]:
    """Return what is read up to the first frame, and that frame, by which the output is set up."""
    held: list[DecodedFrame | Packet] = []
    for item in items:
        held.append(item)
        if isinstance(item, DecodedFrame) and item.frame is not None:
            return held, item.frame
    broken = next((item.damage for item in held if isinstance(item, DecodedFrame)), "")
    raise MediaError(f"{name} has no frame that can be decoded{': ' * bool(broken)}{broken}.")

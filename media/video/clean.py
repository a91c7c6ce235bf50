"""Videos cleaned from file to file or through pipes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ...base.errors import InputError, MediaError
from ...base.files import atomic_write, require_writable
from ...base.progress import Progress, no_progress
from ...base.version import __version__
from ...engine.runtime import Engine
from .codecs import CODECS, Encoding, choose_encoding
from .colour import coding_of_frame
from .dry import mark_dry
from .ffmpeg import require_av
from .pipes import PipeFormat, PipeReader, PipeWriter, RawFrames
from .pixel_formats import convert, planar_form
from .reader import KINDS, Shot, VideoReader
from .segments import Segments
from .stages import Cleaned, OnError, Stages
from .trim import Cut
from .writer import VideoWriter

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

#: Of the segments of a resumable run: as often as encoders put a key frame by themselves.
SEGMENT_SECONDS = 10.0


def clean_video(
    engine: Engine,
    source: str | Path | BinaryIO,
    target: str | Path | BinaryIO,
    *,
    codec: str | None = None,
    crf: int | None = None,
    like_input: bool = False,
    pix_fmt: str | None = None,
    on_error: OnError = "stop",
    drop: Collection[str] = (),
    raw: RawFrames | None = None,
    pipe_format: PipeFormat = "y4m",
    start: Fraction | None = None,
    end: Fraction | None = None,
    resume: bool = False,
    segment_seconds: float = SEGMENT_SECONDS,
    skip_dry: bool = False,
    progress: Progress = no_progress,
) -> Cleaned:
    """Clean the first video stream of ``source``; all other streams go into ``target`` packet for packet.

    Timestamps, chapters, metadata, rotation, aspect ratio and colour properties are kept. A written frame is the
    source's code values plus the engine's difference, so what the engine leaves alone reaches the encoder unchanged.

    Args:
        source: a file, or a binary stream to read from, such as ``sys.stdin.buffer``.
        target: a file, whose ending says the container; or a binary stream that only frames are written to, such as
            ``sys.stdout.buffer``.
        codec: one of ``CODECS``; by default what suits the container and the frames.
        crf: of the codec, smaller is better; by default the codec's own.
        like_input: encode as the source is: its codec (FFV1 for others that lose nothing), profile, and bit rate on
            average; instead of ``crf``.
        pix_fmt: FFmpeg's name of a format that frames are converted to first; by default the source's. Of formats
            that weave planes together (``nv12``, ``p010le``, ``rgb24``) the planar one of the same codes is meant,
            but in a pipe of raw frames.
        on_error: what to do with frames that fail.
        drop: kinds of streams to leave out: ``audio``, ``subtitle``, ``data``, ``attachment``.
        raw: of a binary stream of frames without any header.
        pipe_format: of a target that is a binary stream.
        start, end: seconds from the beginning of the video; only what is shown from ``start`` on and before ``end`` is
            cleaned, and the result begins at 0.
        resume: work in segments that are kept in a folder beside ``target`` until it is whole, and go on after the
            finished ones that are there. A run that was killed and resumed gives the same frames as one that was not,
            if both are resumable: the encoder begins anew with each segment.
        segment_seconds: of such a segment.
        skip_dry: leave frames as they are in which ``dry`` sees no rain.
        progress: told the frames that are done and their rate, with the share of the video.

    Returns what became of it. With failures, ``target`` holds the frames up to the first (``stop``) or without them,
    and can be played.

    Raises:
        InputError: before the work: options that do not fit, a stream or codec that the container cannot hold, an
            output that is the input, interlaced frames.
        MediaError: no frame could be written; nothing is then left under ``target``. Or the disk is full.
        BackendUnavailable: PyAV is not installed.
    """
    _check(codec, drop)
    if like_input and crf is not None:
        raise InputError(
            "A crf is a quality of its own, and like_input takes the source's; leave out one of them."
        )
    if not isinstance(target, str | Path) and (codec is not None or crf is not None or like_input or drop):
        raise InputError(
            "Frames are not encoded for a pipe, and stand alone there: codec, crf, like_input and drop are for files."
        )
    source = Path(source) if isinstance(source, str) else source
    target = Path(target) if isinstance(target, str) else target
    _check_files(source, target)
    if resume and not (isinstance(source, Path) and isinstance(target, Path)):
        raise InputError("Only from one file to another can a run be resumed.")
    with VideoReader(source) if isinstance(source, Path) else PipeReader(source, raw) as reader:
        cut = Cut(reader, start, end)
        items = cut.read()
        held, first = _first(items, reader.name)
        # Woven frames are worked on as planes, and leave a pipe without a header as they came or as was asked for.
        asked = pix_fmt or first.format.name
        written, pix_fmt = asked if pipe_format == "rawvideo" else "", planar_form(asked)
        if first.interlaced_frame:
            raise InputError(
                f"{reader.name} is interlaced; deinterlace it first, for example with ffmpeg -vf bwdif."
            )
        first = convert(first, pix_fmt)
        coding = coding_of_frame(first, reader.siting(first))
        items = chain(held, items)
        if skip_dry:
            # Before finished segments are left out, so that each frame is told the same when the run is resumed.
            items = mark_dry(items, coding, pix_fmt)
        with contextlib.ExitStack() as stack:
            segments: Segments | None = None
            if isinstance(target, Path):

                def encoding(container: str) -> Encoding:
                    return choose_encoding(
                        *(container, reader, first, coding),
                        frames=cut.frames,
                        codec=codec,
                        crf=crf,
                        like_input=like_input,
                        segmented=resume,
                    )

                def whole(path: Path) -> VideoWriter:
                    return VideoWriter(
                        *(path, target, reader, first), encoding=encoding, drop=drop, chapters=cut.chapters()
                    )

                if resume:
                    sink = segments = _segments(
                        *(target, Fraction(segment_seconds), engine, cut, first, whole),
                        job={
                            "start": str(start),
                            "end": str(end),
                            "on_error": on_error,
                            "pix_fmt": pix_fmt,
                            "skip_dry": skip_dry,
                            "tile": str(engine.tile),
                        },
                    )
                    items = segments.unfinished(items)
                else:
                    sink = whole(stack.enter_context(atomic_write(target)))
            else:
                sink = PipeWriter(target, pipe_format, convert(first, written or pix_fmt), reader)
            stack.callback(sink.close)
            stages = Stages(
                *(engine, cut, sink, coding),
                pix_fmt=pix_fmt,
                size=(first.width, first.height),
                on_error=on_error,
                progress=progress,
                already=sink.frames,
            )
            if segments is None:
                return stages.run(items)
            segments.attach(stages)
            return _with_earlier(stages.run(items), segments)


def _segments(
    target: Path,
    seconds: Fraction,
    engine: Engine,
    cut: Cut,
    first: VideoFrame,
    whole: Callable[[Path], VideoWriter],
    job: dict[str, Any],
) -> Segments:
    import av

    if seconds <= 0:
        raise InputError("Segments are longer than 0 seconds.")
    reader = cut.reader
    assert reader.path is not None
    with tempfile.TemporaryDirectory(prefix="derain-engine-") as folder:
        # Whatever the file cannot hold shows now, and not when all is done.
        trial = whole(Path(folder, target.name))
        encoding, header = trial.encoding, trial.header
        trial.close()
    status = reader.path.stat()
    job = {
        **job,
        "source": [reader.path.name, status.st_size, status.st_mtime_ns],
        "engine": [engine.precision, engine.manifest.backend_version, *_hashes(engine)],
        "encoding": [encoding.name, encoding.pix_fmt, dict(encoding.options)],
        "segment length": str(seconds),
        "version": [__version__, av.__version__],
    }

    @contextlib.contextmanager
    def opened() -> Iterator[VideoWriter]:
        with atomic_write(target) as temporary, contextlib.closing(whole(temporary)) as writer:
            yield writer

    def copied() -> Iterator[Packet]:
        with VideoReader(reader.path) as again:
            yield from cut.of(again).packets()

    return Segments(target, seconds, job, reader, first, encoding, header, opened, copied)


def _hashes(engine: Engine) -> list[str]:
    return sorted(str(payload["sha256"]) for payload in engine.manifest.payloads.values())


def _with_earlier(done: Cleaned, segments: Segments) -> Cleaned:
    """What became of all segments. Raises MediaError where they were not joined."""
    if not segments.joined:
        raise MediaError(done.failures[-1].message)
    return replace(done, failures=(*segments.earlier, *done.failures))


def _check(codec: str | None, drop: Collection[str]) -> None:
    require_av()
    if codec is not None and codec not in CODECS:
        raise InputError(f"codec is one of {', '.join(CODECS)}, not {codec!r}.")
    unknown = sorted(set(drop) - set(KINDS))
    if unknown:
        raise InputError(f"drop takes {', '.join(KINDS)}, not {unknown[0]!r}.")


def _check_files(source: Path | BinaryIO, target: Path | BinaryIO) -> None:
    if isinstance(source, Path) and not source.exists():
        raise InputError(f"{source} does not exist.")
    if isinstance(target, Path):
        require_writable(target)
        if isinstance(source, Path) and target.exists() and target.samefile(source):
            raise InputError(f"{target} is the input; write to another name.")


def _first(items: Iterator[Shot | Packet], name: str) -> tuple[list[Shot | Packet], VideoFrame]:
    """What is read up to the first frame, and that frame, by which the output is set up."""
    held: list[Shot | Packet] = []
    for item in items:
        held.append(item)
        if isinstance(item, Shot) and item.frame is not None:
            return held, item.frame
    broken = next((item.damage for item in held if isinstance(item, Shot)), "")
    raise MediaError(f"{name} has no frame that can be decoded{': ' * bool(broken)}{broken}.")

"""A video in segments that are kept until it is whole, so that a killed run can go on from the last finished one.

Segments are cut at fixed times, and the encoder begins anew with each. They are kept as NUT files, which hold
timestamps of any time base (QuickTime for ProRes, which NUT does not know), with a note of what became of them beside
each. Joined, their packets are those that the encoder gave.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from heapq import merge
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import InputError, MediaError
from ...base.files import atomic_write
from ...base.version import __version__
from ...engine.runtime import Engine
from .ffmpeg import close_quietly, ffmpeg_errors
from .output_file import OutputFile
from .reader import DecodedFrame, exact_seconds
from .stages import FrameFailure, Stages

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame

_log = logging.getLogger(__name__)
_JOB = "job.json"


@dataclass(frozen=True)
class _Finished:
    """A finished segment.

    index: of its time. file: its name. size: in bytes. frames: in it. delay: places by which its packets are reordered
    at most. duration: of the last frame, in ticks. failures: (seconds, message) of frames before its end and after the
    segment before.
    """

    index: int
    file: str
    size: int
    frames: int
    delay: int
    duration: int
    failures: list[list[Any]]


class Segments:
    """A sink that writes segments into a folder, and joins them at the end.

    frames: in all of them, those of earlier runs included. earlier: failures of earlier runs. joined: whether the
    whole file was written.
    """

    def __init__(self, output: OutputFile, engine: Engine) -> None:
        """Find the finished segments of the same job.

        Args:
            output: what they are joined into.

        Raises:
            InputError: the folder holds segments of another job, or what is none of ours; or the file cannot hold what
                it is to.
        """
        self._output, self._first = output, output.form.first
        self._folder = segments_folder(output.target)
        self._seconds = Fraction(output.options.segment_seconds)
        with tempfile.TemporaryDirectory(prefix="derain-engine-") as folder:
            # Whatever the file cannot hold shows now, and not when all is done.
            trial = output.begin(Path(folder, output.target.name))
            self._encoding, self._header = trial.encoding, trial.header
            trial.close()
        self._origin = exact_seconds(self._first)
        self._container: Any = None
        self._stream: Any = None
        self._index: int | None = None
        self._times: list[int] = []
        self._sent, self._duration, self._told = 0, 0, 0
        self._last = self._origin  # when the frame is shown that was written last
        self._stages: Stages | None = None
        self.joined = False
        self._require_job(self._job(engine))
        self._done = self._found()
        self.frames = sum(each.frames for each in self._done)
        self.earlier = [FrameFailure(*failure) for each in self._done for failure in each.failures]

    def attach(self, stages: Stages) -> None:
        """Make the stages known that write here, as they know which frames failed."""
        self._stages = stages

    def unfinished(self, items: Iterator[Any]) -> Iterator[Any]:
        """Yield the frames that a source gives after the finished segments."""
        last = self._done[-1].index if self._done else None
        for item in items:
            if isinstance(item, DecodedFrame):
                # What is damaged before the first whole frame has an index below 0.
                if last is None or self._index_of(exact_seconds(item)) > last:
                    yield item

    def write(self, frame: VideoFrame) -> None:
        """Write the next frame; raise MediaError where it cannot be encoded or written."""
        index = self._index_of(exact_seconds(frame))
        if index != self._index:
            self._finish_segment()
            self._begin(index)
        frame = self._encoding.prepare(frame)
        self._sent += 1
        self._last = exact_seconds(frame)
        self._duration = getattr(frame, "duration", None) or 0
        self._mux(frame)

    def copy(self, packet: Packet) -> None:
        """Do nothing yet: other streams are read again when all is joined."""

    def finish(self) -> None:
        """Join the segments and remove them; raise MediaError where that cannot be done."""
        self._finish_segment()
        if not self._done:
            return
        copied = ((exact_seconds(packet, decoded=True), packet, False) for packet in self._output.copied())
        if self._stages is not None and self._stages.halted:
            copied = takewhile(lambda each: each[0] <= self._last, copied)
        with self._output.whole() as writer:
            for _, packet, of_video in merge(self._joined(), copied, key=lambda each: each[0]):
                (writer.join if of_video else writer.copy)(packet)
            writer.finish()
        self.joined = True
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Let go of the segment that is being written; finished ones stay until all are joined."""
        self._let_go()
        if self.joined:
            return
        if self._done:
            _log.warning("What is finished is kept in %s; the same command goes on from there.", self._folder)
        else:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _index_of(self, seconds: Fraction) -> int:
        return (seconds - self._origin) // self._seconds

    # -- the folder

    def _job(self, engine: Engine) -> dict[str, Any]:
        """Return what has to be the same for segments to be of the same video."""
        import av

        options, source = self._output.options, self._output.trim.reader.path
        assert source is not None
        status = source.stat()
        hashes = sorted(str(payload["sha256"]) for payload in engine.manifest.payloads.values())
        return {
            "start": str(options.start),
            "end": str(options.end),
            "on_error": options.on_error,
            "pix_fmt": self._output.form.pix_fmt,
            "skip_dry": options.skip_dry,
            "tile": str(engine.tile),
            "source": [source.name, status.st_size, status.st_mtime_ns],
            "engine": [engine.precision, engine.manifest.backend_version, *hashes],
            "encoding": [self._encoding.name, self._encoding.pix_fmt, dict(self._encoding.options)],
            "segment length": str(self._seconds),
            "version": [__version__, av.__version__],
        }

    def _require_job(self, job: Mapping[str, Any]) -> None:
        note = self._folder / _JOB
        if note.exists():
            known = _read(note)
            other = sorted(key for key in {*known, *job} if known.get(key) != job.get(key))
            if other:
                raise InputError(
                    f"{self._folder} holds segments of other work (another {', another '.join(other)}); finish that "
                    "with the command that began it, or remove the folder to begin anew."
                )
            return
        self._folder.mkdir(exist_ok=True)
        if any(self._folder.iterdir()):
            # It is removed with all that is in it when the video is whole.
            raise InputError(f"{self._folder} holds something else; segments go there, so move it away.")
        _write(note, job)

    def _found(self) -> list[_Finished]:
        """Return the finished segments, up to the first that is not as its note says."""
        found = []
        for note in sorted(self._folder.glob("[0-9]*.json")):
            try:
                each = _Finished(**_read(note))
                if (self._folder / each.file).stat().st_size != each.size:
                    break
            except (OSError, TypeError):
                break
            found.append(each)
        return found

    # -- a segment

    def _begin(self, index: int) -> None:
        import av

        ending = "mov" if self._encoding.name == "prores" else "nut"
        self._index, self._times, self._sent = index, [], 0
        self._file, self._part = f"{index:08}.{ending}", self._folder / f"part.{ending}"
        # Decoding begins before 0, and times are not to be moved for that.
        kept = {"avoid_negative_ts": "disabled"}
        with ffmpeg_errors(MediaError, f"{self._folder}: a segment cannot be begun"):
            self._container = av.open(os.path.abspath(self._part), "w", container_options=kept)
            self._stream = self._encoding.add_to(self._container, self._output.trim.reader, self._first)
            self._container.start_encoding()
        if bytes(self._stream.codec_context.extradata or b"") != self._header:
            raise InputError(
                "Segments of this encoder cannot be joined into this kind of file; write .mkv or .mp4."
            )

    def _mux(self, frame: VideoFrame | None) -> None:
        with ffmpeg_errors(MediaError, f"{self._folder}: a segment cannot be written"):
            packets = self._stream.encode(frame)
            self._times += [packet.pts for packet in packets]
            self._container.mux(packets)

    def _finish_segment(self) -> None:
        if self._index is None:
            return
        self._mux(None)
        with ffmpeg_errors(MediaError, f"{self._folder}: a segment cannot be finished"):
            self._container.close()
        self._container = None
        if len(self._times) != self._sent:
            raise MediaError(
                f"{self._folder}: of {self._sent} frames of a segment the encoder wrote {len(self._times)}."
            )
        os.replace(self._part, self._folder / self._file)
        told = [] if self._stages is None else list(self._stages.failures)
        done = _Finished(
            index=self._index,
            file=self._file,
            size=(self._folder / self._file).stat().st_size,
            frames=self._sent,
            delay=_delay(self._times),
            duration=self._duration,
            failures=[[each.seconds, each.message] for each in told[self._told :]],
        )
        self._told = len(told)
        _write(self._folder / f"{self._index:08}.json", asdict(done))
        self._done.append(done)
        self.frames += self._sent
        self._index = None

    def _let_go(self) -> None:
        if self._container is not None:
            close_quietly(self._container)
            self._container = None

    # -- the whole

    def _joined(self) -> Iterator[tuple[Fraction, Packet, bool]]:
        """Yield all packets of the video with their times, in the order of decoding, as one encoder would give them."""
        base = Fraction(self._first.time_base or 1)
        delay = max(each.delay for each in self._done)
        shown = [
            ticks for each in self._done for ticks in sorted(ticks for ticks, _ in self._packets(each, base))
        ]
        following = dict(pairwise(shown))
        number = 0
        for each in self._done:
            for ticks, packet in self._packets(each, base):
                packet.time_base, packet.pts = base, ticks
                # Frames are decoded in their order, and early enough for the one that is reordered furthest.
                late = shown[number - delay] if number >= delay else shown[number] - shown[delay] + shown[0]
                packet.dts = late
                packet.duration = following.get(ticks, ticks + each.duration) - ticks
                number += 1
                yield late * base, packet, True

    def _packets(self, segment: _Finished, base: Fraction) -> Iterator[tuple[int, Packet]]:
        import av

        with av.open(os.path.abspath(self._folder / segment.file)) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.size and packet.pts is not None:
                    yield round(packet.pts * Fraction(packet.time_base) / base), packet


def segments_folder(target: Path) -> Path:
    """Return where segments of this file are kept."""
    return target.with_name(f"{target.name}.segments")


def _delay(times: Sequence[int]) -> int:
    """Return by how many places a packet comes later than its frame is shown, at most."""
    rank = {ticks: place for place, ticks in enumerate(sorted(times))}
    return max(place - rank[ticks] for place, ticks in enumerate(times))


def _read(note: Path) -> dict[str, Any]:
    try:
        found = json.loads(note.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{note} cannot be read; remove the folder {note.parent} to begin anew.") from error
    return found if isinstance(found, dict) else {}


def _write(note: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(note) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")

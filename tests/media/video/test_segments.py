"""Parts of videos, and runs that go on where another was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from derain_engine.base.errors import InputError, MediaError
from derain_engine.engine.runtime import Engine
from derain_engine.media.video import segments as video_segments
from derain_engine.media.video.clean import clean_video
from derain_engine.media.video.options import VideoOptions
from derain_engine.media.video.reader import DecodedFrame, VideoReader
from derain_engine.media.video.segments import segments_folder

from ..clips import MANIFEST, Content, Shifting, engine, make_clip, read

#: 60 frames at a rate that varies, in ms.
TIMES = tuple(40 * number + number % 3 * 7 for number in range(60))
SEGMENT = 0.5


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    options = {"g": "25", "crf": "10", "preset": "ultrafast", "bf": "2"}
    return make_clip(path, times=TIMES, audio=True, title="Rain", codec="libx264", options=options)


def same_frames(one: Content, other: Content) -> bool:
    return all(
        np.array_equal(a, b)
        for first, second in zip(one.frames, other.frames, strict=True)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize(("start", "end"), [("0.5", "1.2"), (None, "1"), ("1.6", None), ("0.08", "0.13")])
@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_a_part_has_the_frames_and_packets_of_its_time(
    tmp_path: Path, clip: Path, ending: str, start: str | None, end: str | None
) -> None:
    low, high = Fraction(start or 0), Fraction(end or 100)
    with engine() as runs:
        clean_video(
            runs,
            clip,
            tmp_path / f"out.{ending}",
            codec="ffv1" if ending == "mkv" else "h264",
            start=None if start is None else low,
            end=None if end is None else high,
        )
    old, new = read(clip), read(tmp_path / f"out.{ending}")
    kept = [number for number, at in enumerate(old.times) if low <= at < high]
    zero = old.times[kept[0]] if start else Fraction(0)
    assert new.times == [old.times[number] - zero for number in kept]
    if ending == "mkv":
        old.frames = [old.frames[number] for number in kept]
        assert same_frames(old, new)
    sound = [
        (at - zero, data) for at, data in old.packets["audio"] if (not start or at >= zero) and at < high
    ]
    assert [data for _, data in new.packets.get("audio", [])] == [data for _, data in sound]
    for (at, _), (before, _) in zip(new.packets.get("audio", []), sound, strict=True):
        assert abs(at - before) <= Fraction(1, 1000)
    chapters = [(each["start"] * each["time_base"], each["end"] * each["time_base"]) for each in new.chapters]
    cut = (max(low, zero) if start else low, min(Fraction("0.2"), high))
    assert chapters == ([(0, cut[1] - cut[0])] if cut[0] < cut[1] else [])


@pytest.mark.parametrize("part", [("2", "1"), ("-1", None), ("1", "1")])
def test_a_part_that_is_empty_is_refused(tmp_path: Path, clip: Path, part: tuple[str, str | None]) -> None:
    start, end = (None if each is None else Fraction(each) for each in part)
    with engine() as runs, pytest.raises(InputError, match="ends after it starts"):
        clean_video(runs, clip, tmp_path / "out.mkv", start=start, end=end)
    with engine() as runs, pytest.raises(MediaError, match="no frame"):
        clean_video(runs, clip, tmp_path / "out.mkv", start=Fraction(50))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "ending"),
    [
        *(("h264", "yuv420p", ending) for ending in ("mkv", "mp4")),
        ("h265", "yuv420p10le", "mp4"),
        pytest.param("av1", "yuv420p", "mp4", marks=pytest.mark.slow),
        ("vp9", "yuv420p", "webm"),
        ("prores", "yuv422p10le", "mov"),
        ("ffv1", "yuv420p", "mkv"),
    ],
)
def test_segments_are_joined_as_they_were_encoded(
    tmp_path: Path, clip: Path, codec: str, pix_fmt: str, ending: str
) -> None:
    """Timestamps and other streams are those of a run in one piece; a lossless codec's frames, too."""
    targets = [tmp_path / f"{name}.{ending}" for name in ("whole", "joined")]
    drop = ["audio"] if ending == "webm" else []
    for target, resume in zip(targets, (False, True), strict=True):
        with engine(-20) as runs:
            done = clean_video(
                runs,
                clip,
                target,
                codec=codec,
                pix_fmt=pix_fmt,
                drop=drop,
                resume=resume,
                segment_seconds=SEGMENT,
            )
        assert (done.frames, done.failures) == (len(TIMES), ())
    whole, joined = map(read, targets)
    assert joined.times == whole.times
    assert joined.packets == whole.packets
    assert joined.metadata.get("title") == "Rain"
    assert [each["start"] for each in joined.chapters] == [0]
    if codec in ("ffv1", "prores"):
        assert same_frames(whole, joined)
    assert len(joined.frames) == len(TIMES)
    assert sorted(tmp_path.iterdir()) == sorted(targets)


RUN = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from tests.media.clips import Shifting, MANIFEST
from derain_engine.engine.runtime import Engine
from derain_engine.media.video.clean import clean_video

class Slow(Shifting):
    def run(self, batch, out=None):
        time.sleep(0.03)
        return super().run(batch, out)

engine = Engine(Slow(-20), MANIFEST, tile=0)
options = {"codec": sys.argv[5], "pix_fmt": sys.argv[6]}
clean_video(engine, sys.argv[1], sys.argv[2], resume=True, segment_seconds=float(sys.argv[3]), **options)
"""


@pytest.mark.parametrize(
    ("ending", "codec", "pix_fmt"),
    [("mp4", "h264", "yuv420p"), ("mkv", "ffv1", "yuv420p"), ("mov", "prores", "yuv422p10le")],
)
def test_a_killed_run_goes_on(tmp_path: Path, clip: Path, ending: str, codec: str, pix_fmt: str) -> None:
    killed, whole = (tmp_path / f"{name}.{ending}" for name in ("killed", "whole"))
    root = str(Path(__file__).resolve().parents[3])
    command = [sys.executable, "-c", RUN, str(clip), str(killed), str(SEGMENT), root, codec, pix_fmt]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    notes = segments_folder(killed)
    try:
        for _ in range(6000):
            if len(list(notes.glob("0*.json"))) >= 2 or process.poll() is not None:
                break
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = sorted(each.name for each in notes.glob("0*.json"))
    assert 2 <= len(kept) < 5, process.stderr and process.stderr.read()
    assert not killed.exists()

    told: list[str] = []
    with engine(-20) as runs:
        done = clean_video(
            runs,
            clip,
            killed,
            codec=codec,
            pix_fmt=pix_fmt,
            resume=True,
            segment_seconds=SEGMENT,
            progress=lambda stage, _: told.append(stage),
        )
        calls = runs._session.calls  # type: ignore[attr-defined]
        clean_video(runs, clip, whole, codec=codec, pix_fmt=pix_fmt, resume=True, segment_seconds=SEGMENT)
    assert done.frames == len(TIMES)
    assert 0 < calls <= len(TIMES) - 12 * len(kept)
    assert told[1].startswith(f"{len(TIMES) - calls + 1} of")
    assert same_frames(read(killed), read(whole))
    assert read(killed).times == read(whole).times
    assert read(killed).packets == read(whole).packets
    assert sorted(tmp_path.iterdir()) == sorted([killed, whole])


def stop_after(monkeypatch: pytest.MonkeyPatch, segments: int) -> None:
    """Ends a run like a full disk would, once so many segments are finished."""
    begin = video_segments.Segments._begin

    def failing(self: Any, index: int) -> None:
        if index >= segments:
            raise MediaError("no more")
        begin(self, index)

    monkeypatch.setattr(video_segments.Segments, "_begin", failing)


def interrupted(tmp_path: Path, clip: Path, segments: int, **options: Any) -> Path:
    target = tmp_path / "out.mkv"
    with (
        pytest.MonkeyPatch.context() as patch,
        engine(-20) as runs,
        pytest.raises(MediaError, match="no more"),
    ):
        stop_after(patch, segments)
        clean_video(runs, clip, target, resume=True, segment_seconds=SEGMENT, codec="ffv1", **options)
    assert not target.exists()
    return target


def test_segments_of_other_work_are_not_taken(tmp_path: Path, clip: Path) -> None:
    target = interrupted(tmp_path, clip, 2)
    for options, words in (
        ({"crf": 20}, "another encoding"),
        ({"codec": "ffv1", "start": Fraction(1)}, "another start"),
        ({"codec": "ffv1", "segment_seconds": 0.25}, "another segment length"),
    ):
        given: dict[str, Any] = {"segment_seconds": SEGMENT, **options}
        with engine(-20) as runs, pytest.raises(InputError, match=words):
            clean_video(runs, clip, target, resume=True, **given)
    with (
        Engine(Shifting(-20), MANIFEST, tile="auto") as runs,
        pytest.raises(InputError, match="another tile"),
    ):
        clean_video(runs, clip, target, resume=True, segment_seconds=SEGMENT, codec="ffv1")
    assert len(list(segments_folder(target).glob("*.nut"))) == 2


@pytest.mark.parametrize("damage", ["cut", "note", "gone"])
def test_a_segment_that_is_not_whole_is_made_again(tmp_path: Path, clip: Path, damage: str) -> None:
    target = interrupted(tmp_path, clip, 3)
    second = segments_folder(target) / "00000001.nut"
    if damage == "cut":
        second.write_bytes(second.read_bytes()[:-100])
    elif damage == "gone":
        second.unlink()
    else:
        second.with_suffix(".json").write_text(json.dumps({"index": 1}))
    with engine(-20) as runs:
        clean_video(runs, clip, target, resume=True, segment_seconds=SEGMENT, codec="ffv1")
        clean_video(runs, clip, tmp_path / "other.mkv", codec="ffv1")
    assert same_frames(read(target), read(tmp_path / "other.mkv"))
    assert not segments_folder(target).exists()


def test_what_failed_in_earlier_segments_is_told_again(tmp_path: Path, clip: Path) -> None:
    target = tmp_path / "out.mkv"
    options: dict[str, Any] = {
        "segment_seconds": SEGMENT,
        "resume": True,
        "on_error": "skip",
        "codec": "ffv1",
    }
    with pytest.MonkeyPatch.context() as patch, pytest.raises(MediaError):
        stop_after(patch, 2)
        with engine(-20, refuses=(3,)) as runs:
            clean_video(runs, clip, target, **options)
    with engine(-20) as runs:
        done = clean_video(runs, clip, target, **options)
    assert done.frames == len(TIMES) - 1
    assert [round(failure.seconds * 1000) for failure in done.failures] == [TIMES[3]]
    assert "tired" in done.failures[0].message


def test_a_run_that_halts_is_joined_as_far_as_it_came(tmp_path: Path, clip: Path) -> None:
    with engine(-20, refuses=(20,)) as runs:
        done = clean_video(runs, clip, tmp_path / "out.mkv", resume=True, segment_seconds=SEGMENT)
    assert (done.frames, len(done.failures), done.halted) == (20, 1, True)
    new = read(tmp_path / "out.mkv")
    assert len(new.frames) == 20
    assert new.packets["audio"][-1][0] <= new.times[-1]
    assert [each.name for each in tmp_path.iterdir()] == ["out.mkv"]


def test_damage_before_the_first_whole_frame_is_told_as_without_segments(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = VideoReader.read

    def damaged(reader: VideoReader) -> Iterator[Any]:
        items = read(reader)
        first = next(item for item in items if isinstance(item, DecodedFrame))
        yield DecodedFrame(None, first.seconds, "its data are damaged")
        yield from items

    monkeypatch.setattr(VideoReader, "read", damaged)
    done = []
    for resume in (False, True):
        options: dict[str, Any] = {"codec": "ffv1", "on_error": "skip", "resume": resume}
        with engine(-20) as runs:
            done.append(clean_video(runs, clip, tmp_path / f"out{resume:d}.mkv", **options))
    assert done[0].failures == done[1].failures and len(done[0].failures) == 1
    assert [each.frames for each in done] == [len(TIMES) - 1] * 2


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, clip: Path) -> None:
    target = tmp_path / "out.mkv"
    segments_folder(target).mkdir()
    (segments_folder(target) / "mine").write_text("x")
    with engine() as runs, pytest.raises(InputError, match="something else"):
        clean_video(runs, clip, target, resume=True)
    assert (segments_folder(target) / "mine").read_text() == "x"


@pytest.mark.parametrize("resume", [False, True])
def test_names_with_a_colon_are_names(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    """FFmpeg by itself takes what stands before it for a protocol."""
    monkeypatch.chdir(tmp_path)
    Path("rain:10:20.mkv").write_bytes(clip.read_bytes())
    with engine(-20) as runs:
        clean_video(runs, Path("rain:10:20.mkv"), Path("clean:10:20.mkv"), resume=resume)
    assert len(read(tmp_path / "clean:10:20.mkv").frames) == len(TIMES)


def test_only_files_can_be_resumed(tmp_path: Path, clip: Path) -> None:
    with (
        engine() as runs,
        clip.open("rb") as stream,
        pytest.raises(InputError, match="from one file to another"),
    ):
        clean_video(runs, stream, tmp_path / "out.mkv", resume=True)
    with pytest.raises(InputError, match="longer than 0"):
        VideoOptions(resume=True, segment_seconds=0)
    with engine() as runs, pytest.raises(InputError, match="--drop"):
        clean_video(runs, clip, tmp_path / "out.webm", resume=True)
    assert list(tmp_path.iterdir()) == []

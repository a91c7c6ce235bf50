"""Videos that fail: what is kept, what is said, and that no half file and no thread is left."""

from __future__ import annotations

import errno
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from derain_engine.base.errors import MediaError
from derain_engine.media.video import writer
from derain_engine.media.video.clean import clean_video
from derain_engine.media.video.stages import timestamp

from ..clips import engine, make_clip, read


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_no_video_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.mp4").write_bytes(content)
    with engine() as runs, pytest.raises(MediaError, match="cannot be read as video"):
        clean_video(runs, tmp_path / "in.mp4", tmp_path / "out.mp4")


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_truncated_file_is_finished_as_far_as_it_goes(tmp_path: Path, ending: str) -> None:
    options = {"g": "4", "bf": "0"}
    source = make_clip(
        tmp_path / f"in.{ending}", times=tuple(range(0, 2000, 100)), codec="libx264", options=options
    )
    data = source.read_bytes()
    if ending == "mp4":  # its index is moved to the front, where a cut leaves it whole
        data = _index_first(source)
    source.write_bytes(data[: len(data) * 6 // 10])
    with engine() as runs:
        done = clean_video(runs, source, tmp_path / f"out.{ending}")
    assert 0 < done.frames < 20
    assert len(done.failures) == 1
    assert "in." in done.failures[0].message
    assert "0:00:0" in done.failures[0].message
    assert len(read(tmp_path / f"out.{ending}").frames) == done.frames


def _index_first(path: Path) -> bytes:
    target = path.with_name("front.mp4")
    with av.open(str(path)) as old, av.open(str(target), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return target.read_bytes()


@pytest.mark.parametrize(
    ("on_error", "kept"),
    [("stop", [0, 1]), ("skip", [0, 1, 3, 4]), ("passthrough", [0, 1, 2, 3, 4])],
)
@pytest.mark.parametrize("parallelism", [1, 3])
def test_a_frame_that_the_engine_fails_at(
    tmp_path: Path, on_error: Any, kept: list[int], parallelism: int
) -> None:
    times = (0, 40, 80, 120, 160)
    source = make_clip(tmp_path / "in.mkv", times=times)
    with engine(parallelism=parallelism, refuses=(2,)) as runs:
        done = clean_video(runs, source, tmp_path / "out.mkv", codec="ffv1", on_error=on_error)
    if parallelism == 1:
        assert [failure.seconds for failure in done.failures] == [pytest.approx(0.08)]
        assert "0:00:00.080" in done.failures[0].message
        assert "tired" in done.failures[0].message
        new = read(tmp_path / "out.mkv")
        assert new.times == [Fraction(times[number], 1000) for number in kept]
        old = read(source)
        for number, frame in zip(kept, new.frames, strict=True):
            assert np.array_equal(frame[0], old.frames[number][0])
    else:  # which frame is the third call's is up to the threads
        assert len(done.failures) == 1
        assert read(tmp_path / "out.mkv").times == sorted(read(tmp_path / "out.mkv").times)


@pytest.mark.parametrize(
    ("on_error", "frames"), [("stop", range(1, 19)), ("skip", [19]), ("passthrough", [20])], ids=str
)
def test_a_frame_that_is_damaged(tmp_path: Path, on_error: Any, frames: Any) -> None:
    source = make_clip(tmp_path / "in.mkv", times=tuple(range(0, 800, 40)), codec="mpeg4")
    data = bytearray(source.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60] = bytes(60)
    source.write_bytes(data)
    with engine(-20) as runs:
        done = clean_video(runs, source, tmp_path / "out.mkv", codec="ffv1", on_error=on_error)
    assert len(done.failures) == 1
    assert "is broken: its data are damaged" in done.failures[0].message
    assert done.frames in frames
    old, new = read(source), read(tmp_path / "out.mkv")
    if on_error == "passthrough":
        same = [np.array_equal(a[0], b[0]) for a, b in zip(old.frames, new.frames, strict=True)]
        assert same.count(True) == 1
        assert float(new.times[same.index(True)]) == pytest.approx(done.failures[0].seconds)


@pytest.mark.parametrize(("options", "lost"), [({"g": "1"}, 1), ({"g": "4"}, 3)])
def test_ffv1_is_found_damaged_by_its_checksums(tmp_path: Path, options: dict[str, str], lost: int) -> None:
    """FFmpeg's decoder shows the frame before in their place, and says nothing."""
    source = make_clip(tmp_path / "in.mkv", times=tuple(range(0, 480, 40)), options=options)
    with av.open(str(source)) as container:
        whole = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = bytearray(source.read_bytes())
    at = data.index(whole[5]) + len(whole[5]) // 2
    data[at] ^= 0x10
    source.write_bytes(data)
    with engine(-20) as runs:
        done = clean_video(runs, source, tmp_path / "out.mkv", codec="ffv1", on_error="passthrough")
    assert [round(failure.seconds * 25) for failure in done.failures] == list(range(5, 5 + lost))
    assert "its data are damaged" in done.failures[0].message
    assert done.frames == 12


@pytest.mark.parametrize("options", [{"level": "1"}, {"level": "3", "slicecrc": "0"}], ids=str)
def test_ffv1_without_checksums_is_taken_as_it_is(tmp_path: Path, options: dict[str, str]) -> None:
    source = make_clip(tmp_path / "in.mkv", options=options)
    with engine() as runs:
        assert clean_video(runs, source, tmp_path / "out.mkv").failures == ()


def test_nothing_is_left_where_no_frame_could_be_cleaned(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", times=(0, 40, 80))
    # A frame that was begun when the one before it failed is called for again.
    with engine(refuses=tuple(range(9))) as runs, pytest.raises(MediaError, match="tired"):
        clean_video(runs, source, tmp_path / "out.mkv", on_error="skip")
    assert [each.name for each in tmp_path.iterdir()] == ["in.mkv"]


def fail_at(
    monkeypatch: pytest.MonkeyPatch, number: int, error: Exception, cause: Exception | None = None
) -> None:
    write = writer.VideoWriter.write
    calls = iter(range(1000))

    def failing(self: Any, frame: Any) -> None:
        if next(calls) == number:
            raise error from cause
        write(self, frame)

    monkeypatch.setattr(writer.VideoWriter, "write", failing)


def test_an_encoder_that_fails_leaves_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_clip(tmp_path / "in.mkv")
    fail_at(monkeypatch, 4, MediaError("the encoder failed: it is broken."))
    with engine() as runs:
        done = clean_video(runs, source, tmp_path / "out.mkv", codec="ffv1")
    assert done.frames == len(read(tmp_path / "out.mkv").frames) == 4
    assert "the encoder failed: it is broken, at 0:00:00.160" in done.failures[0].message


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MediaError("no room"), OSError(errno.ENOSPC, "No space left on device")),
        (RuntimeError("a defect"), None),
        (KeyboardInterrupt(), None),
    ],
    ids=["disk full", "defect", "interrupt"],
)
def test_no_half_file_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, cause: Exception | None
) -> None:
    source = make_clip(tmp_path / "in.mkv")

    def interrupt(stage: str, fraction: float) -> None:
        if stage.startswith("3 "):
            raise error

    progress = interrupt if isinstance(error, KeyboardInterrupt) else lambda *_: None
    if isinstance(error, Exception):
        fail_at(monkeypatch, 4, error, cause)
    threads = threading.active_count()
    with engine() as runs, pytest.raises(type(error)):
        clean_video(runs, source, tmp_path / "out.mkv", progress=progress)
    assert [each.name for each in tmp_path.iterdir()] == ["in.mkv"]
    assert threading.active_count() == threads


def test_memory_is_bounded_where_the_encoder_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_clip(tmp_path / "in.mkv", times=tuple(range(0, 1200, 40)))
    write, written, ahead = writer.VideoWriter.write, [0], []

    def slow(self: Any, frame: Any) -> None:
        time.sleep(0.005)
        written[0] += 1
        write(self, frame)

    monkeypatch.setattr(writer.VideoWriter, "write", slow)
    with engine() as runs:
        clean = runs._session.run  # type: ignore[attr-defined]

        def counting(batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
            ahead.append(runs._session.calls - written[0])  # type: ignore[attr-defined]
            return clean(batch, out)

        runs._session.run = counting  # type: ignore[method-assign]
        clean_video(runs, source, tmp_path / "out.mkv", codec="ffv1")
    assert max(ahead) <= 3 + 3


def test_timestamps_in_messages() -> None:
    assert [timestamp(each) for each in (0, 3.2, 3723.45)] == ["0:00:00.000", "0:00:03.200", "1:02:03.450"]

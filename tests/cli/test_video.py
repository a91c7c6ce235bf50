"""The verb ``video``: what it answers and with which exit code."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from derain_engine.cli import app
from derain_engine.media.video import stages

from ..media.clips import make_clip, read
from ..media.video.test_live import Camera
from .conftest import Outcome

Cli = Callable[..., Outcome]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "in.mkv", times=(0, 40, 90, 150), audio=True)


def test_a_video_is_cleaned(cli: Cli, clip: Path, reference_file: Path) -> None:
    target = clip.with_name("out.mkv")
    done = cli("video", clip, "-o", target, "-e", reference_file, "--codec", "ffv1", "--threads", 1)
    assert done.code == 0, done.err
    assert "4 frames in" in done.err
    assert done.out == ""
    old, new = read(clip), read(target)
    assert new.times == old.times
    assert new.packets == old.packets
    assert not np.array_equal(old.frames[0][0], new.frames[0][0])


def test_what_was_finished_is_kept_with_exit_code_5(cli: Cli, clip: Path, reference_file: Path) -> None:
    clip.write_bytes(clip.read_bytes()[:-8000])
    done = cli("video", clip, "-o", clip.with_name("out.mkv"), "-e", reference_file)
    assert done.code == 5, done.err
    assert "the frame at 0:00:00." in done.err
    assert "--on-error" in done.err
    assert 0 < len(read(clip.with_name("out.mkv")).frames) < 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.mkv", "-o", "out.mkv"], "missing.mkv does not exist"),
        (["in.mkv", "-o", "in.mkv"], "is the input"),
        (["in.mkv", "-o", "out.mkv", "--tile", "wide"], "--tile takes"),
        (["in.mkv", "-o", "out.mkv", "--crf", "70"], "crf of 70"),
        (["in.mkv", "-o", "out.mkv", "--codec", "theora"], "--codec"),
    ],
)
def test_bad_usage_is_exit_code_2(
    cli: Cli,
    clip: Path,
    reference_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(clip.parent)
    done = cli("video", *arguments, "-e", reference_file)
    assert (done.code, words in done.err) == (2, True), done.err
    assert not Path("out.mkv").exists()


def test_without_pyav_it_says_what_to_install(cli: Cli, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    done = cli("video", clip, "-o", clip.with_name("out.mkv"))
    assert done.code == 3
    assert "derain-engine[video]" in done.err


def test_an_interrupt_leaves_nothing(
    cli: Cli, clip: Path, reference_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages.Stages, "_hand_on_unclean", interrupted)
    done = cli("video", clip, "-o", clip.with_name("out.mkv"), "-e", reference_file)
    assert done.code == 130
    assert [each.name for each in clip.parent.iterdir() if each.suffix == ".mkv"] == ["in.mkv"]


def frames_of(clip: Path) -> bytes:
    return b"".join(plane.tobytes() for frame in read(clip).frames for plane in frame)


def test_standard_output_takes_the_frames_alone(
    capfdbinary: pytest.CaptureFixture[bytes], clip: Path, reference_file: Path
) -> None:
    """Check that nothing of all that is told on the way gets between the frames."""
    code = app.run(["video", str(clip), "-o", "-", "-e", str(reference_file), "--format", "rawvideo"])
    told = capfdbinary.readouterr()
    assert code == 0, told.err
    assert len(told.out) == len(frames_of(clip))
    assert b"4 frames in" in told.err


@pytest.mark.slow
def test_a_pipeline_of_programs(clip: Path, reference_file: Path) -> None:
    """Put frames in and get frames out; a cut one at the end is told with exit code 5."""
    command = [sys.executable, "-c", "from derain_engine.cli import main; main()", "video", "-", "-o", "-"]
    raw = ["--size", "64x48", "--fps", "25", "--pix-fmt", "yuv420p", "--format", "rawvideo"]
    data = frames_of(clip)
    for given, code in ((data, 0), (data[:-10], 5)):
        done = subprocess.run(
            [*command, *raw, "-e", reference_file], input=given, capture_output=True, timeout=300, check=False
        )
        assert done.returncode == code, done.stderr
        assert len(done.stdout) == len(given) // 4608 * 4608


@pytest.mark.parametrize(
    "arguments",
    [["-", "--size", "64x48"], ["in.mkv", "--size", "64x48", "--fps", "25", "--pix-fmt", "yuv420p"]],
)
def test_raw_frames_need_all_that_they_do_not_say(cli: Cli, arguments: list[str]) -> None:
    done = cli("video", *arguments, "-o", "out.mkv")
    assert (done.code, "--size, --fps and --pix-fmt" in done.err) == (2, True), done.err


@pytest.mark.parametrize("values", [("64", "25"), ("0x48", "25"), ("64x48", "0"), ("64x48", "fast")])
def test_sizes_and_rates_that_are_none(cli: Cli, values: tuple[str, str]) -> None:
    done = cli("video", "-", "-o", "o.mkv", "--size", values[0], "--fps", values[1], "--pix-fmt", "yuv420p")
    assert done.code == 2
    assert "is not WxH" in done.err or "is no rate" in done.err


def test_a_part_is_cleaned_and_resumed(cli: Cli, clip: Path, reference_file: Path) -> None:
    target = clip.with_name("out.mkv")
    options = ["--start", "0:00.04", "--end", "0.15", "--resume", "--codec", "ffv1"]
    done = cli("video", clip, "-o", target, "-e", reference_file, *options)
    assert done.code == 0, done.err
    assert [float(at) for at in read(target).times] == [0, 0.05]
    assert not Path(f"{target}.segments").exists()


def test_the_output_is_like_the_input(cli: Cli, clip: Path, reference_file: Path) -> None:
    done = cli("video", clip, "-o", clip.with_name("out.mkv"), "-e", reference_file, "--like-input")
    assert done.code == 0, done.err
    assert read(clip.with_name("out.mkv")).video["codec"] == "ffv1"


@pytest.mark.parametrize("time", ["1:", "-1", "soon", "1:2:3:4"])
def test_times_that_are_none(cli: Cli, clip: Path, time: str) -> None:
    done = cli("video", clip, "-o", "out.mkv", f"--start={time}")
    assert (done.code, "is no time" in done.err) == (2, True), done.err


@pytest.mark.parametrize("latency", ["0.5", "soon"])
def test_latencies_that_are_none(cli: Cli, latency: str) -> None:
    done = cli("video", "rtsp://camera/live", "-o", "out.mkv", "--latency-ms", latency)
    assert (done.code, "is not a number of milliseconds" in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    "arguments",
    [["rtsp://camera/live", "--resume"], ["-", "--live"], ["tcp://127.0.0.1:1", "--start", "1"]],
)
def test_live_sources_take_fewer_options(cli: Cli, arguments: list[str]) -> None:
    done = cli("video", *arguments, "-o", "out.mkv")
    assert (done.code, "are for files and pipes" in done.err) == (2, True), done.err


def test_a_source_that_comes_to_an_end_is_told(cli: Cli, tmp_path: Path, reference_file: Path) -> None:
    camera = Camera(40)
    options = ["--latency-ms", "5000", "--reconnect", "0.3"]
    done = cli("video", camera.url, "-o", tmp_path / "out.mkv", "-e", reference_file, *options)
    assert done.code == 5, done.err
    assert "latency p50" in done.err and "gave no frame for 0.3 s" in done.err
    assert read(tmp_path / "out.mkv").frames


@pytest.mark.slow
def test_an_interrupt_of_live_video_leaves_a_whole_file(tmp_path: Path, reference_file: Path) -> None:
    camera, target = Camera(2000), tmp_path / "out.mp4"
    command = [sys.executable, "-c", "from derain_engine.cli import main; main()", "video", camera.url]
    with subprocess.Popen(
        [*command, "-o", target, "-e", reference_file, "--latency-ms", "5000"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in range(3000):
            if (
                any(each.stat().st_size > 1000 for each in tmp_path.glob(".out.*"))
                or process.poll() is not None
            ):
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert "frames" in told
    assert len(read(target).frames) > 1

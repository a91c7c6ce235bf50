"""The encoding of videos: like their source, with its HDR data, and whatever their length and streams."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, cast, get_args

import av
import cv2
import numpy as np
import pytest

from derain_engine.base.errors import InputError, MediaError
from derain_engine.media.video.clean import clean_video
from derain_engine.media.video.codecs import CODECS
from derain_engine.media.video.options import CodecName
from derain_engine.media.video.pixel_formats import side_data

from ..clips import engine, make_clip, random_frame, read


def moving(
    path: Path, codec: str, options: dict[str, str], frames: int = 100, pix_fmt: str = "yuv420p"
) -> Path:
    """Write a picture that moves under grain, which takes all bits that there are: 160 x 96 at 25 frames a second."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 600, 3), np.uint8)
    scene = cv2.GaussianBlur(noise, (0, 0), 0.8)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 96, pix_fmt
        for number in range(frames):
            grain = np.random.default_rng(number).integers(0, 60, (96, 160, 3), np.uint8)
            picture = np.asarray(
                cv2.add(np.ascontiguousarray(scene[:, 4 * number : 4 * number + 160]), grain)
            )
            frame = av.VideoFrame.from_ndarray(cast(Any, picture), format="rgb24").reformat(format=pix_fmt)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("rate", [300_000, 900_000])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_like_input_keeps_codec_profile_and_rate(tmp_path: Path, rate: int, ending: str) -> None:
    options = {"b": str(rate), "profile": "main", "preset": "fast"}
    source = moving(tmp_path / f"in.{ending}", "libx264", options)
    with engine() as runs:
        clean_video(runs, source, tmp_path / f"out.{ending}", like_input=True)
    with av.open(str(tmp_path / f"out.{ending}")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.profile) == ("h264", "Main")
    sizes = [path.stat().st_size for path in (source, tmp_path / f"out.{ending}")]
    assert 0.7 < sizes[1] / sizes[0] < 1.4


@pytest.mark.parametrize(
    ("codec", "options", "pix_fmt", "expected"),
    [
        ("libx265", {"x265-params": "log-level=error"}, "yuv420p10le", "hevc"),
        ("libvpx-vp9", {"crf": "40", "b": "0"}, "yuv420p", "vp9"),
        ("prores_ks", {"profile": "lt"}, "yuv422p10le", "prores"),
        ("ffv1", {}, "yuv420p", "ffv1"),
        ("huffyuv", {}, "yuv422p", "ffv1"),
        ("mpeg4", {"b": "300000"}, "yuv420p", "h264"),
    ],
)
def test_like_input_and_other_codecs(
    tmp_path: Path, codec: str, options: dict[str, str], pix_fmt: str, expected: str
) -> None:
    source = moving(tmp_path / ("in.avi" if codec == "huffyuv" else "in.mkv"), codec, options, 12, pix_fmt)
    with engine() as runs:
        clean_video(runs, source, tmp_path / "out.mkv", like_input=True)
    new = read(tmp_path / "out.mkv")
    assert (new.video["codec"].replace("libvpx-", ""), new.video["pix_fmt"]) == (expected, pix_fmt)
    if codec == "prores_ks":
        with av.open(str(tmp_path / "out.mkv")) as container:
            assert container.streams.video[0].codec_context.codec_tag == "apcs"


def test_like_input_is_a_quality_of_its_own(tmp_path: Path) -> None:
    source = moving(tmp_path / "in.mkv", "libx264", {}, 3)
    with engine() as runs, pytest.raises(InputError, match="leave out one"):
        clean_video(runs, source, tmp_path / "out.mkv", like_input=True, crf=20)
    with engine() as runs, pytest.raises(InputError, match="cannot hold h264"):
        clean_video(runs, source, tmp_path / "out.webm", like_input=True)


@pytest.mark.parametrize("codec", ["h264", "h265", "av1", "ffv1"])
def test_mastering_data_of_hdr(tmp_path: Path, codec: str, caplog: pytest.LogCaptureFixture) -> None:
    words = (
        "log-level=error:master-display=G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,1)"
    )
    source = make_clip(
        tmp_path / "in.mkv",
        times=(0, 40),
        pix_fmt="yuv420p10le",
        codec="libx265",
        options={"x265-params": words + ":max-cll=1000,400:bframes=0"},
    )
    with engine() as runs:
        clean_video(runs, source, tmp_path / "out.mkv", codec=codec)
    old, new = (read(tmp_path / name).first for name in ("in.mkv", "out.mkv"))
    assert ("without the source's HDR" in caplog.text) == (codec == "ffv1")
    if codec == "ffv1":
        return
    assert side_data(new, "CONTENT_LIGHT_LEVEL") == side_data(old, "CONTENT_LIGHT_LEVEL") != b""
    before, after = (
        np.frombuffer(side_data(frame, "MASTERING_DISPLAY_METADATA")[:80], np.int32).reshape(10, 2)
        for frame in (old, new)
    )
    # AV1 counts in 1/65536, and luminance in 1/16384 and 1/256 of a cd/m2.
    assert np.abs(before[:, 0] / before[:, 1] - after[:, 0] / after[:, 1]).max() < 3e-5


@pytest.mark.parametrize(
    ("codec", "ending"), [("h264", "mp4"), ("h265", "mp4"), ("ffv1", "mkv"), ("vp9", "webm")]
)
@pytest.mark.parametrize("frames", [1, 2])
def test_one_frame_and_two(tmp_path: Path, codec: str, ending: str, frames: int) -> None:
    source = make_clip(tmp_path / "in.mkv", times=(0, 40)[:frames])
    with engine(-20) as runs:
        done = clean_video(runs, source, tmp_path / f"out.{ending}", codec=codec)
    assert (done.frames, done.failures) == (frames, ())
    assert read(tmp_path / f"out.{ending}").times == [0, Fraction(40, 1000)][:frames]


@pytest.mark.parametrize("ending", ["mkv", "mp4", "ts"])
def test_a_video_of_no_frame_is_refused(tmp_path: Path, ending: str) -> None:
    """Clean a file with sound, and a video stream that has nothing in it."""
    source = tmp_path / f"in.{ending}"
    with av.open(str(source), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=48000)
        for block in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 48000, 1024 * block
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with engine() as runs, pytest.raises(MediaError, match=r"no (frame|video)|cannot be read"):
        clean_video(runs, source, tmp_path / f"out.{ending}")
    assert [each.name for each in tmp_path.iterdir()] == [source.name]


@pytest.fixture
def with_data(tmp_path: Path) -> Path:
    """Write a video with a stream of positions, as cameras of drones write them."""
    path = tmp_path / "in.ts"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        data: Any = container.add_data_stream("klv")
        container.start_encoding()
        for number in range(5):
            frame = random_frame("yuv420p", number)
            frame.pts = number
            container.mux(video.encode(frame))
            packet = av.Packet(b"\x06\x0e\x2b\x34" + bytes([number]) * 20)
            packet.pts = packet.dts = number * 3600
            packet.time_base, packet.stream = Fraction(1, 90000), data
            container.mux(packet)
        container.mux(video.encode(None))
    return path


@pytest.mark.parametrize("ending", ["ts", "mov"])
@pytest.mark.parametrize("resume", [False, True])
def test_data_streams_are_copied(tmp_path: Path, with_data: Path, ending: str, resume: bool) -> None:
    target = tmp_path / f"out.{ending}"
    if ending == "ts" and resume:
        with engine() as runs, pytest.raises(InputError, match="cannot be joined"):
            clean_video(runs, with_data, target, resume=True)
        return
    with engine(-20) as runs:
        clean_video(runs, with_data, target, resume=resume)
    old, new = read(with_data), read(target)
    assert new.packets == old.packets
    assert len(new.packets["data"]) == 5
    assert new.times == old.times


def test_data_that_the_container_cannot_hold_is_refused_by_name(tmp_path: Path, with_data: Path) -> None:
    with engine() as runs, pytest.raises((InputError, MediaError), match="--drop"):
        clean_video(runs, with_data, tmp_path / "out.mkv")
    with engine() as runs:
        clean_video(runs, with_data, tmp_path / "out.mkv", drop=["data"])
    assert read(tmp_path / "out.mkv").packets == {}


def test_every_codec_that_can_be_named_has_an_encoder() -> None:
    assert set(get_args(CodecName)) == set(CODECS)

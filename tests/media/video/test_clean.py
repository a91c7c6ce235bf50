"""Videos through an engine: what is written is read back and compared with the source."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from derain_engine.base.errors import InputError, MediaError
from derain_engine.media.video.clean import clean_video
from derain_engine.media.video.colour import coding_of, yuv_from_rgb
from derain_engine.media.video.options import VideoOptions
from derain_engine.media.video.pixel_formats import side_data

from ..clips import engine, make_clip, random_frame, read

#: Variable: no two steps are alike.
VARIABLE = (0, 40, 87, 141, 202, 270, 345, 427, 516, 612, 715, 900)
FORMATS = "yuv420p yuv422p yuv444p yuv420p10le yuv422p10le yuv444p10le yuv420p12le bgr0 gbrp10le".split()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of 64 x 48, variable frame rate, lossless, with sound and subtitles."""
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    lossless = {"codec": "libx264", "options": {"crf": "0", "preset": "ultrafast"}}
    return make_clip(path, times=VARIABLE, audio=True, subtitles=True, title="Rain", rotation=90, **lossless)


@pytest.mark.parametrize("pix_fmt", FORMATS)
@pytest.mark.parametrize("size", [(64, 48), (65, 33)])
def test_dry_frames_come_through_to_the_bit(tmp_path: Path, pix_fmt: str, size: tuple[int, int]) -> None:
    source = make_clip(tmp_path / "in.mkv", times=(0, 40, 80), pix_fmt=pix_fmt, size=size)
    with engine() as runs:
        done = clean_video(runs, source, tmp_path / "out.mkv", codec="ffv1")
    assert (done.frames, done.failures) == (3, ())
    old, new = read(source), read(tmp_path / "out.mkv")
    assert new.video["pix_fmt"] == pix_fmt
    for before, after in zip(old.frames, new.frames, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p10le"])
def test_the_engines_difference_is_what_changes(tmp_path: Path, pix_fmt: str) -> None:
    source = make_clip(tmp_path / "in.mkv", times=(0, 40, 80), pix_fmt=pix_fmt, colorspace=1, color_range=1)
    with engine(-20) as runs:
        clean_video(runs, source, tmp_path / "out.mkv", codec="ffv1")
    kind = coding_of(pix_fmt, matrix=1, colour_range=1, width=64, height=48)
    step = yuv_from_rgb(kind)[0].sum() * -20 / 255
    old, new = read(source), read(tmp_path / "out.mkv")
    for before, after in zip(old.frames, new.frames, strict=True):
        change = after[0].astype(int) - before[0]
        # Only where no channel is clipped is the difference the whole step.
        assert change.min() == round(step)
        assert change.max() <= 0
        assert (change == round(step)).mean() > 0.02


@pytest.mark.parametrize("ending", ["mkv", "mp4", "mov"])
def test_everything_beside_the_pictures_is_kept(tmp_path: Path, clip: Path, ending: str) -> None:
    target = tmp_path / f"out.{ending}"
    with engine(parallelism=2) as runs:
        done = clean_video(runs, clip, target, drop=() if ending == "mkv" else ("subtitle",))
    assert (done.frames, done.failures) == (len(VARIABLE), ())
    old, new = read(clip), read(target)
    assert new.times == [Fraction(each, 1000) for each in VARIABLE]
    kinds = {"audio", "subtitle"} if ending == "mkv" else {"audio"}
    assert set(new.packets) == kinds
    for kind in kinds:
        assert [data for _, data in new.packets[kind]] == [data for _, data in old.packets[kind]]
        shifts = [abs(a - b) for (a, _), (b, _) in zip(new.packets[kind], old.packets[kind], strict=True)]
        assert max(shifts) < Fraction(1, 40000)
    assert new.metadata["title"] == "Rain"
    assert [each["metadata"]["title"] for each in new.chapters] == ["rain"]
    assert new.video["aspect"] == Fraction(4, 3)
    assert new.first.rotation == old.first.rotation == 90
    assert (new.video["codec"], new.video["pix_fmt"]) == ("h264", "yuv420p")


@pytest.mark.parametrize(
    "colours", [(1, 1, 1, 1), (1, 6, 6, 6), (1, 9, 9, 14), (2, 1, 1, 1), (2, 5, 5, 13)], ids=str
)
def test_colour_properties_are_kept(tmp_path: Path, colours: tuple[int, ...]) -> None:
    names = ("color_range", "colorspace", "color_primaries", "color_trc")
    properties = dict(zip(names, colours, strict=True))
    source = make_clip(tmp_path / "in.mkv", times=(0, 40), **properties)
    with engine() as runs:
        clean_video(runs, source, tmp_path / "out.mp4")
    assert read(tmp_path / "out.mp4").video["colours"] == list(colours)


def test_ten_bits_stay_ten_bits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = make_clip(
        tmp_path / "in.mkv",
        times=(0, 40),
        pix_fmt="yuv420p10le",
        color_trc=16,
        colorspace=9,
        color_primaries=9,
    )
    with engine() as runs:
        clean_video(runs, source, tmp_path / "out.mp4")
    video = read(tmp_path / "out.mp4").video
    assert (video["codec"], video["pix_fmt"], video["colours"][1:]) == ("hevc", "yuv420p10le", [9, 9, 16])
    assert "PQ" in caplog.text


def test_hdr_mastering_data_are_kept(tmp_path: Path) -> None:
    words = (
        "log-level=error:master-display=G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,1)"
    )
    source = make_clip(
        tmp_path / "in.mp4",
        times=(0, 40),
        pix_fmt="yuv420p10le",
        codec="libx265",
        options={"x265-params": words + ":max-cll=1000,400:bframes=0"},
    )
    with engine() as runs:
        clean_video(runs, source, tmp_path / "out.mp4")
    frames = [read(path).first for path in (source, tmp_path / "out.mp4")]
    for kind in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"):
        first, second = (side_data(frame, kind) for frame in frames)
        assert first == second
        assert len(first) >= 8


def test_frames_can_be_converted_first(tmp_path: Path, clip: Path) -> None:
    options = VideoOptions(codec="prores", drop=("subtitle",))
    with engine() as runs:
        clean_video(runs, clip, tmp_path / "out.mov", options, pix_fmt="yuv422p10le")
    assert read(tmp_path / "out.mov").video["pix_fmt"] == "yuv422p10le"


def test_an_aspect_ratio_that_is_lost_is_told(
    tmp_path: Path, clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with engine() as runs:
        clean_video(runs, clip, tmp_path / "kept.mkv")
        assert not caplog.text
        clean_video(runs, clip, tmp_path / "lost.mkv", codec="ffv1")
    assert "sample aspect ratio of 4/3" in caplog.text


def test_progress_counts_frames(tmp_path: Path, clip: Path) -> None:
    told: list[tuple[str, float]] = []
    with engine() as runs:
        clean_video(runs, clip, tmp_path / "out.mkv", progress=lambda *each: told.append(each))
    assert told[0] == ("Cleaning", 0.0)
    assert len(told) == 1 + len(VARIABLE)
    assert told[-1][0].startswith("12 of ")
    assert "fps" in told[-1][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codec": "h264", "target": "out.webm"}, "cannot hold h264"),
        ({"target": "out.mp4"}, "--drop subtitle"),
        ({"target": "out.nonsense"}, ".mkv"),
        ({"target": "out.avi", "drop": ["subtitle"]}, "no timestamps"),
        ({"crf": 99}, "crf of 99"),
        ({"crf": 5, "codec": "ffv1"}, "ffv1 has no crf"),
        ({"codec": "prores"}, "--pix-fmt"),
        ({"codec": "theora"}, "theora"),
        ({"pix_fmt": "yuv999p"}, "yuv999p"),
        ({"drop": ["smell"]}, "smell"),
        ({"target": "no/folder.mkv"}, "does not exist"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_before_the_work(
    tmp_path: Path, clip: Path, options: dict[str, Any], words: str
) -> None:
    options = dict(options)
    with engine() as runs, pytest.raises((InputError, MediaError), match=words):
        clean_video(runs, clip, tmp_path / options.pop("target", "out.mkv"), **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pix_fmt", "size", "taken"),
    [
        ("yuv420p", (65, 48), False),
        ("yuv420p", (64, 33), False),
        ("yuv422p", (65, 48), False),
        ("yuv422p", (64, 33), True),
        ("yuv444p", (65, 33), True),
    ],
)
def test_odd_sides_and_h264(tmp_path: Path, pix_fmt: str, size: tuple[int, int], taken: bool) -> None:
    source = make_clip(tmp_path / "in.mkv", times=(0,), pix_fmt=pix_fmt, size=size)
    with engine() as runs:
        if not taken:
            with pytest.raises(InputError, match="--pix-fmt yuv444p"):
                clean_video(runs, source, tmp_path / "out.mp4")
        options: dict[str, Any] = {} if taken else {"pix_fmt": "yuv444p"}
        assert clean_video(runs, source, tmp_path / "out.mp4", **options).frames == 1
    assert len(read(tmp_path / "out.mp4").frames) == 1


def test_the_input_is_not_overwritten(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", times=(0, 40))
    (tmp_path / "other.mkv").symlink_to(source)
    with engine() as runs, pytest.raises(InputError, match="is the input"):
        clean_video(runs, source, tmp_path / "other.mkv")


def test_attachments_and_further_videos_are_copied(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as container:
        streams: list[Any] = [container.add_stream(codec, rate=25) for codec in ("libx264", "mpeg4")]
        container.add_attachment("font.ttf", "font/ttf", b"abc" * 100)
        for stream, side in zip(streams, (64, 32), strict=True):
            stream.width = stream.height = side
        for number in range(6):
            for stream in streams:
                frame = random_frame("yuv420p", number, stream.width, stream.height)
                frame.pts = number
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    with engine(-20) as runs:
        clean_video(runs, source, tmp_path / "out.mkv")
    old, new = read(source), read(tmp_path / "out.mkv")
    assert len(old.packets["video"]) == 6
    assert [data for _, data in new.packets["video"]] == [data for _, data in old.packets["video"]]
    with av.open(str(tmp_path / "out.mkv")) as container:
        attached = container.streams.attachments[0]
        assert (attached.name, attached.mimetype, attached.data) == ("font.ttf", "font/ttf", b"abc" * 100)

"""Frames from other programs and to them: nothing changed on the way, and every end of a pipe told."""

from __future__ import annotations

import io
import os
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from derain_engine.base.errors import InputError, MediaError
from derain_engine.media.video.clean import clean_video
from derain_engine.media.video.pipes import RawFrames

from ..clips import codes, engine, make_clip, random_frame, read

WIDTH, HEIGHT = 64, 48


def y4m(frames: list[av.VideoFrame], tag: str, head: str = "F30000:1001 Ip A4:3") -> bytes:
    """Write YUV4MPEG2 by its description, not by the library that the code under test uses."""
    first = frames[0]
    data = f"YUV4MPEG2 W{first.width} H{first.height} {head} C{tag}\n".encode()
    return data + b"".join(b"FRAME\n" + raw(frame) for frame in frames)


def raw(frame: av.VideoFrame) -> bytes:
    return b"".join(plane.tobytes() for plane in codes(frame))


def noise(pix_fmt: str, count: int = 5, size: tuple[int, int] = (WIDTH, HEIGHT)) -> list[av.VideoFrame]:
    return [random_frame(pix_fmt, seed, *size) for seed in range(count)]


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (65, 33), (1, 1)])
@pytest.mark.parametrize(
    ("pix_fmt", "tag"),
    [
        ("yuv420p", "420mpeg2"),
        ("yuv420p", "420jpeg"),
        ("yuv420p", "420paldv"),
        ("yuv422p", "422"),
        ("yuv444p", "444"),
        ("yuv420p10le", "420p10"),
    ],
)
def test_y4m_comes_through_to_the_bit(pix_fmt: str, tag: str, size: tuple[int, int]) -> None:
    frames = noise(pix_fmt, size=size)
    out = io.BytesIO()
    with engine() as runs:
        done = clean_video(runs, io.BytesIO(y4m(frames, tag)), out)
    assert (done.frames, done.failures) == (len(frames), ())
    head, body = out.getvalue().split(b"\n", 1)
    assert head == f"YUV4MPEG2 W{size[0]} H{size[1]} F30000:1001 Ip A4:3 C{tag}".encode()
    assert body == y4m(frames, tag).split(b"\n", 1)[1]


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "gray10le", "nv12", "rgb24", "yuv422p10le"])
def test_raw_frames_keep_their_format(pix_fmt: str) -> None:
    if pix_fmt == "gray10le":
        with engine() as runs, pytest.raises(InputError, match="--pix-fmt"):
            clean_video(
                runs, io.BytesIO(bytes(128)), io.BytesIO(), raw=RawFrames(8, 8, Fraction(25), pix_fmt)
            )
        return
    size = sum(plane.height * plane.line_size for plane in av.VideoFrame(WIDTH, HEIGHT, pix_fmt).planes)
    data = np.random.default_rng(0).integers(0, 4, 4 * size, np.uint8).tobytes()
    out = io.BytesIO()
    with engine() as runs:
        done = clean_video(
            runs,
            io.BytesIO(data),
            out,
            raw=RawFrames(WIDTH, HEIGHT, Fraction(25), pix_fmt),
            pipe_format="rawvideo",
        )
    assert (done.frames, done.failures) == (4, ())
    assert out.getvalue() == data


def semiplanar(bits: int, size: tuple[int, int], count: int = 3) -> bytes:
    """Frames of NV12, or of P010 with its codes in the upper bits, over every code."""
    width, height = size
    samples = height * width + 2 * (-(-height // 2) * -(-width // 2))
    rng = np.random.default_rng(1)
    if bits == 8:
        return rng.integers(0, 256, count * samples, np.uint8).tobytes()
    return (rng.integers(0, 1024, count * samples, np.uint16) << 6).tobytes()


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (65, 33), (7, 13), (1, 1)])
@pytest.mark.parametrize(("pix_fmt", "bits"), [("nv12", 8), ("p010le", 10)])
def test_interleaved_chroma_comes_through_to_the_bit(pix_fmt: str, bits: int, size: tuple[int, int]) -> None:
    data, out, raw_frames = semiplanar(bits, size), io.BytesIO(), RawFrames(*size, Fraction(25), pix_fmt)
    with engine() as runs:
        clean_video(runs, io.BytesIO(data), out, raw=raw_frames, pipe_format="rawvideo")
    assert out.getvalue() == data


@pytest.mark.parametrize(("pix_fmt", "planar"), [("nv12", "yuv420p"), ("p010le", "yuv420p10le")])
@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (65, 33)])
def test_interleaved_chroma_is_changed_like_planes(pix_fmt: str, planar: str, size: tuple[int, int]) -> None:
    """Ask a planar file for it; the same frames interleaved give the same interleaved."""
    data = b"".join(map(raw, noise(planar, 3, size)))
    outs = {name: io.BytesIO() for name in ("planar", "interleaved")}
    kind = RawFrames(*size, Fraction(25), planar)
    with engine(-20) as runs:
        clean_video(runs, io.BytesIO(data), outs["planar"], raw=kind, pipe_format="rawvideo")
        options: Any = {"raw": kind, "pipe_format": "rawvideo", "pix_fmt": pix_fmt}
        clean_video(runs, io.BytesIO(data), outs["interleaved"], **options)
    dtype, shift = (np.uint8, 0) if planar == "yuv420p" else (np.uint16, 6)
    found, expected = (
        np.frombuffer(each.getvalue(), dtype) for each in (outs["interleaved"], outs["planar"])
    )
    pixels, chroma = size[0] * size[1], -(-size[0] // 2) * -(-size[1] // 2)
    for one, other in zip(found.reshape(3, -1) >> shift, expected.reshape(3, -1), strict=True):
        assert np.array_equal(one[:pixels], other[:pixels])
        assert np.array_equal(one[pixels::2], other[pixels : pixels + chroma])
        assert np.array_equal(one[pixels + 1 :: 2], other[pixels + chroma :])


def test_a_file_takes_interleaved_frames_as_planes(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv")
    with engine() as runs:
        clean_video(runs, source, tmp_path / "out.mkv", codec="ffv1", pix_fmt="nv12")
    old, new = read(source), read(tmp_path / "out.mkv")
    assert new.video["pix_fmt"] == "yuv420p"
    assert all(np.array_equal(a, b) for a, b in zip(old.frames[0], new.frames[0], strict=True))


def test_the_engines_difference_reaches_the_pipe() -> None:
    frames = noise("yuv444p")
    out = io.BytesIO()
    with engine(-20) as runs:
        clean_video(runs, io.BytesIO(y4m(frames, "444")), out)
    new = np.frombuffer(out.getvalue()[-WIDTH * HEIGHT * 3 :], np.uint8)
    change = new.astype(int)[: WIDTH * HEIGHT] - codes(frames[-1])[0].reshape(-1)
    assert change.min() < -10
    assert change.max() <= 0


@pytest.mark.parametrize("on_error", ["stop", "skip", "passthrough"])
@pytest.mark.parametrize("headed", [True, False])
def test_a_last_frame_that_is_cut_off_is_told(headed: bool, on_error: Any) -> None:
    frames = noise("yuv420p")
    data = y4m(frames, "420mpeg2") if headed else b"".join(map(raw, frames))
    kind = None if headed else RawFrames(WIDTH, HEIGHT, Fraction(25), "yuv420p")
    out = io.BytesIO()
    with engine() as runs:
        done = clean_video(
            runs, io.BytesIO(data[:-100]), out, raw=kind, pipe_format="rawvideo", on_error=on_error
        )
    assert done.frames == len(frames) - 1
    assert len(done.failures) == 1
    assert "Standard input" in done.failures[0].message
    assert out.getvalue() == b"".join(map(raw, frames[:-1]))


def test_a_file_goes_into_a_pipe_and_a_pipe_into_a_file(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", audio=True, codec="libx264")
    out = io.BytesIO()
    with engine() as runs:
        clean_video(runs, source, out)
        out.seek(0)
        clean_video(runs, out, tmp_path / "piped.mkv", codec="ffv1")
        # A container that is read from front to back brings everything that is in it.
        with source.open("rb") as stream:
            clean_video(runs, stream, tmp_path / "whole.mkv", codec="ffv1")
    old, piped, whole = (read(tmp_path / name) for name in ("in.mkv", "piped.mkv", "whole.mkv"))
    for before, *after in zip(old.frames, piped.frames, whole.frames, strict=True):
        assert all(np.array_equal(before[plane], each[plane]) for each in after for plane in range(3))
    assert whole.times == old.times
    assert whole.packets.keys() == {"audio"}
    assert whole.packets["audio"] == old.packets["audio"]


def test_what_reads_the_pipe_may_leave() -> None:
    incoming, outgoing = os.pipe()
    data = y4m(noise("yuv420p", 400), "420mpeg2")

    def leave() -> None:
        os.read(incoming, 100)
        os.close(incoming)

    leaving = threading.Thread(target=leave)
    leaving.start()
    threads = threading.active_count()
    with engine() as runs, os.fdopen(outgoing, "wb") as stream:
        try:
            done = clean_video(runs, io.BytesIO(data), stream)
            assert "closed by the program that read it" in done.failures[0].message
            assert done.frames < 400
        except MediaError as error:  # where it left before the first frame
            assert "closed" in str(error)
    leaving.join()
    assert threading.active_count() <= threads


@pytest.mark.parametrize("data", [b"", b"YUV4MPEG2 W64\n", b"no video" * 100])
def test_what_is_no_video_is_said_to_be_none(data: bytes) -> None:
    out = io.BytesIO()
    with engine() as runs, pytest.raises(MediaError, match="Standard input"):
        clean_video(runs, io.BytesIO(data), out)
    assert out.getvalue() == b""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codec": "h264"}, "are for files"),
        ({"crf": 10}, "are for files"),
        ({"pix_fmt": "gbrp"}, "y4m cannot hold gbrp"),
    ],
    ids=str,
)
def test_what_a_pipe_cannot_take_is_refused(options: dict[str, Any], words: str) -> None:
    with engine() as runs, pytest.raises(InputError, match=words):
        clean_video(runs, io.BytesIO(y4m(noise("yuv444p"), "444")), io.BytesIO(), **options)


@pytest.mark.parametrize(
    "raw_frames", [(0, 4, 25, "yuv420p"), (4, 4, 0, "yuv420p"), (4, 4, 25, "yuv999p")], ids=str
)
def test_raw_frames_that_cannot_be(raw_frames: Any) -> None:
    with pytest.raises(InputError):
        RawFrames(raw_frames[0], raw_frames[1], Fraction(raw_frames[2]), raw_frames[3])

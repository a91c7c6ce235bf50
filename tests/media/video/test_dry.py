"""Frames that are taken for dry, on made pictures and on the rainy and clean pairs of the literature."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from derain_engine.base.errors import MediaError
from derain_engine.media.video.clean import clean_video
from derain_engine.media.video.dry import DryDetector
from derain_engine.samples.rain import Rain, Streaks, add_rain

from ..clips import Shifting, engine, read
from .test_segments import stop_after

DRIZZLE = Rain((Streaks(length=10, width=1.1, angle=5, density=1.5, brightness=0.2),), "saturate")
HEAVY = Rain((Streaks(length=24, width=1.6, angle=10, density=4.0, brightness=0.6),), "saturate")


def scene(height: int = 192, width: int = 256) -> np.ndarray:
    """Discs before each other, under a fine texture: H x W x 3 float32."""
    rng = np.random.default_rng(3)
    picture = np.full((height, width), 0.5, np.float32)
    for _ in range(20):
        at = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(picture, at, int(rng.integers(20, 60)), float(rng.uniform(0.15, 0.7)), -1)
    grain = cv2.GaussianBlur(rng.normal(0, 0.35, picture.shape).astype(np.float32), (0, 0), 1.0)
    return np.repeat(np.clip(cv2.GaussianBlur(picture, (0, 0), 1.0) + grain, 0, 1)[..., None], 3, 2)


def rained(rain: Rain, seed: int = 0) -> np.ndarray:
    return add_rain(scene(), rain, np.random.default_rng(seed))[0]


def luma(picture: np.ndarray, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return a picture's luma as uint8, with sensor noise of so many levels."""
    grey = cv2.cvtColor(np.asarray(picture, np.float32), cv2.COLOR_RGB2GRAY) * 255
    grey = grey + np.random.default_rng(seed).normal(0, noise, grey.shape)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def test_a_scene_is_dry_and_rain_is_not() -> None:
    assert DryDetector().is_dry(luma(scene()))
    assert not DryDetector().is_dry(luma(rained(HEAVY)))


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_drizzle_on_a_still_scene_shows_in_the_new_light(noise: float) -> None:
    one, two = (luma(rained(DRIZZLE, seed), noise, seed) for seed in (1, 2))
    assert DryDetector().is_dry(two)  # by itself it is too faint
    still = DryDetector()
    still.is_dry(one)
    assert not still.is_dry(two)
    still.skip()
    assert still.is_dry(two)
    dry = DryDetector()
    assert [dry.is_dry(luma(scene(), noise, seed)) for seed in range(4)] == [True] * 4


def test_moving_cameras_are_judged_frame_by_frame() -> None:
    moving = DryDetector()
    big = scene(192, 300)
    assert all(moving.is_dry(luma(big[:, at : at + 256])) for at in (0, 9, 18, 27))


def test_large_frames_are_judged_like_small_ones() -> None:
    for picture, dry in ((scene(), True), (rained(HEAVY), False)):
        large = cv2.resize(luma(picture), (1280, 960), interpolation=cv2.INTER_CUBIC)
        assert DryDetector().is_dry(large) is dry


@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (31, 200), (200, 31)])
def test_in_doubt_a_frame_is_not_dry(shape: tuple[int, int]) -> None:
    assert not DryDetector().is_dry(np.zeros(shape, np.uint8))


def make_video(path: Path, pictures: Sequence[np.ndarray], pix_fmt: str) -> Path:
    """Lossless, 25 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", 25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.rint(picture * 255).astype(np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "bgr0"])
def test_dry_frames_are_left_alone_and_counted(tmp_path: Path, pix_fmt: str) -> None:
    pictures = [scene()] * 3 + [rained(HEAVY, seed) for seed in range(2)] + [scene()]
    source = make_video(tmp_path / "in.mkv", pictures, pix_fmt)
    with engine(-20) as runs:
        session: Any = runs._session
        assert isinstance(session, Shifting)
        done = clean_video(runs, source, tmp_path / "out.mkv", codec="ffv1", skip_dry=True)
        assert session.calls == 2
    assert (done.frames, done.dry, done.failures) == (6, 4, ())
    assert done.saved > 0
    old, new = read(source), read(tmp_path / "out.mkv")
    assert new.times == old.times
    same = [
        all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        for before, after in zip(old.frames, new.frames, strict=True)
    ]
    assert same == [True] * 3 + [False] * 2 + [True]


def test_without_asking_no_frame_is_skipped(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mkv", [scene()] * 2, "yuv420p")
    with engine(-20) as runs:
        done = clean_video(runs, source, tmp_path / "out.mkv")
    assert (done.dry, done.saved) == (0, 0)


def test_a_resumed_run_skips_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the first frame after a finished segment with the last one in it."""
    pictures = [rained(DRIZZLE, seed) for seed in range(6)]
    source = make_video(tmp_path / "in.mkv", pictures, "yuv420p")
    options: dict[str, Any] = {
        "codec": "ffv1",
        "skip_dry": True,
        "resume": True,
        "segment_seconds": Fraction(3, 25),
    }
    with engine(-20) as runs:
        clean_video(runs, source, tmp_path / "whole.mkv", **options)
    with monkeypatch.context() as patch, engine(-20) as runs, pytest.raises(MediaError, match="no more"):
        stop_after(patch, 1)
        clean_video(runs, source, tmp_path / "cut.mkv", **options)
    with engine(-20) as runs:
        done = clean_video(runs, source, tmp_path / "cut.mkv", **options)
    assert (done.frames, done.dry) == (6, 0)
    for before, after in zip(
        read(tmp_path / "whole.mkv").frames, read(tmp_path / "cut.mkv").frames, strict=True
    ):
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def skipped(paths: Sequence[Path]) -> int:
    """Return how many are taken for dry of pictures looked at one by one."""
    return sum(
        DryDetector().is_dry(cv2.cvtColor(np.asarray(cv2.imread(str(path))), cv2.COLOR_BGR2GRAY))
        for path in paths
    )


@pytest.mark.slow
def test_error_rates_on_the_pairs_of_the_literature(shared_data: Path) -> None:
    """Measure the figures of the README: rainy pictures that are missed and clean ones that are seen as such."""
    found = {
        name: tuple(skipped(sorted((shared_data / name / kind).iterdir())) for kind in ("rainy", "clean"))
        for name in ("rain100h", "rain100l", "sirr20")
    }
    assert found == {"rain100h": (1, 22), "rain100l": (0, 24), "sirr20": (1, 10)}

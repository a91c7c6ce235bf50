"""Temporal flicker, on clips whose frames are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from derain_engine.base.errors import InputError, MediaError, VerificationError
from derain_engine.evaluation import subject
from derain_engine.evaluation.evaluate import evaluate
from derain_engine.evaluation.subject import Subject
from derain_engine.evaluation.video import measure_flicker
from derain_engine.media.video.colour import coding_of, to_rgb

from ..media.clips import make_clip, read

TIMES = (0, 40, 90, 150, 190)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Five frames of noise, so that every transition is large."""
    return make_clip(tmp_path / "rain.mkv", times=TIMES, audio=True)


def rgb(path: Path) -> np.ndarray:
    """Read a video as frames x H x W x 3 in levels of 1/255."""
    coding = coding_of("yuv420p", matrix=2, colour_range=1, width=64, height=48)
    return np.stack([to_rgb(planes, coding) for planes in read(path).frames]).astype(np.float64)


def flicker(frames: np.ndarray) -> float:
    return float(np.abs(np.diff(frames, axis=0)).mean())


def test_the_three_flickers_are_those_of_the_definition(clip: Path) -> None:
    frames = rgb(clip)
    weights = iter([0.5, 1.0, 0.5, 0.25, 0.75])
    fades = [0.5, 1.0, 0.5, 0.25, 0.75]
    found = measure_flicker(clip, Subject("fading", "", lambda x: x * np.float32(next(weights))))
    cleaned = np.stack([frame * fade for frame, fade in zip(frames, fades, strict=True)])
    assert found.transitions == 4 and found.broken == ()
    assert found.source == pytest.approx(flicker(frames), rel=1e-5)
    assert found.output == pytest.approx(flicker(cleaned), rel=1e-5)
    assert found.residual == pytest.approx(flicker(frames - cleaned), rel=1e-5)
    assert found.relative == pytest.approx(found.residual / found.source)


def test_what_stays_as_it_is_has_no_residual_and_what_fades_evenly_its_share(clip: Path) -> None:
    same = measure_flicker(clip, Subject("same", "", lambda x: x))
    assert (same.residual, same.relative) == (0, 0) and same.output == same.source > 10
    darker = measure_flicker(clip, Subject("darker", "", lambda x: (x + 1) / 4))
    assert darker.residual == pytest.approx(0.75 * same.source, rel=1e-5)


def test_the_protocol_holds_for_video(clip: Path) -> None:
    def remove_rain(x: np.ndarray) -> np.ndarray:
        return 0.9 * x - 0.05

    frames = rgb(clip)
    found = measure_flicker(clip, Subject("", "", remove_rain), "truncated")
    expected = np.floor(np.clip(255 * remove_rain(frames / 255), 0, 255) + 1e-4)
    assert found.output == pytest.approx(flicker(expected), abs=0.02)


def test_a_clean_video_is_compared_frame_by_frame(tmp_path: Path, clip: Path) -> None:
    other = make_clip(tmp_path / "clean.mkv", times=TIMES, pix_fmt="yuv444p")
    result = evaluate(other, videos=[clip])
    coding = coding_of("yuv444p", matrix=2, colour_range=1, width=64, height=48)
    cleaned = np.stack([to_rgb(planes, coding) for planes in read(other).frames]).astype(np.float64)
    (found,) = result.clips[str(clip)]
    assert found.output == pytest.approx(flicker(cleaned), rel=1e-5)
    assert found.residual == pytest.approx(flicker(rgb(clip) - cleaned), rel=1e-5)
    assert result.method == "a video, as it is" and not result.pictures
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert record["videos"][0]["name"] == str(clip)
    assert record["videos"][0]["output"]["transitions"] == 4
    assert "mean" not in record and set(record["protocol"]) == {"name", "values", "crop"}


def test_a_rival_is_measured_on_the_same_video(clip: Path) -> None:
    result = evaluate("opening", videos=[clip], against=clip)
    ours, rival = result.clips[str(clip)]
    assert (rival.residual, rival.source) == (0, ours.source) and ours.residual > 0
    assert result.to_json()["videos"][0]["rival"]["residual"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": TIMES[:-1]}, r"clean\.mkv ends before .*rain\.mkv"),
        ({"times": (*TIMES, 240)}, r"clean\.mkv goes on after .*rain\.mkv"),
        ({"size": (48, 64)}, r"rain\.mkv is 64x48 and .*clean\.mkv is 48x64"),
    ],
)
def test_videos_that_are_no_pair_are_refused(
    tmp_path: Path, clip: Path, changes: dict[str, Any], message: str
) -> None:
    options: dict[str, Any] = {"times": TIMES, **changes}
    other = make_clip(tmp_path / "clean.mkv", **options)
    with pytest.raises(InputError, match=message):
        evaluate(other, videos=[clip])


def test_a_broken_frame_takes_its_transitions_with_it(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    from derain_engine.evaluation import video as module
    from derain_engine.media.video.reader import DecodedFrame, VideoReader

    class Damaged(VideoReader):
        def read(self):
            shots = [item for item in super().read() if isinstance(item, DecodedFrame)]
            shots[1] = DecodedFrame(None, shots[1].seconds, "it is cut off")
            return iter(shots)

    frames = rgb(clip)
    monkeypatch.setattr(module, "VideoReader", Damaged)
    found = measure_flicker(clip, Subject("same", "", lambda x: x))
    assert found.transitions == 2 and found.source == pytest.approx(flicker(frames[2:]), rel=1e-5)
    assert found.broken == (f"{clip}: the frame at 0.040 s is broken: it is cut off",)


def test_a_still_source_has_no_relative_flicker(clip: Path) -> None:
    still = measure_flicker(clip, Subject("", "", lambda x: np.zeros_like(x)))
    assert still.output == 0 and still.residual == still.source
    assert math.isnan(replace(still, source=0.0, residual=0.0).relative)
    assert replace(still, source=0.0, residual=1.0).relative == math.inf
    assert replace(still, source=0.0).to_json()["relative"] is None


def test_one_frame_and_no_video_are_refused(tmp_path: Path, clip: Path) -> None:
    one = make_clip(tmp_path / "one.mkv", times=(0,))
    with pytest.raises(MediaError, match=r"one\.mkv has no two frames in a row"):
        evaluate("opening", videos=[one])
    (tmp_path / "no.mkv").write_text("no video")
    with pytest.raises(MediaError, match=r"no\.mkv cannot be read as video"):
        evaluate("opening", videos=[tmp_path / "no.mkv"])
    result = evaluate("opening", videos=[one, clip])
    assert [f.name for f in result.failures] == [str(one)] and list(result.clips) == [str(clip)]


def test_nan_is_never_averaged(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    monkeypatch.setattr(subject, "_opening", lambda image: image * np.float32("nan"))
    with pytest.raises(VerificationError, match=r"opening gave NaN .*rain\.mkv"):
        evaluate("opening", videos=[clip])


def test_subjects_that_do_not_fit_videos_are_refused(tmp_path: Path, clip: Path) -> None:
    from PIL import Image

    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="folder of clean pictures"):
        evaluate(tmp_path, videos=[clip])
    with pytest.raises(InputError, match="is a clean video; give the one rainy video"):
        evaluate(clip, tmp_path)
    with pytest.raises(InputError, match="no network"):
        evaluate(clip, videos=[clip], native=True)
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate("opening")

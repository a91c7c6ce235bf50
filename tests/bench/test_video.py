"""The rate of video, measured on little of it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from derain_engine.base.errors import DerainError, InputError
from derain_engine.bench import video
from derain_engine.bench.page import make_page
from derain_engine.bench.video import VideoBenchmark, VideoRow, bench_video, make_rainy_clip, stand_in
from derain_engine.cli import app
from derain_engine.media.video.stages import STAGES, Cleaned, FrameFailure

from ..media.clips import engine


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        video, "_PLUMBING", (("plumbing alone", 33, 65, 0.0, None), ("slow", 32, 64, 2.0, 1e9))
    )
    monkeypatch.setattr(video, "_PLUMBING_FRAMES", 20)


def test_the_plumbing_and_an_engine_are_measured(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "load", lambda *_, **__: engine(-20))
    result = bench_video(Path("fake.derain"), seconds=0.2, size=(32, 64), runs=2, threads=1, command="this")
    alone, slow, cleaned = result.rows
    assert [row.frames for row in result.rows] == [20, 20, 5]
    assert (alone.through, alone.backend, alone.wanted) == ("pipes", None, None)
    assert slow.busy_ms["engine"] >= 2
    assert slow.frames_per_second < 500
    assert (cleaned.name, cleaned.through, cleaned.threads) == ("fake.derain", "files", 1)
    assert cleaned.busy_ms.keys() == set(STAGES)
    assert all(row.slowest <= row.frames_per_second and row.cores > 0 for row in result.rows)


def test_a_stand_in_gives_back_a_copy() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 13, 3), np.uint8)
    with stand_in(0) as stands:
        clean = stands(image)
    assert np.array_equal(image, clean)
    assert not np.shares_memory(image, clean)


def test_the_clip_is_a_photograph_in_rain_that_moves(tmp_path: Path) -> None:
    with av.open(str(make_rainy_clip(tmp_path / "clip.mp4", (96, 128), 4))) as container:
        frames = [frame.to_ndarray(format="gray").astype(int) for frame in container.decode(video=0)]
    assert len(frames) == 4
    assert frames[0].shape == (96, 128)
    for first, second in pairwise(frames):
        assert 1 < np.abs(first - second).mean() < 60


def test_a_run_that_ends_early_is_no_result(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Cleaned(3, 1.0, (FrameFailure(0.1, "the frame at 0:00:00.100 is broken."),))
    monkeypatch.setattr(video, "clean_video", lambda *_, **__: failed)
    with pytest.raises(DerainError, match="is broken"):
        bench_video(runs=1)


@pytest.mark.parametrize("options", [{"size": (33, 64)}, {"seconds": 0.01}], ids=str)
def test_a_clip_that_cannot_be_is_refused(options: dict) -> None:
    with pytest.raises(InputError):
        bench_video(**options)


def test_a_result_becomes_a_section_of_the_page(tmp_path: Path) -> None:
    busy: dict[str, float] = dict.fromkeys(STAGES, 1.25)
    row = VideoRow("x.derain", "files", "fake", "fp32", 4, 8, 2, 10, 3, 20.5, 19.0, None, 1.5, busy)
    facts = {"cpu": {"model": "a CPU", "threads": 2}, "derain_engine": "1"}
    result = VideoBenchmark((row,), facts, "the command", "a day")
    (tmp_path / "result.json").write_text(json.dumps(result.to_json()))
    make_page([tmp_path / "result.json"], tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "## result" in text
    assert "| x.derain | fake fp32 | files | 4x8 | 20.5 | 19.0 | 1.50 | 1.25 |" in text
    assert VideoBenchmark.from_json(json.loads(json.dumps(result.to_json()))) == result
    (tmp_path / "result.json").write_text('{"kind": "video", "rows": [{}]}')
    with pytest.raises(InputError, match="bench video --json"):
        make_page([tmp_path / "result.json"], tmp_path / "other.md")


def test_the_verb_shows_rows_and_tells_what_is_too_slow(
    short: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["bench", "video", "--runs", "1"]) == 0
    shown = capsys.readouterr()
    assert "plumbing alone" in shown.out
    assert "fewer than 1e+09" in shown.err
    assert app.run(["bench", "video", "--runs", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["kind"], len(record["rows"])) == ("video", 2)

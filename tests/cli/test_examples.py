"""The programs in examples/ for video, run whole on a tiny clip and engine."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ..media.clips import make_clip, read

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TIMES = (0, 40, 90, 150)


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stream_pyav.py", "stream_opencv.py", "stream_asyncio.py"])
def test_help_says_what_to_type(name: str) -> None:
    assert f"python {name}" in run(name, "--help")


@pytest.mark.slow
def test_a_loop_with_pyav(tmp_path: Path, engine_file: Path) -> None:
    source, target = make_clip(tmp_path / "in.mkv", times=TIMES), tmp_path / "out.mkv"
    assert "4 frames" in run("stream_pyav.py", source, target, "--engine", engine_file)
    old, new = read(source), read(target)
    assert new.times == old.times
    assert new.frames[0][0].shape == old.frames[0][0].shape
    assert not np.array_equal(old.frames[0][0], new.frames[0][0])


@pytest.mark.slow
def test_a_loop_with_opencv(tmp_path: Path, engine_file: Path) -> None:
    source, target = make_clip(tmp_path / "in.mkv", times=TIMES), tmp_path / "out.mp4"
    assert "4 frames" in run("stream_opencv.py", source, "--out", target, "--engine", engine_file)
    assert len(read(target).frames) == 4


@pytest.mark.slow
def test_a_service_with_asyncio(tmp_path: Path, engine_file: Path) -> None:
    rainy, clean = tmp_path / "rainy.png", tmp_path / "clean.png"
    picture = np.random.default_rng(0).integers(0, 256, (33, 65, 3), np.uint8)
    cv2.imwrite(str(rainy), picture)
    command = [
        sys.executable,
        str(EXAMPLES / "stream_asyncio.py"),
        "--port",
        "0",
        "--engine",
        str(engine_file),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            port = service.stdout.readline().split()[-1]
            for _ in range(2):
                run("stream_asyncio.py", "--port", port, "--send", rainy, clean)
            asking = [sys.executable, *command[1:2], "--port", port, "--send", __file__, str(clean)]
            other = subprocess.run(asking, capture_output=True, text=True, timeout=300, check=False)
            assert (other.returncode, "is no picture" in other.stderr) == (1, True)
        finally:
            service.send_signal(signal.SIGINT)
        assert service.wait(60) == 0
    import derain_engine

    with derain_engine.load(engine_file) as engine:
        expected = engine(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    assert np.array_equal(np.asarray(cv2.imread(str(clean)))[..., ::-1], expected)

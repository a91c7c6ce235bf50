"""Files of every container, whole and cut anywhere behind their head."""

from __future__ import annotations

from pathlib import Path

import pytest

from derain_engine.media.video.container_size import missing_bytes

from ..clips import make_clip


@pytest.mark.parametrize("ending", ["mkv", "webm", "mp4", "mov", "avi"])
def test_what_is_cut_off_is_counted(tmp_path: Path, ending: str) -> None:
    codec = "libvpx-vp9" if ending == "webm" else "mpeg4"
    path = make_clip(tmp_path / f"clip.{ending}", times=(0, 40, 80), codec=codec)
    data = path.read_bytes()
    assert missing_bytes(path) == 0
    for cut in (1, 7, len(data) // 3):
        path.write_bytes(data[:-cut])
        # What an index at the end would have said is gone with it, so the last box is what counts.
        assert 0 < missing_bytes(path) <= cut if ending in ("mp4", "mov") else missing_bytes(path) == cut
    path.write_bytes(data + b"\xff" * 20)
    assert missing_bytes(path) == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"RIFF",
        b"\x1a\x45\xdf\xa3",
        b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7,
        b"\0\0\0\0mdat" + b"\0" * 8,
        b"\0\0\0\x08free" * 3,
        b"a text",
    ],
)
def test_what_says_no_size_is_whole(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert missing_bytes(path) == 0


def test_what_is_not_there_is_left_to_the_reader(tmp_path: Path) -> None:
    assert missing_bytes(tmp_path / "nothing") == 0

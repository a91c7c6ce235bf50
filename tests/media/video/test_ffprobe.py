"""The contract of video once more, read by ffprobe instead of the library that wrote it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from derain_engine.media.video.clean import clean_video

from ..clips import engine, make_clip

pytestmark = pytest.mark.skipif(
    shutil.which("ffprobe") is None, reason="needs ffprobe, of FFmpeg's tools, on the PATH"
)

VARIABLE = (0, 40, 87, 141, 202, 270, 345, 427)
#: BT.2020 and PQ in the limited range, as ``make_clip`` takes it.
HDR: dict[str, Any] = {"color_range": 1, "colorspace": 9, "color_primaries": 9, "color_trc": 16}
LOSSLESS = {"codec": "libx264", "options": {"crf": "0", "preset": "ultrafast"}}
STREAM = (
    "codec_type pix_fmt width height sample_aspect_ratio sample_rate channels "
    "color_range color_space color_transfer color_primaries".split()
)
CLIPS: dict[str, dict[str, Any]] = {
    "variable": {"times": VARIABLE, "audio": True, "subtitles": True, "title": "Rain", **LOSSLESS},
    "constant": {"audio": True, "title": "Rain", **LOSSLESS},
    "rotated": {"times": VARIABLE, "rotation": 90, **LOSSLESS},
    "hdr": {"times": VARIABLE, "pix_fmt": "yuv420p10le", "audio": True, **HDR},
    "odd": {"times": VARIABLE, "size": (65, 33), "pix_fmt": "yuv444p"},
    "one": {"times": (0,)},
}


def probe(path: Path) -> dict[str, Any]:
    """Return what ffprobe says of the file, once every frame is decoded; it must have nothing to complain about."""
    asked = ["-show_streams", "-show_chapters", "-show_format", "-show_packets", "-show_frames"]
    command = ["ffprobe", "-v", "error", *asked, "-show_data_hash", "md5", "-of", "json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return json.loads(done.stdout)


def entries(told: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Packets or frames, which ffprobe tells mixed where both are asked for."""
    return [each for each in told["packets_and_frames"] if each["type"] == kind]


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
@pytest.mark.parametrize("name", CLIPS)
def test_ffprobe_finds_what_the_source_had(tmp_path: Path, name: str, ending: str) -> None:
    source, target = make_clip(tmp_path / "in.mkv", **CLIPS[name]), tmp_path / f"out.{ending}"
    drop = ("subtitle",) if ending == "mp4" else ()
    with engine(-20) as runs:
        clean_video(runs, source, target, drop=drop)
    old, new = probe(source), probe(target)
    streams = [each for each in old["streams"] if each["codec_type"] not in drop]
    # In MP4 chapters are a track, too.
    found = [each for each in new["streams"] if each["codec_name"] != "bin_data"]
    for before, after in zip(streams, found, strict=True):
        for key in STREAM:
            assert after.get(key) == before.get(key), key
        rotation = [
            [side.get("rotation") for side in each.get("side_data_list", ())] for each in (before, after)
        ]
        assert rotation[0] == rotation[1]
        if before["codec_type"] != "video":
            hashes = [
                [
                    each["data_hash"]
                    for each in entries(told, "packet")
                    if each["stream_index"] == one["index"]
                ]
                for told, one in ((old, before), (new, after))
            ]
            assert hashes[0] == hashes[1] != []
    times = [
        [float(each["pts_time"]) for each in entries(told, "frame") if each["media_type"] == "video"]
        for told in (old, new)
    ]
    assert times[1] == pytest.approx(times[0], abs=1e-6)
    assert len(times[1]) == len(CLIPS[name].get("times", range(12)))
    assert [each["tags"]["title"] for each in new["chapters"]] == ["rain"]
    assert new["format"]["tags"].get("title") == old["format"]["tags"].get("title")


def test_ffprobe_finds_hdr_mastering_data(tmp_path: Path) -> None:
    words = (
        "log-level=error:master-display=G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,1)"
    )
    options = {"x265-params": words + ":max-cll=1000,400:bframes=0"}
    source = make_clip(
        tmp_path / "in.mp4", times=(0, 40), pix_fmt="yuv420p10le", codec="libx265", options=options, **HDR
    )
    with engine(-20) as runs:
        clean_video(runs, source, tmp_path / "out.mp4")
    kinds = {"Mastering display metadata", "Content light level metadata"}
    old, new = (
        {
            side["side_data_type"]: side
            for side in entries(probe(path), "frame")[0]["side_data_list"]
            if side["side_data_type"] in kinds
        }
        for path in (source, tmp_path / "out.mp4")
    )
    assert set(old) == kinds
    assert new == old

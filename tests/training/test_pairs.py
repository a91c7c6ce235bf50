from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from derain_engine.base.errors import InputError, MediaError
from derain_engine.training.pairs import Scene, find_pairs


def picture(path, value=100, size=(40, 36), halves=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    texture = np.random.default_rng(0).integers(-20, 20, (size[1], size[0], 3))
    pixels = np.hstack([texture + each for each in halves or (value,)]).astype(np.uint8)
    Image.fromarray(pixels).save(path)


#: Files as the data sets have them, (rainy, clean).
LAYOUTS = {
    "rain100 and rain200, published": [
        ("rain/X2/norain-1x2.png", "norain/norain-1.png"),
        ("rain/X2/norain-12x2.png", "norain/norain-12.png"),
    ],
    "rain100 test, published": [("rain/X2/norain-001x2.png", "norain/norain-001.png")],
    "one folder": [("rain-1.png", "norain-1.png"), ("rain-2.png", "norain-2.png")],
    "rainy ones in a folder": [("rainy/rain-001.png", "norain-001.png")],
    "input and target": [
        ("train/input/7.jpg", "train/target/7.png"),
        ("train/input/8.jpg", "train/target/8.png"),
    ],
    "one number in two parts": [("a/rain/1.png", "a/norain/1.png"), ("b/rain/1.png", "b/norain/1.png")],
    "rain1400, published": [
        (f"training/rainy_image/{i}_{j}.jpg", f"training/ground_truth/{i}.jpg")
        for i in (1, 900)
        for j in (1, 14)
    ],
    "spa test": [("rain/000.png", "gt/000gt.png"), ("rain/001.png", "gt/001gt.png")],
    "ours": [("Rainy/001.png", "Clean/001.png")],
    "nested under a telling name": [("rain/set/rainy/5.png", "rain/set/clean/5.png")],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_sets_are_recognised_by_their_names(tmp_path, layout):
    expected = LAYOUTS[layout]
    for rainy, clean in expected:
        picture(tmp_path / rainy, 200)
        picture(tmp_path / clean)
    (tmp_path / "notes.txt").write_text("not a list of pairs\n")
    found = find_pairs(tmp_path)
    assert {(scene.rainy, scene.clean) for scene in found} == {
        (tmp_path / rainy, tmp_path / clean) for rainy, clean in expected
    }
    assert len(found) == len(expected) and find_pairs(tmp_path, "folders") == found
    clean, rainy = found[0].read()
    assert rainy.mean() > 180 and clean.mean() < 120 and rainy.shape == clean.shape == (36, 40, 3)


def test_a_list_pairs_what_no_name_would(tmp_path):
    for name in ("real_world/000/000-1/000-1_2_3.png", "real_world_gt/000/000_2_3.png"):
        picture(tmp_path / name)
    line = "/real_world/000/000-1/000-1_2_3.png /real_world_gt/000/000_2_3.png\n"
    (tmp_path / "real_world.txt").write_text(line)
    expected = [Scene(*(tmp_path / name.lstrip("/") for name in reversed(line.split())))]
    assert find_pairs(tmp_path) == expected == find_pairs(tmp_path / "real_world.txt")
    assert len(expected[0].read()) == 2
    (tmp_path / "words.txt").write_text("no pictures here\n")
    with pytest.raises(InputError, match=r"words\.txt is no list"):
        find_pairs(tmp_path / "words.txt")


@pytest.mark.parametrize(("halves", "layout"), [((90, 120), "clean-left"), ((120, 90), "rain-left")])
def test_halves_side_by_side_are_told_apart_by_brightness(tmp_path, halves, layout):
    for i in range(3):
        picture(tmp_path / f"{i}.jpg", halves=halves)
    found = find_pairs(tmp_path)
    assert [scene.halves for scene in found] == [layout] * 3
    clean, rainy = found[0].read()
    assert clean.shape == rainy.shape == (36, 40, 3) and clean.mean() < 95 < 115 < rainy.mean()
    other = "rain-left" if layout == "clean-left" else "clean-left"
    clean, rainy = find_pairs(tmp_path, other)[0].read()
    assert clean.mean() > rainy.mean()


def test_halves_that_cannot_be_told_apart_are_asked_for(tmp_path):
    picture(tmp_path / "0.png", halves=(90, 120))
    picture(tmp_path / "1.png", halves=(120, 90))
    with pytest.raises(InputError, match="which halves"):
        find_pairs(tmp_path)
    assert len(find_pairs(tmp_path, "clean-left")) == 2


def test_folders_that_are_none_of_these_are_refused(tmp_path):
    with pytest.raises(InputError, match="not there"):
        find_pairs(tmp_path / "missing")
    with pytest.raises(InputError, match="no picture"):
        find_pairs(tmp_path)
    picture(tmp_path / "summer" / "1.png")
    with pytest.raises(InputError, match="no known way"):
        find_pairs(tmp_path)
    with pytest.raises(InputError, match="known by name"):
        find_pairs(tmp_path, "folders")
    picture(tmp_path / "rain" / "1.png")
    picture(tmp_path / "norain" / "1.png")
    picture(tmp_path / "rain" / "2.png")
    with pytest.raises(InputError, match=r"1 rainy pictures .* 2\.png".replace(" 2", " .*2")):
        find_pairs(tmp_path)


def test_sizes_may_differ_by_one_and_no_more(tmp_path):
    picture(tmp_path / "clean.png", size=(41, 37))
    picture(tmp_path / "rainy.png", size=(40, 36))
    picture(tmp_path / "other.png", size=(40, 34))
    clean, rainy = Scene(tmp_path / "clean.png", tmp_path / "rainy.png").read()
    assert clean.shape == rainy.shape == (36, 40, 3)
    with pytest.raises(MediaError, match="not the same scene"):
        Scene(tmp_path / "rainy.png", tmp_path / "other.png").read()
    picture(tmp_path / "small.png", size=(31, 40))
    with pytest.raises(MediaError, match="below 32"):
        Scene(tmp_path / "small.png").read()

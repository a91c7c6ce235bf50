from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folders(tmp_path):
    """(rainy, clean): two pictures with bright one-pixel streaks, and without."""
    for folder in ("rainy", "clean"):
        (tmp_path / folder).mkdir()
    for name in ("one", "two"):
        picture = np.full((36, 40, 3), 90, np.uint8)
        Image.fromarray(picture).save(tmp_path / "clean" / f"{name}.png")
        picture[:, ::8] = 200
        Image.fromarray(picture).save(tmp_path / "rainy" / f"{name}.png")
    return tmp_path / "rainy", tmp_path / "clean"


def arguments(folders, model="opening"):
    rainy, clean = folders
    return ["eval", str(model), "--rainy", str(rainy), "--clean", str(clean)]


def test_the_table_shows_every_picture_the_means_and_the_gain(cli, folders):
    done = cli(*arguments(folders))
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines() if line.strip()]
    record = json.loads(cli(*arguments(folders), "--json").out)
    assert [line[0] for line in lines if line[0] in ("one", "two")] == ["one", "two"]
    mean = next(line for line in lines if line[:3] == ["Mean", "of", "2"])
    gain = next(line for line in lines if line[0] == "Gain")
    figures = record["mean"]
    assert mean[3] == f"{figures['rainy']['psnr']:.2f}"
    assert mean[5] == f"{figures['rainy']['ssim']:.4f}"
    assert mean[4] == "inf" and figures["output"]["psnr"] is None, "the opening restores a flat picture"
    assert gain[1] == "+inf" and gain[2] == f"{figures['gain']['ssim']:+.4f}"
    assert "morphological opening" in done.out


@pytest.mark.parametrize("kind", ["model", "engine_file"])
def test_models_and_engines_give_json(cli, folders, kind, request):
    done = cli(*arguments(folders, request.getfixturevalue(kind)), "--json")
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record["method"].startswith("engine" if kind == "engine_file" else "reference network")
    assert [p["name"] for p in record["pictures"]] == ["one", "two"]
    assert 0 < record["mean"]["output"]["psnr"] < 60


def test_native_is_for_models(cli, folders, model, engine_file):
    done = cli(*arguments(folders, model), "--native")
    assert (done.code, "unpadded" in done.out) == (0, True)
    done = cli(*arguments(folders, engine_file), "--native")
    assert done.code == 2 and "give its model" in done.err and not done.out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[:2], "--rainy, --video or both"),
        (lambda a: a[:2] + a[4:], "--rainy"),
        (lambda a: [*a, *a[2:4]], "2 rainy and 1 clean folders"),
        (lambda a: [*a, "--json", "--csv"], "exclude each other"),
        (lambda a: [*a, "--published", "Rain7"], "'Rain7', only of Rain200H"),
        (lambda a: [*a, "--sheet", "sheet.txt"], "sheet.txt cannot be written: pictures end in"),
        (lambda a: [*a[:1], "nothing-of-that-name", *a[2:]], "nothing-of-that-name is neither"),
        (lambda a: [*a[:-1], a[-1] + "x"], "is not a folder"),
    ],
)
def test_bad_input_is_one_line_and_two(cli, folders, change, message):
    done = cli(*change(arguments(folders)))
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1 and not done.out

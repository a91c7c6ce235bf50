"""Protocols, several folders, rivals, pictures without a truth, outputs of other programs, CSV and the sheet."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from derain_engine.base.errors import InputError, MediaError
from derain_engine.engine import metrics
from derain_engine.evaluation import subject
from derain_engine.evaluation.bootstrap import paired_bootstrap
from derain_engine.evaluation.csv import as_csv
from derain_engine.evaluation.evaluate import evaluate
from derain_engine.evaluation.figures import as_measured
from derain_engine.evaluation.niqe import niqe
from derain_engine.evaluation.options import PROTOCOLS
from derain_engine.evaluation.sheet import Case, Sheet, panel

SIZES = ((33, 47), (64, 32), (40, 65), (35, 35))


def fill(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


def pair(base: Path, seed: int, names: str) -> tuple[Path, Path]:
    """Fill (rainy, clean) folders of little photographs, and the same under streaks of a strength of their own."""
    random = np.random.default_rng(seed)
    clean, rainy = {}, {}
    for name, (height, width) in zip(names, SIZES, strict=False):
        y, x = random.integers(0, 200, 2)
        clean[name] = data.coffee()[y : y + height, x : x + width]
        rainy[name] = clean[name].copy()
        rainy[name][:, :: int(random.integers(5, 12))] = random.integers(150, 256)
    return fill(base / "rainy", rainy), fill(base / "clean", clean)


@pytest.fixture
def two_sets(tmp_path: Path) -> tuple[tuple[Path, Path], tuple[Path, Path]]:
    return pair(tmp_path / "a", 1, "xyz"), pair(tmp_path / "b", 2, "xw")


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(np.float64) / 255


# Protocols


def test_protocols_are_what_they_say(two_sets, monkeypatch) -> None:
    """Check on an output that has every fraction of a level, also below 0 and above 1."""
    (rainy, clean), _ = two_sets

    def remove_rain(image: np.ndarray) -> np.ndarray:
        return (1.2 * image - 0.1).astype(np.float32)

    monkeypatch.setattr(subject, "_opening", remove_rain)
    picture, truth = read(rainy / "x.png"), read(clean / "x.png")
    output = np.clip(remove_rain(picture.astype(np.float32)), 0, 1).astype(np.float64)
    levels = {
        "float": 255 * output,
        "rounded": np.floor(255 * output + 0.5),
        "truncated": np.floor(255 * output.astype(np.float32)),
    }
    psnr = {}
    for protocol in PROTOCOLS:
        result = evaluate("opening", rainy, clean, protocol=protocol)
        found = result.pictures["x"]
        measured = levels[protocol] / 255
        y, truth_y = metrics.luma(measured), metrics.luma(truth)
        psnr[protocol] = found.output["psnr_y"]
        assert found.output["psnr"] == pytest.approx(metrics.psnr(measured, truth), abs=1e-3)
        assert found.output["psnr_y"] == pytest.approx(metrics.psnr(y, truth_y), abs=1e-3)
        assert found.output["ssim_y"] == pytest.approx(metrics.ssim(y, truth_y), abs=1e-5)
        assert found.rainy["psnr"] == pytest.approx(metrics.psnr(picture, truth)), "the input is no output"
        words = result.to_json()["protocol"]
        assert words["name"] == protocol and "BT.601" in words["psnr_y"] and "RGB" in words["psnr"]
        assert words["crop"].startswith("none")
    assert len(set(psnr.values())) == 3
    with pytest.raises(InputError, match="protocol is one of float, rounded, truncated"):
        evaluate("opening", rainy, clean, protocol="8-bit")


def test_levels_of_8_bits_stay_under_every_protocol() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    image = np.divide(levels, 255, dtype=np.float32)
    for protocol in PROTOCOLS:
        np.testing.assert_array_equal(as_measured(image, protocol), image)


# Several folders, and rivals


def test_several_sets_are_measured_apart_and_together(two_sets) -> None:
    (rainy_a, clean_a), (rainy_b, clean_b) = two_sets
    apart = [evaluate("opening", *folders) for folders in two_sets]
    both = evaluate("opening", [rainy_a, rainy_b], [clean_a, clean_b])
    assert list(both.pictures) == [f"{rainy_a}/{n}" for n in "xyz"] + [f"{rainy_b}/{n}" for n in "wx"]
    assert [each.name for each in both.sets] == [str(rainy_a), str(rainy_b)]
    for part, alone in zip(both.sets, apart, strict=True):
        assert both.mean_of(part.pictures) == alone.mean
    assert both.mean.output["psnr"] == pytest.approx(
        (3 * apart[0].mean.output["psnr"] + 2 * apart[1].mean.output["psnr"]) / 5
    )
    assert [each["pictures"] for each in both.to_json()["sets"]] == [3, 2]


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda a, b: ([a[0], b[0]], [a[1]]), "2 rainy and 1 clean folders"),
        (lambda a, b: ([a[0], a[0]], [a[1], a[1]]), "given twice"),
        (lambda a, b: ([a[0], b[0]], [b[1], a[1]]), "no picture named like"),
    ],
)
def test_folders_that_do_not_pair_are_refused(two_sets, choose, message) -> None:
    with pytest.raises(InputError, match=message):
        evaluate("opening", *choose(*two_sets))


def test_the_lead_over_a_rival_is_paired_over_the_union(two_sets, tmp_path) -> None:
    rainy, clean = zip(*two_sets, strict=True)
    alone = evaluate("opening", rainy, clean)
    result = evaluate("opening", rainy, clean, against="opening")
    assert {f: (i.mean, i.low, i.high) for f, i in result.lead().items()} == dict.fromkeys(
        result.figures, (0, 0, 0)
    )
    given_back = fill(tmp_path / "as they are", {})
    for path in sorted(rainy[0].iterdir()):
        (given_back / path.name).write_bytes(path.read_bytes())
    result = evaluate("opening", rainy[0], clean[0], against=given_back)
    names = [f"{rainy[0]}/{name}" for name in result.pictures]
    gains = [alone.pictures[name].gain["psnr"] for name in names]
    assert result.lead()["psnr"] == paired_bootstrap(gains)
    assert result.mean.rival == result.mean.rainy
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert record["against"]["subject"] == str(given_back)
    assert record["against"]["lead"]["psnr"]["low"] == pytest.approx(paired_bootstrap(gains).low)
    assert record["pictures"][0]["lead"]["psnr"] == pytest.approx(gains[0])


def test_pictures_on_which_both_are_perfect_have_no_part_in_the_lead(two_sets) -> None:
    (_, clean), _ = two_sets
    result = evaluate(clean, clean, clean, against=clean)
    assert "psnr" not in result.lead() and result.lead()["ssim"].mean == 0
    assert math.isnan(result.pictures["x"].lead["psnr"])


# Without a truth


def test_without_a_truth_niqe_and_the_dark_channel_are_measured(tmp_path) -> None:
    photos = {"chelsea": data.chelsea(), "small": data.chelsea()[:100, :150]}
    rainy = {name: photo.copy() for name, photo in photos.items()}
    for picture in rainy.values():
        picture[:, ::9] = 250
    folder = fill(tmp_path / "Real275", rainy)
    result = evaluate(fill(tmp_path / "clean", photos), folder)
    assert result.figures == ("niqe", "dark_channel")
    found = result.pictures["chelsea"]
    for values, picture in ((found.rainy, rainy["chelsea"]), (found.output, photos["chelsea"])):
        assert values["niqe"] == pytest.approx(niqe(metrics.luma(picture / 255.0)), abs=1e-6)
        assert values["dark_channel"] == pytest.approx(metrics.dark_channel_mean(picture / 255.0), abs=1e-6)
    assert found.gain["niqe"] < -3
    assert result.undefined("niqe") == ["small"] and result.undefined("dark_channel") == []
    assert result.mean.output["niqe"] == found.output["niqe"], "one block says nothing"
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert record["pictures"][1]["output"]["niqe"] is None
    (part,) = record["sets"]
    assert (part["data_set"], part["data_set_pictures"], part["pictures"]) == ("Real275", 275, 2)
    assert {"method": "SSID-KD", "niqe": 3.5105} in part["published"][0]["rows"]
    assert evaluate("opening", folder, []).figures == result.figures
    assert result.sets[0].share == "a part: 2 of 275 pictures"


def test_published_figures_are_of_the_named_set(two_sets) -> None:
    (rainy, clean), _ = two_sets
    assert evaluate("opening", rainy, clean).to_json()["sets"][0].keys() == {"name", "pictures", "mean"}
    (part,) = evaluate("opening", rainy, clean, published="rain200h").to_json()["sets"]
    assert {"method": "SID", "psnr": 28.925, "ssim": 0.9079} in part["published"][0]["rows"]
    with pytest.raises(InputError, match="No published figures are kept of 'mine'"):
        evaluate("opening", rainy, clean, published="mine")


# Outputs of other programs


def test_a_folder_of_clean_pictures_is_measured_as_it_is(two_sets, tmp_path) -> None:
    (rainy, clean), _ = two_sets
    names = ("x", "y")
    outputs = fill(tmp_path / "out", {n: np.asarray(Image.open(rainy / f"{n}.png")) // 2 for n in names})
    result = evaluate(outputs, rainy, clean)
    assert list(result.pictures) == ["x", "y"] and result.method.startswith("pictures of a folder")
    expected = metrics.psnr(read(outputs / "x.png"), read(clean / "x.png"))
    assert result.pictures["x"].output["psnr"] == pytest.approx(expected)
    (failure,) = result.failures
    assert failure.name == "z" and "out has no picture of that name" in str(failure.error)
    with pytest.raises(InputError, match="is no network"):
        evaluate(outputs, rainy, clean, native=True)
    both = [folders[0] for folders in two_sets]
    with pytest.raises(InputError, match="give the one rainy folder"):
        evaluate(outputs, both, [folders[1] for folders in two_sets])


# CSV


def test_csv_has_a_line_a_picture_with_all_digits(two_sets) -> None:
    (rainy, clean), _ = two_sets
    Image.open(clean / "y.png").save(rainy / "y.png")
    result = evaluate("opening", rainy, clean, against=rainy, protocol="rounded")
    rows = list(csv.DictReader(io.StringIO(as_csv(result))))
    assert [row["picture"] for row in rows] == ["x", "y", "z"]
    assert (rows[0]["height"], rows[0]["width"], rows[0]["protocol"]) == ("33", "47", "rounded")
    for row in rows:
        each = result.pictures[row["picture"]]
        assert each.rival is not None
        for figure in result.figures:
            assert float(row[f"{figure}_in"]) == each.rainy[figure]
            assert float(row[f"{figure}_out"]) == each.output[figure]
            assert float(row[f"{figure}_rival"]) == each.rival[figure]
    assert rows[1]["psnr_in"] == "inf"


# The sheet


def test_the_sheet_shows_the_best_and_the_worst(two_sets, tmp_path) -> None:
    (rainy, clean), _ = two_sets
    target = tmp_path / "sheet.png"
    evaluate("opening", rainy, clean, sheet=target)
    drawn = np.asarray(Image.open(target)).astype(int)
    assert drawn.shape[1] == 3 * 412 + 12
    for name in "xyz":
        truth = np.asarray(Image.open(clean / f"{name}.png")).astype(int)
        places = np.argwhere((drawn == truth[0, 0]).all(axis=2))
        shown = [drawn[y : y + len(truth), x : x + truth.shape[1]] for y, x in places]
        assert any(np.array_equal(each, truth) for each in shown), name
    assert (drawn < 60).any(), "and words"


def test_the_sheet_keeps_the_ends_of_many_cases() -> None:
    sheet = Sheet()
    scores = np.random.default_rng(7).permutation(100).astype(float)
    for score in [*scores, math.nan]:
        sheet.add(Case(str(score), score, ()))
    assert [case.score for case in sheet.best] == [99, 98, 97, 96]
    assert [case.score for case in sheet.worst] == [0, 1, 2, 3]
    few = Sheet()
    few.add(Case("a", 1.0, ()))
    assert (len(few.best), len(few.worst)) == (1, 0)
    few.add(Case("b", math.inf, ()))
    few.add(Case("c", -1.0, ()))
    assert [c.name for c in few.best] == ["b", "a"] and [c.name for c in few.worst] == ["c"]


@pytest.mark.parametrize(
    ("size", "shown"), [((1, 1), (1, 1)), ((7, 13), (7, 13)), ((600, 400), (300, 200)), ((3, 4000), (1, 400))]
)
def test_large_pictures_are_reduced_for_the_sheet(size, shown) -> None:
    assert panel("", np.zeros((*size, 3)), "").pixels.shape == (*shown, 3)


def test_a_sheet_that_cannot_be_written_is_refused_before_the_work(two_sets, tmp_path, monkeypatch) -> None:
    from derain_engine.evaluation import evaluate as module

    (rainy, clean), _ = two_sets
    monkeypatch.setattr(module, "_measure", lambda *_: pytest.fail("work began"))
    for target, message in (("s.txt", "pictures end in"), ("none/s.png", "does not exist")):
        with pytest.raises((InputError, MediaError), match=message):
            evaluate("opening", rainy, clean, sheet=tmp_path / target)
    with pytest.raises(InputError, match="A sheet shows pictures"):
        evaluate("opening", videos=["a.mp4"], sheet=tmp_path / "s.png")

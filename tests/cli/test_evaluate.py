from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ..media.clips import make_clip


@pytest.fixture
def folders(tmp_path):
    """Make (rainy, clean): two pictures with bright one-pixel streaks, and without."""
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


def test_every_figure_is_shown_with_its_protocol(cli, folders):
    for protocol, words in (
        ("float", "not rounded"),
        ("rounded", "rounded to 8 bits"),
        ("truncated", "floor"),
    ):
        done = cli(*arguments(folders), "--protocol", protocol)
        assert done.code == 0, done.err
        assert f"Protocol {protocol}: output clamped" in done.out and words in done.out
        for figure in (
            "PSNR: dB, RGB",
            "SSIM: RGB",
            "PSNR Y: dB, Y of BT.601",
            "SSIM Y: Y of BT.601",
            "Dark: ",
        ):
            assert figure in done.out
        assert "cropped: none" in done.out


def test_a_rival_has_a_column_and_the_lead_an_interval(cli, folders):
    rainy, _ = folders
    done = cli(*arguments(folders), "--against", rainy)
    assert done.code == 0, done.err
    lead = next(line for line in done.out.splitlines() if line.strip().startswith("SSIM Y (more is better)"))
    record = json.loads(cli(*arguments(folders), "--against", rainy, "--json").out)["against"]["lead"][
        "ssim_y"
    ]
    assert lead.split()[-4:] == [*(f"{record[key]:+.4f}" for key in ("mean", "low", "high")), "2"]
    assert "bootstrap" in done.out and f"Rival, {rainy}: pictures of a folder" in done.out


def test_two_sets_have_a_mean_each_and_one_together(cli, folders, tmp_path):
    rainy, clean = folders
    again = shutil.copytree(rainy, tmp_path / "again")
    done = cli(*arguments(folders), "--rainy", again, "--clean", clean)
    assert done.code == 0, done.err
    for words in (f"Mean of 2, {rainy}", f"Mean of 2, {again}", "Mean of 4"):
        assert words in done.out


def test_published_figures_stand_beside_ours_and_a_part_is_called_one(cli, folders):
    done = cli(*arguments(folders), "--published", "Rain200H")
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert ["SSID-KD", "28.7066", "0.9005"] in lines
    record = json.loads(cli(*arguments(folders), "--json").out)["mean"]["rainy"]
    assert ["Here,", "rainy", f"{record['psnr']:.2f}", f"{record['ssim']:.4f}"] in lines
    assert "a part: 2 of 200 pictures of Rain200H" in done.out
    assert "Table I; protocol: the authors' code: RGB" in done.out


def test_without_a_truth_there_is_niqe(cli, folders):
    rainy, _ = folders
    done = cli("eval", "opening", "--rainy", rainy)
    assert done.code == 0, done.err
    assert "NIQE is not defined for one, two" in done.out and "PSNR" not in done.out
    assert "pristine parameters" in done.out


def test_csv_is_one_line_a_picture(cli, folders):
    done = cli(*arguments(folders), "--csv")
    assert done.code == 0, done.err
    head, one, two = done.out.splitlines()
    assert head.startswith("picture,height,width,protocol,psnr_in,psnr_out,")
    assert one.startswith("one,36,40,float,") and two.startswith("two,36,40,float,")


def test_broken_pictures_are_named_with_5_and_the_others_measured(cli, folders, tmp_path):
    rainy, _ = folders
    (rainy / "one.png").write_bytes((rainy / "one.png").read_bytes()[:50])
    done = cli(*arguments(folders), "--sheet", tmp_path / "sheet.png")
    assert done.code == 5
    assert "one.png cannot be decoded" in done.err and "1 of 2 pictures and videos failed" in done.err
    assert "Mean of 1" in done.out and (tmp_path / "sheet.png").exists()
    done = cli(*arguments(folders), "--json")
    assert done.code == 5 and json.loads(done.out)["failures"][0]["name"] == "one"
    (rainy / "two.png").write_bytes(b"no picture")
    done = cli(*arguments(folders))
    assert done.code == 2 and "None of 2 could be measured" in done.err and not done.out


def test_flicker_of_videos(cli, folders, tmp_path):
    clip = make_clip(tmp_path / "rain.mkv", times=(0, 40, 90))
    done = cli("eval", "opening", "--video", clip)
    assert done.code == 0, done.err
    record = json.loads(cli("eval", "opening", "--video", clip, "--json").out)["videos"][0]["output"]
    row = next(line.split() for line in done.out.splitlines() if "rain.mkv" in line)
    keys = ("source", "output", "residual", "relative")
    assert row[-5:] == ["2", *(f"{record[key]:.3f}" for key in keys)]
    assert "levels of 1/255" in done.out and "PSNR" not in done.out
    head, line = cli("eval", "opening", "--video", clip, "--csv").out.splitlines()
    assert head == "video,protocol,transitions,source,output_out,residual_out,relative_out"
    assert line.startswith(f"{clip},float,2,")
    done = cli(*arguments(folders), "--video", clip)
    assert done.code == 0 and "Mean of 2" in done.out and "Residual / source" in done.out
    done = cli(*arguments(folders), "--video", clip, "--csv")
    assert done.code == 2 and "exclude each other" in done.err


def test_a_broken_frame_is_named_with_5(cli, tmp_path):
    clip = make_clip(tmp_path / "rain.mkv", times=tuple(range(0, 800, 40)))
    clip.write_bytes(clip.read_bytes()[:-8000])
    done = cli("eval", "opening", "--video", clip)
    assert done.code == 5 and "rain.mkv: the frame at" in done.err and "rain.mkv" in done.out

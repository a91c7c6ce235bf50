from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from derain_engine.base.errors import DerainError, InputError, MediaError, VerificationError
from derain_engine.engine import metrics, verify
from derain_engine.evaluation.evaluate import evaluate
from derain_engine.evaluation.sets import find_pairs
from derain_engine.models.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def folders(tmp_path):
    """Save three smooth pictures of odd sizes with bright one-pixel streaks, and without."""
    rainy, clean = tmp_path / "rainy", tmp_path / "clean"
    rainy.mkdir()
    clean.mkdir()
    for i, (height, width) in enumerate(((33, 47), (64, 32), (40, 65))):
        y, x = np.mgrid[:height, :width]
        picture = np.stack([2 * y, x + y, 2 * x], -1).astype(np.uint8) + np.uint8(20 * i)
        Image.fromarray(picture).save(clean / f"{i}.png")
        picture[:, ::9] = 250
        Image.fromarray(picture).save(rainy / f"{i}.png")
    return rainy, clean


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Save a tiny network's weights file."""
    import torch

    from derain_engine.models.ssid_kd import SSIDKD, SSIDKDConfig

    torch.manual_seed(1)
    network = SSIDKD(SSIDKDConfig((4, 4, 4), (1, 1, 1))).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("weight"):
                weight.mul_(1.6)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, network, "ssid-kd", metadata={})
    return path


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory):
    from derain_engine.engine.build import build

    path = tmp_path_factory.mktemp("engine") / "tiny.derain"
    build(model, path, backend="reference")
    return path


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(np.float32) / 255


def figures(image, truth):
    y, truth_y = metrics.luma(image), metrics.luma(truth)
    return {
        "psnr": metrics.psnr(image, truth),
        "ssim": metrics.ssim(image, truth),
        "psnr_y": metrics.psnr(y, truth_y),
        "ssim_y": metrics.ssim(y, truth_y),
        "dark_channel": metrics.dark_channel_mean(image),
    }


def test_the_opening_baseline_is_measured_against_the_truth(folders):
    rainy, clean = folders
    stages = []
    result = evaluate("opening", rainy, clean, progress=lambda *stage: stages.append(stage))
    assert list(result.pictures) == ["0", "1", "2"]
    assert result.sizes == {"0": (33, 47), "1": (64, 32), "2": (40, 65)}
    expected = []
    for name in result.pictures:
        picture, truth = read(rainy / f"{name}.png"), read(clean / f"{name}.png")
        opened = cv2.erode(picture, np.ones((5, 5)))
        opened = cv2.dilate(opened, np.ones((5, 5)))
        expected.append((figures(picture, truth), figures(opened, truth)))
        assert result.pictures[name].rainy == pytest.approx(expected[-1][0])
        assert result.pictures[name].output == pytest.approx(expected[-1][1])
    for figure in result.figures:
        rainy_mean, output_mean = (np.mean([each[column][figure] for each in expected]) for column in (0, 1))
        assert result.mean.rainy[figure] == pytest.approx(rainy_mean)
        assert result.mean.output[figure] == pytest.approx(output_mean)
        assert result.mean.gain[figure] == pytest.approx(output_mean - rainy_mean)
    assert result.mean.gain["psnr"] > 5
    assert [fraction for _, fraction in stages] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_a_model_file_runs_padded_or_native(folders, model):
    from ..helpers import pad_frame

    rainy, clean = folders
    network = load_checkpoint(model).network
    padded, native = (evaluate(model, rainy, clean, native=native) for native in (False, True))
    for name, (height, width) in padded.sizes.items():
        picture, truth = read(rainy / f"{name}.png"), read(clean / f"{name}.png")
        whole, _ = pad_frame(picture[None], 32, 32)
        output = verify.reference_output(network, whole)[0, :height, :width].clip(0, 1)
        assert padded.pictures[name].output == pytest.approx(figures(output, truth))
        output = verify.reference_output(network, picture[None])[0].clip(0, 1)
        assert native.pictures[name].output == pytest.approx(figures(output, truth))
    assert padded.pictures["1"] == native.pictures["1"], "sides that are multiples need no padding"
    assert padded.pictures["0"].output != native.pictures["0"].output
    assert ("unpadded" in native.method, "unpadded" in padded.method) == (True, False)


def test_an_engine_file_agrees_with_its_model(folders, model, engine):
    of_model, of_engine = (evaluate(what, *folders) for what in (model, engine))
    assert of_engine.method == "engine, reference in fp32"
    for name in of_model.pictures:
        assert of_engine.pictures[name].output == pytest.approx(of_model.pictures[name].output, rel=1e-4)
    with pytest.raises(InputError, match="native"):
        evaluate(engine, *folders, native=True)


def test_what_weights_do_not_tell_is_told(folders, tmp_path):
    import torch

    from derain_engine.models import registry

    torch.manual_seed(2)
    network = registry.create(registry.spec_of("prenet", {"stages": 2})).eval()
    path = tmp_path / "net_latest.pth"
    torch.save(network.state_dict(), path)
    for arch, stages in (("prenet", 1), ("prenet", 2), ("prenet-lstm", 2)):
        result = evaluate(path, *folders, native=True, arch=arch, network_options={"stages": stages})
        spec = registry.spec_of(arch, {"stages": stages})
        truth = registry.create(spec).eval()
        truth.load_state_dict(network.state_dict())
        picture = read(folders[0] / "0.png")
        output = verify.reference_output(truth, picture[None])[0].clip(0, 1)
        expected = figures(output, read(folders[1] / "0.png"))
        assert result.pictures["0"].output == pytest.approx(expected, rel=1e-4)


def test_a_name_of_shipped_weights_means_their_engine_and_natively_the_weights(
    folders, model, engine, monkeypatch
):
    from derain_engine.evaluation import subject as evaluate_subject
    from derain_engine.models import weights

    monkeypatch.setattr(weights, "shipped", {"tiny": model}.get)
    monkeypatch.setattr(evaluate_subject, "find_engine", lambda name, **_: {"tiny": engine}[name])
    assert evaluate("tiny", *folders).method.startswith("engine")
    assert evaluate("tiny", *folders, native=True).method == "reference network in fp32, unpadded"


@pytest.mark.parametrize(
    "options", [{"network_options": {"stages": 2}}, {"arch": "prenet"}, {"colour_order": "bgr"}], ids=str
)
def test_options_of_a_network_are_refused_where_they_would_change_nothing(
    folders, model, engine, monkeypatch, options
):
    from derain_engine.models import weights

    monkeypatch.setattr(weights, "shipped", {"tiny": model}.get)
    for subject in ("tiny", engine, "opening", folders[1]):
        with pytest.raises(InputError, match="would change nothing"):
            evaluate(subject, *folders, **options)


def test_a_folder_does_not_hide_shipped_weights_of_its_name(tmp_path, monkeypatch):
    from derain_engine.engine.build import find_model
    from derain_engine.models import weights

    monkeypatch.chdir(tmp_path)
    Path("sid-lite").mkdir()
    assert find_model("sid-lite") == (weights.shipped("sid-lite"), "sid-lite")
    assert weights.meant("./sid-lite") is None
    Path("sid-lite").rmdir()
    Path("sid-lite").write_text("x")
    assert find_model("sid-lite") == (Path("sid-lite"), "sid-lite")


def test_equal_pictures_are_infinitely_close_and_json_says_null(folders):
    _, clean = folders
    result = evaluate("opening", clean, clean)
    assert result.mean.rainy["psnr"] == math.inf and result.mean.rainy["ssim"] == 1
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    dark = result.mean.rainy["dark_channel"]
    expected = {"psnr": None, "ssim": 1, "psnr_y": None, "ssim_y": 1, "dark_channel": dark}
    assert record["mean"]["rainy"] == expected
    assert record["pictures"][0]["name"] == "0" and record["pictures"][0]["height"] == 33
    infinite = result.pictures["0"].rainy
    assert math.isnan(replace(result.mean, rainy=infinite, output=infinite).gain["psnr"])


def test_16_bit_pictures_keep_their_precision(tmp_path):
    for folder, value in (("rainy", 30000), ("clean", 30001)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), np.full((16, 16, 3), value, np.uint16))
    result = evaluate("opening", tmp_path / "rainy", tmp_path / "clean")
    assert result.mean.rainy["psnr"] == pytest.approx(20 * math.log10(65535), abs=0.05)


def test_pairs_are_found_by_stem_whatever_the_suffix(folders):
    rainy, clean = folders
    Image.open(clean / "1.png").save(clean / "1.bmp")
    (clean / "1.png").unlink()
    Image.open(clean / "0.png").save(clean / "unused.png")
    (rainy / "notes.txt").write_text("not a picture")
    assert [(p.name, p.clean and p.clean.name) for p in find_pairs(rainy, clean)] == [
        ("0", "0.png"),
        ("1", "1.bmp"),
        ("2", "2.png"),
    ]


def spoil_missing(rainy, clean):
    (clean / "1.png").unlink()


def spoil_size(rainy, clean):
    Image.open(clean / "2.png").crop((0, 0, 30, 40)).save(clean / "2.png")


def spoil_twice(rainy, clean):
    Image.open(rainy / "1.png").save(rainy / "1.bmp")


def spoil_empty(rainy, clean):
    for path in rainy.iterdir():
        path.unlink()


def spoil_folder(rainy, clean):
    spoil_empty(rainy, clean)
    rainy.rmdir()


def spoil_picture(rainy, clean):
    (rainy / "2.png").write_bytes((rainy / "2.png").read_bytes()[:60])


def spoil_small(rainy, clean):
    for folder in (rainy, clean):
        Image.new("RGB", (10, 30)).save(folder / "2.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_missing, r"clean has no picture named like 1\.png"),
        (spoil_twice, r"1\.bmp and .*1\.png have the same name"),
        (spoil_empty, "rainy has no pictures"),
        (spoil_folder, "rainy is not a folder"),
    ],
)
def test_sets_that_do_not_pair_are_refused_by_name(folders, spoil, message):
    spoil(*folders)
    with pytest.raises(InputError, match=message):
        evaluate("opening", *folders)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (spoil_size, InputError, r"2\.png is 65x40 and .*2\.png is 30x40"),
        (spoil_picture, MediaError, r"2\.png"),
        (spoil_small, InputError, r"2\.png: SSIM needs sides"),
    ],
)
def test_a_picture_that_cannot_be_measured_is_named_and_the_others_are_measured(
    folders, spoil, error, message
):
    whole = evaluate("opening", *folders)
    spoil(*folders)
    result = evaluate("opening", *folders)
    assert list(result.pictures) == ["0", "1"] and result.sets[0].pictures == ("0", "1")
    assert result.pictures["0"] == whole.pictures["0"]
    (failure,) = result.failures
    assert failure.name == "2" and type(failure.error) is error
    with pytest.raises(error, match=message):
        raise failure.error
    record = result.to_json()["failures"]
    assert record == [{"name": "2", "error": str(failure.error)}]


def test_where_no_picture_can_be_measured_there_is_no_result(folders):
    for path in folders[0].iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"None of 3 could be measured; the first: .*0\.png"):
        evaluate("opening", *folders)
    for name in ("1", "2"):
        (folders[0] / f"{name}.png").unlink()
    with pytest.raises(MediaError, match=r"0\.png"):
        evaluate("opening", *folders)


@pytest.mark.parametrize(
    ("model_name", "options", "message"),
    [
        ("opening", {"native": True}, "no network"),
        ("no-such-thing", {}, "neither"),
        ("no-such-thing", {"native": True}, "neither"),
    ],
)
def test_subjects_that_cannot_be_evaluated_are_refused(folders, model_name, options: dict[str, Any], message):
    with pytest.raises(InputError, match=message):
        evaluate(model_name, *folders, **options)


def test_an_existing_file_goes_before_a_name_and_must_be_a_model(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "opening").write_text("hello")
    with pytest.raises(DerainError, match="text file"):
        evaluate("opening", *folders)


def test_natively_a_side_below_the_networks_smallest_is_refused(tmp_path, model):
    for folder in ("rainy", "clean"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 20)).save(tmp_path / folder / "a.png")
    evaluate(model, tmp_path / "rainy", tmp_path / "clean")
    with pytest.raises(InputError, match=r"a\.png: without padding .* at least 32 pixels, not 40x20"):
        evaluate(model, tmp_path / "rainy", tmp_path / "clean", native=True)


def test_nan_is_never_averaged(folders, monkeypatch):
    from derain_engine.evaluation import subject as evaluate_subject

    monkeypatch.setattr(evaluate_subject, "_opening", lambda image: image * np.float32("nan"))
    with pytest.raises(VerificationError, match=r"opening gave NaN .*0\.png"):
        evaluate("opening", *folders)

"""ONNX models of strangers: which are taken, what is found out about them, engines of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import derain_engine
from derain_engine.base.errors import BuildError, CheckpointError, InputError, VerificationError
from derain_engine.engine import build, verify
from derain_engine.models import onnx_file
from derain_engine.models.onnx_file import OnnxFacts, read_onnx
from derain_engine.samples import photographs

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "_TRIED_SIDE", 32)


def blur(
    path: Path,
    *,
    sides: tuple[Any, Any] = ("h", "w"),
    last: bool = False,
    kind: int = FLOAT,
    top: float = 1.0,
    multiple: int = 1,
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Path:
    """Save a little smoothing and clipping to [0, top], of which the channels come out times ``gains``; sides must be
    multiples of ``multiple``."""
    number = np.float16 if kind == HALF else np.float32
    kernel = np.zeros((3, 1, 3, 3), number)
    kernel[:, 0, 1, :] = np.array([0.1, 0.8, 0.1]) * np.array(gains)[:, None]
    weights = {"kernel": kernel, "low": np.array(0, number), "high": np.array(top, number)}
    nodes, at = [], "input"
    if last:
        nodes.append(helper.make_node("Transpose", [at], ["first"], perm=[0, 3, 1, 2]))
        at = "first"
    if multiple > 1:
        nodes += [
            helper.make_node("SpaceToDepth", [at], ["deep"], blocksize=multiple),
            helper.make_node("DepthToSpace", ["deep"], ["flat"], blocksize=multiple),
        ]
        at = "flat"
    nodes.append(helper.make_node("Clip", [at, "low", "high"], ["clipped"]))
    nodes.append(
        helper.make_node("Conv", ["clipped", "kernel"], ["y"], group=3, pads=[1, 1, 1, 1], name="clean")
    )
    at = "y"
    if last:
        nodes.append(helper.make_node("Transpose", [at], ["z"], perm=[0, 2, 3, 1]))
        at = "z"
    shape = ["n", *sides, 3] if last else ["n", 3, *sides]
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("input", kind, shape)],
        [helper.make_tensor_value_info(at, kind, shape)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def smoothed(image: np.ndarray, gains: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """Do what the graph does to an H x W x 3 picture in [0, 1]."""
    wide = np.pad(image, ((0, 0), (1, 1), (0, 0)))
    return (0.1 * wide[:, :-2] + 0.8 * wide[:, 1:-1] + 0.1 * wide[:, 2:]) * np.array(gains, np.float32)


@pytest.mark.parametrize(
    ("options", "told", "found"),
    [
        ({}, {"colour_order": "rgb"}, ("rgb", "0..1", 1)),
        ({"top": 255.0, "last": True}, {"colour_order": "bgr"}, ("bgr", "0..255", 1)),
        ({"multiple": 4}, {"colour_order": "rgb", "value_range": "0..1"}, ("rgb", "0..1", 4)),
        (
            {"kind": HALF},
            {"colour_order": "rgb", "value_range": "0..1", "granularity": 8},
            ("rgb", "0..1", 8),
        ),
    ],
)
def test_what_is_not_told_is_found_out(options: Any, told: Any, found: Any, tmp_path: Path) -> None:
    checkpoint = read_onnx(blur(tmp_path / "x.onnx", **options), OnnxFacts(**told))
    config = checkpoint.spec.config
    assert (config["colour_order"], config["range"], config["granularity"]) == found
    assert checkpoint.spec.granularity == checkpoint.spec.smallest_side == found[2]
    names = {"colour_order": "colour_order", "value_range": "range", "granularity": "granularity"}
    assert set(config["guessed"]) == {name for key, name in names.items() if key not in told}
    picture = photographs.rainy_pairs(16, 24)["coffee in heavy"][0]
    result = verify.reference_output(checkpoint.network, picture[None])[0]
    assert np.abs(result - smoothed(picture)).max() < (2e-3 if options.get("kind") == HALF else 1e-5)


def test_the_colour_order_is_the_one_whose_pictures_come_closer_to_the_truth(tmp_path: Path) -> None:
    """Rain is bright: the channel of least light is best made darker, which in these pictures is blue."""
    gains = (1.0, 1.0, 0.4)
    path = blur(tmp_path / "x.onnx", gains=gains)
    errors = {}
    for order in ("rgb", "bgr"):
        network = read_onnx(path, OnnxFacts(order, "0..1", 1)).network
        found = [
            verify.reference_output(network, rainy[None])[0] - truth
            for rainy, truth in photographs.rainy_pairs(32, 32).values()
        ]
        errors[order] = float(np.abs(np.stack(found)).mean())
    assert abs(errors["rgb"] - errors["bgr"]) > 1e-3
    found = read_onnx(path, OnnxFacts(value_range="0..1", granularity=1)).spec.config
    assert found["colour_order"] == min(errors, key=lambda each: errors[each])
    assert found["guessed"] == ["colour_order"]


def test_an_engine_of_one(tmp_path: Path) -> None:
    gains = (1.0, 0.9, 0.8)
    path = blur(tmp_path / "theirs.onnx", last=True, top=255.0, gains=gains)
    report = build.build(
        path,
        tmp_path / "x.derain",
        precision="fp32",
        colour_order="bgr",
        value_range="0..255",
        granularity=2,
    )
    manifest = report.manifest
    assert (manifest.architecture, manifest.source, manifest.granularity) == ("onnx", "theirs", 2)
    assert manifest.config["guessed"] == [] and manifest.config["range"] == "0..255"
    picture = photographs.rainy_pairs(16, 24)["chelsea in light"][0]
    with derain_engine.load(report.path) as engine:
        expected = smoothed(picture[..., ::-1], gains)[..., ::-1]
        assert np.abs(engine(picture) - expected).max() < 1e-5
        assert engine(np.zeros((3, 5, 3), np.uint8)).shape == (3, 5, 3)
    assert build.verify_engine(report.path, path).missed() == []
    other = blur(tmp_path / "other.onnx", last=True, top=255.0)
    with pytest.raises(VerificationError, match="other weights"):
        build.verify_engine(report.path, other)


def test_a_model_of_one_size_pads_and_tiles(tmp_path: Path) -> None:
    path = blur(tmp_path / "x.onnx", sides=(160, 192))
    report = build.build(path, tmp_path / "x.derain", precision="fp32", colour_order="rgb")
    sizes = report.manifest.sizes
    assert sizes is not None and sizes.fixed and sizes.most == (160, 192)
    with derain_engine.load(report.path) as engine:
        for size in ((160, 192), (50, 70), (170, 300)):
            picture = photographs.rainy_pairs(*size)["coffee in heavy"][0]
            found = engine(picture)
            # Not at the padded right edge, and as exact as blending is.
            assert np.abs(found - smoothed(picture))[:, 1:-1].max() < 5e-5
    with pytest.raises(InputError, match="for frames of 160x192 alone"):
        build.build(path, tmp_path / "y.derain", shape=(64, 64))


def change(path: Path, how: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(path)
    how(model)
    path.write_bytes(model.SerializeToString())
    return path


def _second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("mask", FLOAT, [1, 3, 8, 8]))


def _grey(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1


def _bytes(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    model.graph.node.insert(0, helper.make_node("Cast", ["input"], ["f"], to=FLOAT))
    model.graph.node[1].input[0] = "f"


def _outside(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")
    weight.ClearField("raw_data")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (_second_input, r"has 2 inputs \(input, mask\)"),
        (_grey, "damaged ONNX model|takes"),
        (_bytes, "of uint8; it must take images"),
        (_outside, r"keeps weights in other files \(kernel\)"),
        (lambda model: model.graph.node.pop(), "damaged ONNX model"),
    ],
)
def test_what_is_no_model_from_image_to_image_is_refused(
    how: Callable[[onnx.ModelProto], None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_onnx(change(blur(tmp_path / "x.onnx"), how), OnnxFacts())


def test_models_that_give_no_images_back_are_refused(tmp_path: Path) -> None:
    path = blur(tmp_path / "x.onnx", gains=(50.0, 50.0, 50.0))
    with pytest.raises(CheckpointError, match="gives no cleaned images back"):
        read_onnx(path, OnnxFacts(granularity=1))


def test_what_cannot_be_asked_of_them_is_refused(tmp_path: Path) -> None:
    path, out = blur(tmp_path / "x.onnx"), tmp_path / "x.derain"
    with pytest.raises(InputError, match="no --option and no --arch"):
        build.build(path, out, network_options={"stages": 3})
    with pytest.raises(InputError, match="no value range"):
        build.build(path, out, value_range="0..2")
    with pytest.raises(InputError, match="leave --range and --granularity out"):
        build.build("sid-lite", out, granularity=8)
    known: Any = {"colour_order": "rgb", "value_range": "0..1", "granularity": 1}
    with pytest.raises(BuildError, match="networks of PyTorch, and onnx is none"):
        build.build(path, out, backend="reference", **known)
    with pytest.raises(BuildError, match="know no OnnxNetwork network"):
        build.build(path, out, backend="fused", gpu="sm_80", **known)
    assert not out.exists()

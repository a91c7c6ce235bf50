"""Rewritten graphs compute what they did, with fewer operations."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import openvino
import pytest
import torch
import torch.nn.functional as F
from openvino import opset15 as ops
from torch import nn

from derain_engine.engine.backends.openvino.rewrites import split_concatenations
from derain_engine.export.onnx import export_onnx
from derain_engine.models.spec import ModelSpec


class Joined(nn.Module):
    """A 1x1 (or other) convolution of maps of several resolutions, as PFFBs have it."""

    def __init__(self, scales: tuple[int, ...], kernel: int = 1, mode: str = "nearest") -> None:
        super().__init__()
        self.scales, self.mode = scales, mode
        widths = [4 + i for i in range(len(scales))]
        self.parts = nn.ModuleList(nn.Conv2d(3, width, 3, 1, 1) for width in widths)
        self.join = nn.Conv2d(sum(widths), 3, kernel, 1, kernel // 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        maps = []
        for part, scale in zip(self.parts, self.scales, strict=True):
            small = F.leaky_relu(part(F.max_pool2d(image, scale) if scale > 1 else image), 0.2)
            maps.append(F.interpolate(small, scale_factor=scale, mode=self.mode) if scale > 1 else small)
        return image - F.leaky_relu(self.join(torch.cat(maps, 1)), 0.2)


def exported(network: nn.Module, granularity: int = 8) -> openvino.Model:
    spec = ModelSpec("joined", granularity=granularity, smallest_side=granularity)
    return openvino.Core().read_model(export_onnx(network.eval(), spec).SerializeToString())


def run(model: openvino.Model, image: np.ndarray) -> np.ndarray:
    compiled = openvino.Core().compile_model(model.clone(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(image)[0])


def kinds(model: openvino.Model) -> Counter[str]:
    return Counter(node.get_type_name() for node in model.get_ops())


@pytest.mark.parametrize("scales", [(1, 2), (1, 2, 4, 8), (4, 1, 2), (1, 1), (1, 1, 1), (1, 8, 2, 2)])
def test_sums_of_parts_are_the_convolution_of_the_whole(scales: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = exported(Joined(scales))
    before = kinds(model)["Concat"]
    images = [
        np.random.default_rng(0).random((n, 3, h, w), np.float32) for n, h, w in ((1, 8, 8), (2, 24, 40))
    ]
    expected = [run(model, image) for image in images]
    assert split_concatenations(model) == 1
    assert kinds(model)["Concat"] == before - 1
    for image, whole in zip(images, expected, strict=True):
        np.testing.assert_allclose(run(model, image), whole, atol=1e-6)
        assert np.abs(whole - image).max() > 0.05


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(Joined((1, 2), kernel=3), id="another kernel"),
        pytest.param(Joined((2, 4)), id="nothing at full size"),
        pytest.param(Joined((2, 2)), id="all upsampled"),
    ],
)
def test_what_is_not_known_to_be_equal_is_left_alone(network: Joined) -> None:
    model = exported(network)
    before = kinds(model)
    assert split_concatenations(model) == 0
    assert kinds(model) == before


def test_a_convolution_without_a_bias_is_split_too() -> None:
    rng = np.random.default_rng(0)
    image = ops.parameter([1, 3, -1, -1], np.float32)
    weights = ops.constant(rng.standard_normal((3, 6, 1, 1), np.float32))
    joined = ops.concat([image, ops.negative(image)], 1)
    result = ops.convolution(joined, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    model = openvino.Model([result], [image])  # pyright: ignore[reportGeneralTypeIssues]
    picture = rng.random((1, 3, 7, 13), np.float32)
    expected = run(model, picture)
    assert split_concatenations(model) == 1 and kinds(model)["Concat"] == 0
    np.testing.assert_allclose(run(model, picture), expected, atol=1e-6)


def test_other_upsampling_is_split_but_not_exchanged() -> None:
    model = exported(Joined((1, 2), mode="bilinear"))
    image = np.random.default_rng(1).random((1, 3, 16, 24), np.float32)
    expected = run(model, image)
    resized = [node for node in model.get_ordered_ops() if node.get_type_name() == "Interpolate"]
    assert split_concatenations(model) == 1
    assert [node.get_attributes()["mode"] for node in resized] == [
        node.get_attributes()["mode"]
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Interpolate"
    ]
    np.testing.assert_allclose(run(model, image), expected, atol=1e-6)


def test_the_network_keeps_its_function_and_its_shared_weights(exported: onnx.ModelProto) -> None:
    model = openvino.Core().read_model(exported.SerializeToString())
    image = np.random.default_rng(0).random((1, 3, 64, 32), np.float32)
    expected = run(model, image)
    assert split_concatenations(model) > 20
    np.testing.assert_allclose(run(model, image), expected, atol=1e-5)
    assert np.abs(expected - image).max() > 0.05
    names = [node.get_friendly_name() for node in model.get_ops() if node.get_type_name() == "Constant"]
    slices = [name for name in names if ":" in name]
    assert len(slices) == len(set(slices))

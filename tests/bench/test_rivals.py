from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from derain_engine.base.errors import InputError
from derain_engine.bench import rivals
from derain_engine.bench.contestants import find_checkpoint, manifest_of
from derain_engine.engine.backends.reference import ReferenceSession
from derain_engine.engine.frames import quantise
from derain_engine.models.ssid_kd import Derained


@pytest.fixture(scope="module")
def checkpoint():
    from derain_engine.models.registry import create, spec_of
    from derain_engine.models.ssid_kd import SSIDKDConfig

    spec = spec_of("ssid-kd", SSIDKDConfig((4, 4, 4), (1, 1, 1), blocks="mffb"))
    torch.manual_seed(0)
    network = create(spec).eval().requires_grad_(False)
    return replace(find_checkpoint("sid-lite"), spec=spec, network=network)


def frames(dtype, size):
    image = np.random.default_rng(0).random((*size, 3), np.float32)
    return quantise(image, np.uint8) if dtype == np.uint8 else image


@pytest.mark.parametrize("size", [(32, 64), (33, 40), (1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_eager_in_fp32_is_the_reference(checkpoint, dtype, size):
    manifest = manifest_of(checkpoint.spec, checkpoint.weights_sha256, source="small")
    found, opener = rivals.pytorch(checkpoint, manifest, 1)
    assert (found.backend, found.backend_version) == ("pytorch", torch.__version__) and not opener.on_gpu
    image = frames(dtype, size)
    with opener("latency") as engine:
        clean = engine(image)
    missing = [(0, -side % 32) for side in size]
    padded = np.pad(image, [*missing, (0, 0)], mode="reflect" if min(size) > 1 else "edge")
    expected = ReferenceSession(checkpoint.network, checkpoint.spec).run(padded[None])[0]
    assert clean.dtype == dtype and clean.shape == image.shape
    # Sums may be in another order, which 8 bits do not show.
    np.testing.assert_allclose(clean, expected[: size[0], : size[1]], rtol=0, atol=1e-6)


def test_eager_in_bf16_rounds_and_leaves_the_network_alone(checkpoint):
    manifest = manifest_of(checkpoint.spec, checkpoint.weights_sha256, source="small")
    image = frames(np.float32, (32, 64))
    outputs = {}
    for precision in ("bf16", "fp32"):
        _, opener = rivals.pytorch(checkpoint, manifest, 1, precision=precision)
        with opener("latency") as engine:
            assert engine.precision == precision
            outputs[precision] = engine(image)
    error = np.abs(outputs["bf16"] - outputs["fp32"]).max()
    assert 0 < error < 2e-2
    assert {each.dtype for each in checkpoint.network.parameters()} == {torch.float32}


class OneLayer(torch.nn.Module):
    """Stands for a network that compiles in seconds."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image):
        return Derained(image - self.layer(image), self.layer(image), image)


@pytest.mark.slow
def test_compiled_is_eager_at_every_size(checkpoint):
    checkpoint = replace(checkpoint, network=OneLayer().eval().requires_grad_(False))
    manifest = manifest_of(checkpoint.spec, checkpoint.weights_sha256, source="one")
    ways = [rivals.pytorch(checkpoint, manifest, 1, compiled=compiled) for compiled in (False, True)]
    assert [found.backend for found, _ in ways] == ["pytorch", "torch.compile"]
    with ways[0][1]("latency") as eager, ways[1][1]("latency") as compiled:
        for size in ((32, 32), (33, 40)):
            image = frames(np.float32, size)
            np.testing.assert_allclose(compiled(image), eager(image), rtol=0, atol=1e-5)


def save(path, nodes, inputs, outputs):
    def ports(names):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", c, "h", "w"]) for n, c in names]

    graph = helper.make_graph(nodes, "g", ports(inputs), ports(outputs))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_an_onnx_file_is_run_unpadded_whatever_its_names(tmp_path):
    file = save(tmp_path / "a.onnx", [helper.make_node("Neg", ["x"], ["y"])], [("x", 3)], [("y", 3)])
    contestant = rivals.onnx_file("Mine", file, 1)
    image = frames(np.float32, (7, 13))
    with contestant.open("latency") as engine:
        assert np.array_equal(engine(image), -image)
    assert (contestant.name, contestant.reference, contestant.open.on_gpu) == ("Mine", None, False)


def test_an_onnx_file_of_another_kind_is_refused(tmp_path):
    add = helper.make_node("Add", ["x", "z"], ["y"])
    file = save(tmp_path / "two.onnx", [add], [("x", 3), ("z", 3)], [("y", 3)])
    with pytest.raises(InputError, match=r"takes x .*, z .*one float input"):
        rivals.onnx_file("a", file, 1)
    grey = save(tmp_path / "grey.onnx", [helper.make_node("Neg", ["x"], ["y"])], [("x", 1)], [("y", 1)])
    with pytest.raises(InputError, match="one float input"):
        rivals.onnx_file("a", grey, 1)
    (tmp_path / "no.onnx").write_bytes(b"hello")
    with pytest.raises(InputError, match="no ONNX file"):
        rivals.onnx_file("a", tmp_path / "no.onnx", 1)
    with pytest.raises(InputError, match="cannot be read"):
        rivals.onnx_file("a", tmp_path / "gone.onnx", 1)


def test_an_output_of_another_size_is_refused(tmp_path):
    nodes = [helper.make_node("Transpose", ["x"], ["y"], perm=[0, 1, 3, 2])]
    contestant = rivals.onnx_file("a", save(tmp_path / "t.onnx", nodes, [("x", 3)], [("y", 3)]), 1)
    with contestant.open("latency") as engine, pytest.raises(InputError, match="same size"):
        engine(frames(np.uint8, (4, 6)))

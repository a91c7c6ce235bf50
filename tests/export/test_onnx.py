"""The ONNX export: the same function at every size, each weight once, nothing of this machine inside."""

from __future__ import annotations

import gc
import logging
import math
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from derain_engine.base.errors import BuildError, InputError
from derain_engine.export import onnx as export
from derain_engine.export.onnx import check_onnx, export_onnx
from derain_engine.models.registry import create, spec_of
from derain_engine.models.spec import ModelSpec
from derain_engine.models.ssid_kd import MFFB, PFFB, Derained, SSIDKDConfig

# MFFB alone: an eighth of the graph. Two full-scale units, so that there are weights to share.
SPEC = spec_of("ssid-kd", SSIDKDConfig((4, 6, 8), (2, 1, 1), blocks="mffb"))
OUTPUTS = ("clean", "rain", "code")
DEAD = {f"encoder_decoder_1.enLayer_{scale}.conv1x1.{i}.0." for scale, i in ((1, 1), (2, 0), (4, 0))} | {
    f"encoder_decoder_2.enLayer_{scale}.conv1x1.0.0." for scale in (2, 4)
}


def strong(network: nn.Module) -> nn.Module:
    """Random weights scaled so that the network changes its input visibly."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.mul_(1.6)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return strong(create(SPEC))


@pytest.fixture(scope="module")
def model(network: nn.Module) -> onnx.ModelProto:
    return export_onnx(network, SPEC, outputs=OUTPUTS)


def run(model: onnx.ModelProto, image: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(list(OUTPUTS), {"rainy": image})  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (3, 3, 160, 64), (1, 3, 96, 256)])
def test_equals_the_network_at_sizes_it_was_not_traced_at(
    network: nn.Module, model: onnx.ModelProto, shape: tuple[int, ...]
) -> None:
    image = np.random.default_rng(1).random(shape, dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(image))
    for name, result in zip(OUTPUTS, run(model, image), strict=True):
        reference = getattr(expected, name).numpy()
        assert result.shape == reference.shape
        assert np.std(reference) > 0.02, f"{name} is too flat to be a test"
        assert np.abs(result - reference).max() <= 1e-5 * max(1, np.abs(reference).max()), name


def test_check_gives_the_error_and_refuses_another_network(
    network: nn.Module, model: onnx.ModelProto
) -> None:
    assert 0 < check_onnx(model, network, SPEC) <= 1e-5
    torch.manual_seed(1)
    with pytest.raises(BuildError, match="'clean' differs from the network by"):
        check_onnx(model, strong(create(SPEC)), SPEC)


def test_each_live_weight_is_stored_once_under_its_own_name(
    network: nn.Module, model: onnx.ModelProto
) -> None:
    live = {n: p for n, p in network.named_parameters() if not any(n.startswith(dead) for dead in DEAD)}
    assert len(live) == len(list(network.parameters())) - 2 * len(DEAD)
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    assert {name for name in stored if not name.startswith("scales_")} == set(live)
    for name, parameter in live.items():
        np.testing.assert_array_equal(stored[name], parameter.detach().numpy())
    assert not any(i.HasField("data_location") and i.data_location for i in model.graph.initializer)


def test_nothing_in_the_graph_computes_or_holds_a_size(model: onnx.ModelProto) -> None:
    assert {node.op_type for node in model.graph.node} == {
        "Add",
        "Concat",
        "Conv",
        "Identity",
        "LeakyRelu",
        "Resize",
        "Sub",
    }
    assert not model.graph.value_info
    for node in model.graph.node:
        if node.op_type == "Resize":
            assert len(node.input) == 3 and node.input[2].startswith("scales_1_1_")


def test_interface(model: onnx.ModelProto) -> None:
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "rainy": ["batch", 3, "height", "width"],
        "clean": ["batch", 3, "height", "width"],
        "rain": ["batch", 3, "height", "width"],
        "code": ["batch", 8, "height/4", "width/4"],
    }
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert {prop.key: prop.value for prop in model.metadata_props} == {
        "architecture": "ssid-kd",
        "colour": "RGB",
        "granularity": "32",
        "range": "0..1",
        "smallest_side": "32",
    }


def test_bytes_repeat_and_tell_nothing_of_the_exporter(network: nn.Module, model: onnx.ModelProto) -> None:
    data = model.SerializeToString()
    assert export_onnx(network, SPEC, outputs=OUTPUTS).SerializeToString() == data
    assert not re.search(rb"\.py\b|pkg\.torch|site-packages|pytorch|Traceback|network\.", data)
    weights = 4 * sum(math.prod(i.dims) for i in model.graph.initializer)
    assert len(data) < weights + 80_000


class Pyramid(nn.Module):
    """The operators that the small network above lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(PFFB(8, "resblock"), MFFB(8, "relu"))
        self.norm = nn.InstanceNorm2d(8, affine=True)
        self.down = nn.Conv2d(8, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 3, 2, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.norm(torch.sigmoid(self.body(self.head(image))))
        small = F.interpolate(F.max_pool2d(image, 2), scale_factor=0.5, mode="bilinear")
        large = F.interpolate(small, size=image.shape[-2:], mode="nearest")
        return torch.cat([torch.tanh(self.up(self.down(x)))], 1) * large + image


def test_a_network_that_returns_a_tensor_and_other_operators() -> None:
    torch.manual_seed(0)
    network, spec = strong(Pyramid()), ModelSpec("pyramid", granularity=8, smallest_side=12)
    stages: list[tuple[str, float]] = []
    model = export_onnx(network, spec, progress=lambda stage, done: stages.append((stage, done)))
    assert check_onnx(model, network, spec) <= 1e-5
    assert {"ConvTranspose", "InstanceNormalization", "MaxPool", "Resize"} <= {
        n.op_type for n in model.graph.node
    }
    fractions = [done for _, done in stages]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1


class Whole(nn.Module):
    """Every operator that the exporter need not decompose."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(self.head(image), 0.2)
        pooled = F.interpolate(F.max_pool2d(x, 2), size=x.shape[-2:], mode="nearest")
        small = F.interpolate(x, scale_factor=0.5, mode="bilinear")
        large = F.relu(F.interpolate(small, size=x.shape[-2:], mode="bilinear"))
        state = torch.tanh(x) * torch.sigmoid(pooled) + x.new_zeros(x.shape)
        return image - self.tail(torch.cat([state + pooled, large], 1))


def test_what_is_not_decomposed_is_what_would_come_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network, spec = strong(Whole()), ModelSpec("whole", granularity=2)
    traced: list[set[str]] = []
    keep_whole = export._keep_whole

    def note(program: torch.export.ExportedProgram) -> None:
        traced.append({str(node.target) for node in program.graph.nodes if node.op == "call_function"})
        keep_whole(program)

    monkeypatch.setattr(export, "_keep_whole", note)
    model = export_onnx(network, spec)
    assert traced == [export._WHOLE_OPERATORS]
    assert check_onnx(model, network, spec) <= 1e-5
    monkeypatch.setattr(export, "_WHOLE_OPERATORS", set())
    assert export_onnx(network, spec).SerializeToString() == model.SerializeToString()


class Shaped(nn.Module):
    """Writes the traced size into the graph."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        n, c, h, w = image.shape
        return image.reshape(n, c, h * w).softmax(-1).reshape(n, c, h, w)


class Thirds(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        h, w = image.shape[-2:]
        return F.interpolate(F.interpolate(image, (h // 3, w // 3)), (h, w))


class Deciding(nn.Module):
    """Takes another path at larger sizes, which no trace can see."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.tanh(image) if image.shape[-2] < 20 else torch.sigmoid(image)


class Broken(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image @ torch.zeros(5, 5)


class Mapped(nn.Module):
    def forward(self, image: torch.Tensor) -> Derained:
        return Derained(image * 2, image, image.mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "granularity", "message"),
    [(Shaped(), 8, "holds a size"), (Thirds(), 6, "resizes by 1/3"), (Broken(), 8, "could not be exported")],
)
def test_refuses_what_cannot_run_at_any_size(network: nn.Module, granularity: int, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        export_onnx(network, ModelSpec("odd", granularity=granularity))


def test_check_finds_a_path_that_depends_on_the_size() -> None:
    spec = ModelSpec("deciding", granularity=8)
    with pytest.raises(BuildError, match="differs from the network"):
        check_onnx(export_onnx(Deciding(), spec), Deciding(), spec)


@pytest.mark.parametrize("outputs", [(), ("clean", "clean"), ("dirty",)])
def test_refuses_unknown_outputs(outputs: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="clean, rain, code"):
        export_onnx(Mapped(), ModelSpec("mapped", granularity=8), outputs=outputs)


def test_refuses_outputs_that_the_network_lacks_and_that_are_no_maps() -> None:
    with pytest.raises(InputError, match="has no output code"):
        export_onnx(Thirds(), ModelSpec("thirds", granularity=8), outputs=("clean", "code"))
    with pytest.raises(BuildError, match="'code' is not a batch of images or maps"):
        export_onnx(Mapped(), ModelSpec("mapped", granularity=8), outputs=("clean", "code"))


def test_is_quiet_and_leaves_the_process_as_it_was(
    capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    level = logging.getLogger("torch.onnx").level
    network = nn.Conv2d(3, 3, 1)
    export_onnx(network, ModelSpec("point", granularity=8))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list and not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert logging.getLogger("torch.onnx").level == level and gc.isenabled()
    assert all(parameter.requires_grad for parameter in network.parameters())

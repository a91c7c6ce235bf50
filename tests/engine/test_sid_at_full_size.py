"""The published network's size, from the published file layout to clean frames, at the tolerances of builds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import derain_engine
from derain_engine.engine import backends, bundle
from derain_engine.engine.backends.base import Artefact, RunOptions
from derain_engine.engine.runtime import Engine
from derain_engine.engine.verify import FP32_MAX_ABS, HALF_MAX_ABS, HALF_PSNR, reference_output
from derain_engine.export.onnx import check_onnx, export_onnx
from derain_engine.models.registry import spec_of
from derain_engine.models.ssid_kd import SSIDKD, SSIDKDConfig

from ..helpers import pad_frame, strong
from ..models.checkpoints import save_as_published

pytestmark = pytest.mark.slow

SIZES = [(128, 128), (321, 481), (257, 333), (1, 1)]


@pytest.fixture(scope="module")
def network() -> SSIDKD:
    return strong(SSIDKDConfig(), seed=7)


@pytest.fixture(scope="module")
def engine_file(network: SSIDKD, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sid")
    save_as_published(folder / "net_latest", network)
    assert all(
        key.startswith("module.") for key in torch.load(folder / "net_latest", weights_only=True)["net"]
    )
    # What the build compares is compared below, at more sizes.
    report = derain_engine.build(
        folder / "net_latest", folder / "sid.derain", backend="openvino", precision="fp32"
    )
    assert report.parameters == 4_433_779
    return report.path


@pytest.fixture(params=["fp32", "bf16"])
def engine(request: pytest.FixtureRequest, engine_file: Path) -> Iterator[Engine]:
    """Open the engine; its payload is fp32 either way, the precision is what the session computes in."""
    backend = backends.get("openvino")
    with bundle.open_bundle(engine_file) as opened:
        manifest = opened.manifest
        payloads = {name: bytes(opened.read(name)) for name in opened.names}
    artefact = Artefact("openvino", manifest.backend_version, request.param, payloads)
    session = backend.open(artefact, RunOptions())
    if session.precision != request.param:
        pytest.skip("this CPU has no bf16 instructions")
    with Engine(session, manifest) as engine:
        yield engine


def photo(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    waves = [0.5 + 0.4 * np.sin(x / (7 + 3 * c) + c) * np.cos(y / (11 + 2 * c)) for c in range(3)]
    grain = np.random.default_rng(height).normal(0, 0.05, (height, width, 3))
    return np.clip(np.stack(waves, 2) + grain, 0, 1).astype(np.float32)


def assert_close(output: np.ndarray, reference: np.ndarray, precision: str) -> None:
    error = np.abs(output.astype(np.float64) - reference)
    if precision == "fp32":
        assert error.max() <= FP32_MAX_ABS * max(1.0, np.abs(reference).max())
    else:
        assert error.max() <= HALF_MAX_ABS
        assert -10 * np.log10(np.mean(error**2)) >= HALF_PSNR


_references: dict[tuple[int, int], np.ndarray] = {}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_engine_equals_the_reference(engine: Engine, network: SSIDKD, size: tuple[int, int]) -> None:
    image = photo(*size)
    if size not in _references:
        padded, _ = pad_frame(image[None], 32, 32)
        _references[size] = reference_output(network, padded)[0, : size[0], : size[1]]
    assert_close(engine(image), _references[size], engine._session.precision)


@pytest.fixture(scope="module")
def with_code(network: SSIDKD) -> onnx.ModelProto:
    """Return the network with its innermost map as a second output, as ONNX."""
    return export_onnx(network, spec_of("ssid-kd", {}), outputs=("clean", "code"))


def test_the_onnx_file_holds_what_is_alive_once(network: SSIDKD, with_code: onnx.ModelProto) -> None:
    graph = with_code.graph
    numbers = sum(math.prod(i.dims) for i in graph.initializer if not i.name.startswith("scales_"))
    assert numbers == 4_433_779 - 30_584
    assert sum(node.op_type == "Conv" for node in graph.node) == 42 * 25 + 42 - 5 + 10
    assert check_onnx(with_code, network, spec_of("ssid-kd", {})) <= 1e-5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_inner_code_equals_the_reference(
    network: SSIDKD, with_code: onnx.ModelProto, precision: str
) -> None:
    import openvino

    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16 instructions")
    model = core.read_model(with_code.SerializeToString())
    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    image = photo(128, 128).transpose(2, 0, 1)[None]
    code = compiled(np.ascontiguousarray(image))["code"]
    with torch.inference_mode():
        reference = network(torch.from_numpy(image.copy())).code.numpy()
    scale = np.abs(reference).max()
    assert code.shape == (1, 48, 32, 32)
    assert np.abs(reference).std() > 1e-3 * scale > 0, "a code that is flat would prove nothing"
    assert_close(code / scale, reference / scale, precision)

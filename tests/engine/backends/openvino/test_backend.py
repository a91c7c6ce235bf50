"""OpenVINO against the PyTorch network, and what its sessions promise."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from derain_engine.base.errors import BackendUnavailable, BundleError, InputError
from derain_engine.base.sizes import FrameSizes
from derain_engine.engine.backends.base import Artefact, CompileOptions, RunOptions
from derain_engine.engine.backends.openvino import backend as module
from derain_engine.engine.backends.openvino.backend import OpenVINOSession, backend
from derain_engine.export.onnx import export_onnx
from derain_engine.models.registry import spec_of
from derain_engine.models.spec import ModelSpec
from derain_engine.models.ssid_kd import PRESETS

from ....helpers import strong

XML, BIN = "openvino.xml", "openvino.bin"
# One thread: on a busy machine a second one mostly waits for the first.
ONE = RunOptions(threads=1)

HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16 instructions")


class Tiny(nn.Module):
    """A deraining network's outline, for what does not depend on the network."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.tail = nn.Conv2d(3, 8, 5, 2, 2), nn.Conv2d(8, 3, 3, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        half = F.leaky_relu(self.body(image), 0.2)
        return image - self.tail(F.interpolate(half, image.shape[-2:]))


TINY = ModelSpec("tiny", granularity=2, smallest_side=2)


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="module")
def tiny_artefact(tiny: nn.Module) -> Artefact:
    return backend.compile(tiny, TINY, CompileOptions("fp32"))


def picture(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).random((*shape, 3), dtype=np.float32)


def reference(network: nn.Module, batch: np.ndarray, name: str = "clean") -> np.ndarray:
    """N x H x W x C."""
    with torch.inference_mode():
        result = network(torch.from_numpy(batch).permute(0, 3, 1, 2))
        result = getattr(result, name, result)
    return result.permute(0, 2, 3, 1).numpy()


def assert_close(result: np.ndarray, expected: np.ndarray, precision: str) -> None:
    """Check the numbers that are promised for engines of this precision, on the reference's own range."""
    error = np.abs(result - expected)
    extent = max(1.0, float(np.abs(expected).max()))
    if precision == "fp32":
        assert error.max() <= 1e-5 * extent
    else:
        assert error.max() <= 2e-2 * extent
        assert 10 * np.log10(extent**2 / np.mean(error**2)) >= 50
        assert error.max() > 1e-4, "as exact as fp32: bf16 was not in effect"


@pytest.fixture(scope="module")
def session(artefact: Artefact) -> OpenVINOSession:
    return backend.open(artefact, ONE)


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 64, 96), (2, 96, 32)])
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_equals_the_network(
    network: nn.Module, artefact: Artefact, shape: tuple[int, ...], precision: str
) -> None:
    session = backend.open(replace(artefact, precision=precision), ONE)
    assert session.precision == precision
    batch = picture(*shape)
    expected = reference(network, batch)
    assert np.std(batch - expected) > 0.05, "the network does too little to be a test"
    assert_close(session.run(batch), expected, precision)


def test_bytes_are_the_rounded_floats(session: OpenVINOSession) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3), np.uint8)
    exact = session.run(pixels.astype(np.float32) / 255)
    assert exact.min() < 0 and exact.max() > 1, "nothing to clamp"
    steps = np.abs(session.run(pixels).astype(int) - np.floor(255 * exact.clip(0, 1) + 0.5))
    # Dividing in the graph may differ by one unit in the last place and so end on the other side of a half.
    assert steps.max() <= 1 and np.mean(steps > 0) < 1e-3


@needs_bf16
def test_where_there_is_no_rain_bf16_gives_the_picture_back_unrounded() -> None:
    dry = Tiny()
    nn.init.zeros_(dry.tail.weight)
    nn.init.zeros_(dry.tail.bias)  # type: ignore[arg-type]
    session = backend.open(backend.compile(dry, TINY, CompileOptions("bf16")), ONE)
    assert session.precision == "bf16"
    batch = picture(1, 32, 64)
    np.testing.assert_array_equal(session.run(batch), batch)
    pixels = np.arange(256, dtype=np.uint8).repeat(24).reshape(1, 32, 64, 3)
    np.testing.assert_array_equal(session.run(pixels), pixels)


def test_payloads_repeat_and_name_no_path(tiny: nn.Module, tiny_artefact: Artefact) -> None:
    stages: list[float] = []
    again = backend.compile(tiny, TINY, CompileOptions("fp32"), lambda stage, done: stages.append(done))
    assert again == tiny_artefact
    assert stages == sorted(stages) and stages[-1] == 1
    assert set(again.payloads) == {XML, BIN}
    assert not re.search(rb'="/|\.py\b|derain-engine-', bytes(again.payloads[XML]))


def test_weights_are_stored_once_in_fp32(network: nn.Module, artefact: Artefact) -> None:
    weights = sum(parameter.numel() for parameter in network.parameters())
    assert 4 * weights * 0.95 < len(artefact.payloads[BIN]) < 4 * weights + 4096


def test_an_engine_built_for_one_size_refuses_others(tiny: nn.Module) -> None:
    session = backend.open(
        backend.compile(tiny, TINY, CompileOptions("fp32", FrameSizes.only((32, 64)))), ONE
    )
    batch = picture(2, 32, 64)
    assert_close(session.run(batch), reference(tiny, batch), "fp32")
    with pytest.raises(InputError, match=r"32x64 pixels: it was built for \[\?,3,32,64\]"):
        session.run(picture(1, 64, 32))


def test_refuses_a_size_that_the_network_cannot_take(session: OpenVINOSession) -> None:
    with pytest.raises(InputError, match=r"cannot run on 1 frame\(s\) of 40x32 pixels"):
        session.run(picture(1, 32, 40))
    with pytest.raises(InputError, match="uint8 or float32"):
        session.run(np.zeros((1, 32, 32, 3)))


def test_writes_into_out_and_takes_read_only_frames(session: OpenVINOSession) -> None:
    batch = picture(1, 32, 32)
    expected = session.run(batch)
    batch.flags.writeable = False
    out = np.full_like(batch, np.nan)
    assert session.run(batch, out) is out
    np.testing.assert_array_equal(out, expected)
    # A later frame must not reach into arrays that were handed out before.
    kept = out.copy()
    session.run(1 - batch)
    np.testing.assert_array_equal(out, kept)


def test_compiles_a_size_once_and_keeps_the_latest(
    tiny_artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[int, ...]] = []
    original = OpenVINOSession._compile

    def counting(
        self: OpenVINOSession, model: openvino.Model, dtype: np.dtype, shape: tuple[int, ...]
    ) -> object:
        compiled.append(shape[1:3])
        return original(self, model, dtype, shape)

    monkeypatch.setattr(OpenVINOSession, "_compile", counting)
    monkeypatch.setattr(module, "_KEPT_SIZES", 2)
    session = backend.open(tiny_artefact, ONE)
    a, b, c = picture(1, 32, 32), picture(1, 32, 64), picture(1, 64, 32)
    for batch in (a, b, a, b, c, b):
        session.run(batch)
    assert compiled == [(32, 32), (32, 64), (64, 32)]
    session.run(a)
    assert compiled[3:] == [(32, 32)]


def test_threads_share_a_session(tiny_artefact: Artefact) -> None:
    session = backend.open(tiny_artefact, RunOptions(mode="throughput", threads=4))
    assert session.parallelism == 2
    batches = [picture(1, 32, 32) * (i + 1) / 8 for i in range(8)]
    expected = [session.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for result, alone in zip(pool.map(session.run, batches), expected, strict=True):
            np.testing.assert_array_equal(result, alone)


def test_cache_is_found_again_and_is_private(tiny_artefact: Artefact, tmp_path: Path) -> None:
    options = replace(ONE, cache_dir=tmp_path / "a" / "cache")
    batch = picture(1, 32, 32)
    expected = backend.open(tiny_artefact, options).run(batch)
    blobs = list((tmp_path / "a" / "cache").glob("*.blob"))
    assert len(blobs) == 1
    assert (tmp_path / "a" / "cache").stat().st_mode & 0o777 == 0o700
    np.testing.assert_array_equal(backend.open(tiny_artefact, options).run(batch), expected)
    assert list((tmp_path / "a" / "cache").glob("*.blob")) == blobs


def test_closing(tiny_artefact: Artefact) -> None:
    session = backend.open(tiny_artefact, ONE)
    session.close()
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.run(picture(1, 32, 32))


@pytest.mark.parametrize(
    "damage",
    [
        lambda xml, weights: {XML: xml},
        lambda xml, weights: {BIN: weights},
        lambda xml, weights: {XML: b"", BIN: weights},
        lambda xml, weights: {XML: xml[: len(xml) // 2], BIN: weights},
        lambda xml, weights: {XML: xml, BIN: weights[:-100]},
        lambda xml, weights: {XML: xml, BIN: b""},
        lambda xml, weights: {XML: xml.replace(b'type="Convolution"', b'type="Confusion"', 1), BIN: weights},
        lambda xml, weights: {XML: xml.replace(b'shape="?,3,?,?"', b'shape="?,4,?,?"', 1), BIN: weights},
        lambda xml, weights: {XML: xml.replace(b'element_type="f32"', b'element_type="u8"', 1), BIN: weights},
    ],
    ids=[
        "no bin",
        "no xml",
        "empty",
        "half",
        "short weights",
        "no weights",
        "unknown layer",
        "channels",
        "type",
    ],
)
def test_refuses_damaged_payloads(
    tiny_artefact: Artefact, damage: Callable[[bytes, bytes], dict[str, bytes]]
) -> None:
    payloads = damage(bytes(tiny_artefact.payloads[XML]), bytes(tiny_artefact.payloads[BIN]))
    with pytest.raises(BundleError, match=r"openvino\.(xml|bin)"):
        backend.open(replace(tiny_artefact, payloads=payloads), ONE)
    with pytest.raises(BundleError, match="precision 'int3'"):
        backend.open(replace(tiny_artefact, precision="int3"), ONE)


def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    original = openvino.Core.get_property

    def get_property(self: openvino.Core, device: str, name: str) -> object:
        return ["FP32"] if name == "OPTIMIZATION_CAPABILITIES" else original(self, device, name)

    monkeypatch.setattr(openvino.Core, "get_property", get_property)


def test_a_cpu_without_bf16(
    tiny: nn.Module, tiny_artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_bf16(monkeypatch)
    with pytest.raises(BackendUnavailable, match="no bf16 instructions"):
        backend.compile(tiny, TINY, CompileOptions("bf16"))
    with pytest.raises(InputError, match="no precision 'fp8'; it has bf16, fp32, int8"):
        backend.compile(tiny, TINY, CompileOptions("fp8"))
    assert backend.compile(tiny, TINY, CompileOptions()).precision == "fp32"
    session = backend.open(replace(tiny_artefact, precision="bf16"), ONE)
    assert session.precision == "fp32"
    batch = picture(1, 32, 32)
    assert_close(session.run(batch), reference(tiny, batch), "fp32")


@needs_bf16
def test_without_a_wish_a_cpu_with_bf16_gets_it(tiny: nn.Module) -> None:
    assert backend.compile(tiny, TINY, CompileOptions()).precision == "bf16"


def test_says_what_is_missing(
    tiny: nn.Module, tiny_artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backend.unavailable() is None
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "derain_engine.export.onnx", None)
        with pytest.raises(BackendUnavailable, match=r'pip install "derain-engine\[build\]"'):
            backend.compile(tiny, TINY, CompileOptions("fp32"))
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "pip install openvino" in (backend.unavailable() or "")
    with pytest.raises(BackendUnavailable, match="pip install openvino"):
        backend.open(tiny_artefact, ONE)


def test_opens_and_runs_without_torch_and_onnx(tiny_artefact: Artefact, tmp_path: Path) -> None:
    batch = picture(1, 32, 32)
    (tmp_path / "in.pickle").write_bytes(pickle.dumps((tiny_artefact, batch)))
    code = (
        "import pickle, sys, numpy\n"
        "sys.modules.update(dict.fromkeys(['torch', 'onnx', 'onnxruntime', 'safetensors']))\n"
        "from derain_engine.engine.backends import get\n"
        "from derain_engine.engine.backends.base import RunOptions\n"
        "artefact, batch = pickle.load(open('in.pickle', 'rb'))\n"
        "numpy.save('out.npy', get('openvino').open(artefact, RunOptions(threads=2)).run(batch))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), backend.open(tiny_artefact, ONE).run(batch))


@pytest.mark.slow
def test_inner_map_of_the_shipped_network() -> None:
    """Errors show in the innermost map, where errors have not yet been diluted by the picture they are taken from."""
    spec = spec_of("ssid-kd", PRESETS["sid-lite"])
    network = strong(spec, seed=0)
    core = openvino.Core()
    model = core.read_model(export_onnx(network, spec, outputs=("clean", "code")).SerializeToString())
    batch = picture(1, 64, 96)
    for precision, hint in (("fp32", "f32"), ("bf16", "bf16")):
        if precision == "bf16" and not HAS_BF16:
            continue
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        results = compiled(batch.transpose(0, 3, 1, 2))
        for name in ("clean", "code"):
            assert_close(results[name].transpose(0, 2, 3, 1), reference(network, batch, name), precision)

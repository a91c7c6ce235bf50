"""Quantised engines: what they cost, and what is left alone for it."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from torch import nn

from derain_engine.base.errors import InputError, VerificationError
from derain_engine.engine import verify
from derain_engine.engine.backends.base import Artefact, Calibration, CompileOptions, RunOptions
from derain_engine.engine.backends.openvino import int8 as module
from derain_engine.engine.backends.openvino.backend import backend
from derain_engine.engine.build import build, verify_engine
from derain_engine.engine.examination import Examination, calibration, examining
from derain_engine.models.spec import ModelSpec

pytest.importorskip("nncf", reason="NNCF is not installed (extra int8)")
SPEC = ModelSpec("small", granularity=2, smallest_side=2)


class Small(nn.Module):
    """A residual network whose last map is small beside the others, so that its noise shows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 3, 1, 1), nn.LeakyReLU(0.2)
        )
        self.tail = nn.Conv2d(8, 3, 3, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image - self.tail(self.layers(image))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return Small().eval()


@pytest.fixture(scope="module")
def artefact(network: nn.Module) -> Artefact:
    return backend.compile(network, SPEC, CompileOptions("int8", calibration=calibration(SPEC)))


def test_frames_and_pairs_are_rainy_and_always_the_same() -> None:
    first, again = calibration(SPEC), calibration(SPEC)
    for name in ("frames", "rainy", "clean"):
        batch = getattr(first, name)
        assert batch.dtype == np.float32 and batch.shape[1] == 3 and batch.shape[2:] == (96, 96)
        assert batch.min() >= 0 and batch.max() <= 1
        np.testing.assert_array_equal(batch, getattr(again, name))
    assert len(first.frames) == 24 and len(first.rainy) == len(first.clean) == 6
    assert all(np.abs(r - c).max() > 0.02 for r, c in zip(first.rainy, first.clean, strict=True))


def test_an_engine_computes_in_int8_and_stays_near_fp32(network: nn.Module, artefact: Artefact) -> None:
    frames = calibration(SPEC).frames[:2]
    batch = np.ascontiguousarray(frames.transpose(0, 2, 3, 1))
    with torch.inference_mode():
        expected = network(torch.from_numpy(frames)).numpy().transpose(0, 2, 3, 1)
    session = backend.open(artefact, RunOptions(threads=1))
    try:
        assert session.precision == "int8"
        error = np.abs(session.run(batch) - expected)
        assert -10 * np.log10(np.mean(error**2)) > 35 and error.max() > 1e-3
        pixels = session.run((batch * 255).astype(np.uint8))
        assert pixels.dtype == np.uint8
    finally:
        session.close()
    model = openvino.Core().read_model(
        bytes(artefact.payloads["openvino.xml"]),
        openvino.Tensor(np.frombuffer(artefact.payloads["openvino.bin"], np.uint8)),
    )
    assert any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())


def test_the_same_network_gives_the_same_bytes(network: nn.Module, artefact: Artefact) -> None:
    again = backend.compile(network, SPEC, CompileOptions("int8", calibration=calibration(SPEC)))
    assert {k: bytes(v) for k, v in again.payloads.items()} == {
        k: bytes(v) for k, v in artefact.payloads.items()
    }
    assert again.notes == artefact.notes


def test_it_needs_something_to_calibrate_on(network: nn.Module) -> None:
    with pytest.raises(InputError, match="calibrate"):
        backend.compile(network, SPEC, CompileOptions("int8"))


def test_nothing_is_told_to_the_makers_of_nncf() -> None:
    code = (
        "from derain_engine.engine.backends.openvino.int8 import require_nncf; require_nncf();"
        "from nncf.telemetry.wrapper import telemetry; print(type(telemetry).__name__)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout.strip() == "MagicMock"


class Pretended:
    """A search over numbered quantisers of which some cost a part of the allowance each."""

    def __init__(self, harm: dict[int, float], count: int = 160) -> None:
        self.names = [str(i) for i in range(count)]
        self.harm, self.tried = harm, 0

    def margin(self, dropped: Collection[str]) -> float:
        self.tried += 1
        return 1 - sum(harm for i, harm in self.harm.items() if str(i) not in dropped)


@pytest.mark.parametrize("harmful", [[3], [0, 159], [70, 71, 72], [5, 60, 120]])
def test_what_harms_is_left_out_and_little_else(harmful: Sequence[int]) -> None:
    search = Pretended(dict.fromkeys(harmful, 0.9))
    dropped = module._harmful(search, lambda *_: None)  # type: ignore[arg-type]
    assert {str(i) for i in harmful} <= set(dropped)
    # Eighths of sixteenths of 160 are two each.
    assert len(dropped) <= 2 * len(harmful) + 1 and search.tried <= module._MOST_TRIED
    assert search.margin(dropped) >= module._SPARE


def test_where_all_harms_little_can_be_kept() -> None:
    search = Pretended(dict.fromkeys(range(160), 0.01))
    dropped = module._harmful(search, lambda *_: None)  # type: ignore[arg-type]
    assert 80 < len(dropped) < 120 and search.tried <= module._MOST_TRIED


def test_an_output_that_is_not_finite_has_no_margin(network: nn.Module) -> None:
    pairs = calibration(SPEC)
    little = Calibration(pairs.frames[:1], pairs.rainy[:1], pairs.clean[:1])
    model = openvino.Core().read_model(bytes(_plain(network)["openvino.xml"]), _weights(network))
    search = module._QuantiserSearch(
        model, little, pairs.rainy[:1], lambda *_: np.full((1, 3, 96, 96), np.nan)
    )
    assert search.margin(()) == -math.inf


def _plain(network: nn.Module) -> dict[str, bytes]:
    return {k: bytes(v) for k, v in backend.compile(network, SPEC, CompileOptions("fp32")).payloads.items()}


def _weights(network: nn.Module) -> openvino.Tensor:
    return openvino.Tensor(np.frombuffer(_plain(network)["openvino.bin"], np.uint8))


@pytest.mark.slow
def test_shipped_weights_lose_a_little_that_has_to_be_accepted(tmp_path: Path) -> None:
    """Above the allowance on one picture, so that a build without ``accept`` is refused."""
    with examining(Examination()):
        report = build("sid-lite", tmp_path / "lite.derain", precision="int8", accept=("quality",))
    cost = report.verification.cost
    assert cost is not None and cost.derains and cost.ssim_loss <= 1e-3 and cost.mean_psnr_loss <= 0.1
    assert report.manifest.verification["psnr_loss_db"] <= 0.25
    with examining(Examination()):
        again = verify_engine(tmp_path / "lite.derain")
    assert again.cost is not None and again.missed() == report.verification.missed() != []


def test_a_loss_stops_the_build_unless_it_is_accepted() -> None:
    lost = verify.quality.Quality(20.0, 30.0, 0.9, 29.0, 0.9, 40.0)
    one = verify.Comparison("one", psnr=40.0, max_abs=0.3, largest=1.0, uint8_levels=60, quality=lost)
    found = verify.Report("int8", (one,))
    assert found.missed() == [
        "quality: 1.00 dB and 0.0000 SSIM lost against the truth, at most 0.1 and 0.001"
    ]
    with pytest.raises(VerificationError, match=r"1\.00 dB"):
        verify.check(found, "net")
    verify.check(found, "net", accept=("quality",))
    assert found.to_json()["psnr_loss_db"] == 1.0

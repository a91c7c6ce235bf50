"""The precision of a build that names none: the machine's fastest, or fp32 where that is not close enough."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from derain_engine.base.errors import VerificationError
from derain_engine.engine import build, verify
from derain_engine.engine.backends.openvino.backend import OpenVINOBackend
from derain_engine.models.checkpoint import save_checkpoint
from derain_engine.models.registry import create, spec_of


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "prn.safetensors"
    save_checkpoint(path, create(spec_of("prn", {"stages": 1})).eval(), "prn", metadata={})
    return path


@pytest.fixture
def bf16_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend a CPU with bf16 whose engines come 10 dB too short; they are really computed in fp32."""
    plain, run = OpenVINOBackend.compile, verify.verify

    def compile(self, network, spec, options, progress=lambda *_: None):
        artefact = plain(self, network, spec, dataclasses.replace(options, precision="fp32"), progress)
        return dataclasses.replace(artefact, precision=options.precision or "bf16")

    def worse(*args, **kwargs):
        report = run(*args, **kwargs)
        if report.precision == "fp32":
            return report
        return dataclasses.replace(
            report, comparisons=tuple(dataclasses.replace(each, psnr=40.0) for each in report.comparisons)
        )

    monkeypatch.setattr(OpenVINOBackend, "compile", compile)
    monkeypatch.setattr(build.verify, "verify", worse)


@pytest.mark.usefixtures("bf16_misses")
def test_falls_back_to_fp32_and_says_why(model: Path, tmp_path: Path) -> None:
    report = build.build(model, tmp_path / "prn.derain")
    assert report.manifest.precision == report.verification.precision == "fp32"
    assert report.passed_over is not None and "psnr: 40.0 dB, at least 50" in report.passed_over
    assert report.verification.missed() == []


@pytest.mark.usefixtures("bf16_misses")
def test_a_precision_that_was_asked_for_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"psnr: 40\.0 dB"):
        build.build(model, tmp_path / "prn.derain", precision="bf16")
    accepted = build.build(model, tmp_path / "prn.derain", accept=["psnr"])
    assert (accepted.manifest.precision, accepted.passed_over) == ("bf16", None)


@pytest.mark.usefixtures("bf16_misses")
def test_both_are_told_where_fp32_misses_too(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "FP32_MAX_ABS", -1.0)
    with pytest.raises(
        VerificationError, match=r"in bf16 .* psnr: 40\.0 dB.* in fp32 .* max-abs: .* Accept a check"
    ):
        build.build(model, tmp_path / "prn.derain")
    assert not (tmp_path / "prn.derain").exists()

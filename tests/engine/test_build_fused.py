"""Building engines of the fused backend where there is no GPU: compared on the CPU, and told so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import derain_engine
from derain_engine.base.errors import (
    BackendUnavailable,
    BuildError,
    BundleError,
    InputError,
    VerificationError,
)
from derain_engine.device import driver
from derain_engine.engine import build as builder
from derain_engine.engine.bundle import open_bundle, write_bundle
from derain_engine.models.checkpoint import save_checkpoint
from derain_engine.models.ssid_kd import SSIDKDConfig

from ..helpers import strong

SHAPE = (32, 32)


@pytest.fixture(scope="module", autouse=True)
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Hide the GPU, and keep a record of trust that is not the user's, whose folder this is."""
    data = tmp_path_factory.mktemp("data")

    def initialise() -> None:
        raise BackendUnavailable("No GPU is at hand.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(data))
        patch.setattr(driver, "initialise", initialise)
        yield data / "derain-engine" / "trusted"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_checkpoint(path, strong(SSIDKDConfig((16, 16, 16), (1, 1, 1))), "ssid-kd", metadata={})
    return path


@pytest.fixture(scope="module")
def built(model: Path, tmp_path_factory: pytest.TempPathFactory) -> builder.BuildReport:
    return build(model, tmp_path_factory.mktemp("built") / "a.derain")


def build(model: Path, output: Path, **options: object) -> builder.BuildReport:
    return builder.build(model, output, backend="fused", shape=SHAPE, **options)  # type: ignore[arg-type]


def test_without_a_gpu_the_launches_are_compared_on_the_cpu(
    model: Path, built: builder.BuildReport, tmp_path: Path
) -> None:
    manifest = built.manifest
    assert (manifest.backend, manifest.precision, manifest.gpus) == ("fused", "fp16", ())
    assert manifest.verification["emulated"] is True and built.verification.emulated
    assert manifest.verification["psnr_db"] > 50 and 0 < manifest.verification["max_abs"] < 2e-2
    assert built.warm_ms is None and built.timed_size == SHAPE
    # What the arena takes, not the figure that PyTorch's maps would.
    assert 100 < manifest.bytes_per_pixel < 1000
    assert manifest.payloads.keys() == {"fused/plan.json", "fused/weights.bin"}

    again = build(model, tmp_path / "b.derain", precision="fp16")
    assert again.path.read_bytes() == built.path.read_bytes()

    report = builder.verify_engine(built.path, model)
    assert report.emulated and report == built.verification
    with pytest.raises(BackendUnavailable, match="No GPU is at hand"):
        derain_engine.load(built.path)


@pytest.mark.parametrize(("precision", "least"), [("bf16", 50), ("fp32", 120)])
def test_other_precisions(model: Path, tmp_path: Path, precision: str, least: float) -> None:
    manifest = build(model, tmp_path / "a.derain", precision=precision).manifest
    assert manifest.precision == precision and manifest.verification["psnr_db"] > least


def test_a_plan_that_computes_something_else_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from derain_engine.engine.backends.fused import emulation

    run = emulation.FusedEmulation.run
    monkeypatch.setattr(emulation.FusedEmulation, "run", lambda *of: run(*of)[:, ::-1].copy())
    with pytest.raises(VerificationError, match="psnr"):
        build(model, tmp_path / "a.derain")
    assert not (tmp_path / "a.derain").exists()


def test_what_cannot_be_built_is_refused(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.derain"
    for gpu, message in (
        ("current", "no GPU that could be meant by current"),
        ("sm_12", "'sm_12' is not a GPU"),
        ("", "'' is not a GPU"),
    ):
        with pytest.raises(InputError, match=message):
            build(model, output, gpu=gpu)
    with pytest.raises(InputError, match="no precision 'int8'; it has fp16, bf16, fp32"):
        build(model, output, precision="int8")
    for backend in ("openvino", "reference"):
        with pytest.raises(InputError, match=f"The {backend} backend runs on CPUs; leave --gpu out"):
            builder.build(model, output, backend=backend, gpu="sm_90")
    with pytest.raises(BuildError, match=r"pyramid='maxpool'.*build with another backend"):
        build(model, output, network_options={"pyramid": "maxpool"})
    assert not output.exists()


def test_only_what_is_trusted_is_compared(model: Path, built: builder.BuildReport, record: Path) -> None:
    with open_bundle(built.path) as bundle:
        own = record / bundle.sha256()
    own.unlink()
    with pytest.raises(BundleError, match=f"--trust {own.name}"):
        builder.verify_engine(built.path, model)
    assert builder.verify_engine(built.path, model, trust=own.name).missed() == []
    own.touch()


def test_launches_that_do_not_fit_their_buffers_are_told(
    model: Path, built: builder.BuildReport, tmp_path: Path
) -> None:
    """Faults that no check of the numbers finds end in a DerainError all the same."""
    with open_bundle(built.path) as bundle:
        payloads = {name: bytes(bundle.read(name)) for name in bundle.names}
    changes = [
        lambda plan: plan["calls"][0]["constants"].update(C=4096),
        lambda plan: plan["calls"][1]["constants"].update(SLABS=9),
        lambda plan: plan["steps"][0].update(sizes=["h0", "w0", 4000, 4000]),
        lambda plan: [each.update(level=5) for each in plan["buffers"][1:-1]],
    ]
    for change in changes:
        plan = json.loads(payloads["fused/plan.json"])
        change(plan)
        other = tmp_path / "other.derain"
        write_bundle(other, built.manifest, {**payloads, "fused/plan.json": json.dumps(plan).encode()})
        with open_bundle(other) as bundle:
            named = bundle.sha256()
        with pytest.raises(BundleError, match="plan"):
            builder.verify_engine(other, model, trust=named)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import derain_engine
from derain_engine.base.errors import (
    BackendUnavailable,
    CheckpointError,
    DerainError,
    InputError,
    VerificationError,
)
from derain_engine.engine import build, bundle, verify
from derain_engine.engine.options import CHECKS
from derain_engine.models.checkpoint import save_checkpoint
from derain_engine.models.ssid_kd import SSIDKD, SSIDKDConfig

from ..helpers import strong
from ..models.checkpoints import save_as_published


def small_network(seed: int = 0, gain: float = 1.6) -> SSIDKD:
    return strong(SSIDKDConfig((4, 4, 4), (2, 1, 1), blocks="mffb"), seed, gain)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_checkpoint(path, small_network(), "ssid-kd", metadata={})
    return path


@pytest.fixture(scope="module")
def built(model: Path, tmp_path_factory: pytest.TempPathFactory) -> build.BuildReport:
    return derain_engine.build(model, tmp_path_factory.mktemp("built") / "small.derain", precision="fp32")


def test_the_engine_file_says_what_it_is(built: build.BuildReport, model: Path) -> None:
    with bundle.open_bundle(built.path) as opened:
        manifest = opened.manifest
    assert manifest == built.manifest
    assert (manifest.architecture, manifest.backend, manifest.precision) == ("ssid-kd", "openvino", "fp32")
    assert manifest.config["units"] == [2, 1, 1]
    assert (manifest.granularity, manifest.smallest_side, manifest.source) == (32, 32, "small")
    assert manifest.verification["max_abs"] <= verify.FP32_MAX_ABS
    assert built.parameters == sum(p.numel() for p in small_network().parameters())
    assert built.size == built.path.stat().st_size and (built.warm_ms or 0) > 0


def test_a_second_build_is_byte_equal(built: build.BuildReport, model: Path, tmp_path: Path) -> None:
    again = derain_engine.build(model, tmp_path / "again.derain", precision="fp32")
    assert again.path.read_bytes() == built.path.read_bytes()


def test_progress_names_every_stage(model: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    derain_engine.build(
        model,
        tmp_path / "e.derain",
        backend="reference",
        progress=lambda stage, done: told.append((stage, done)),
    )
    stages = " ".join(stage for stage, _ in told)
    for word in ("Loading", "Comparing", "Timing", "Writing"):
        assert word in stages
    assert all(0 <= done <= 1 for _, done in told)


def test_the_built_engine_runs_the_network_in_rgb(tmp_path: Path) -> None:
    network = small_network(3)
    save_as_published(tmp_path / "net_latest", network)
    report = derain_engine.build(tmp_path / "net_latest", tmp_path / "e.derain", backend="reference")
    image = np.random.default_rng(0).random((64, 96, 3), dtype=np.float32)
    with derain_engine.load(report.path) as engine:
        clean = engine(image)
    reference = verify.reference_output(network, image[None])[0]
    assert np.abs(clean - reference).max() <= 1e-5
    assert np.abs(reference - reference[..., ::-1]).max() > 1e-2, "colours in the wrong order would go unseen"


def test_a_miss_writes_nothing_and_keeps_what_was_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "e.derain"
    target.write_bytes(b"an older engine")
    monkeypatch.setattr(verify, "FP32_MAX_ABS", -1.0)
    with pytest.raises(VerificationError, match=r"small in fp32 .* max-abs"):
        derain_engine.build(model, target, backend="reference")
    assert target.read_bytes() == b"an older engine"
    assert [p.name for p in tmp_path.iterdir()] == ["e.derain"]
    derain_engine.build(model, target, backend="reference", accept=["max-abs"])
    assert target.read_bytes() != b"an older engine"


def test_a_network_that_overflows_is_refused(tmp_path: Path) -> None:
    network = small_network(gain=1e8)
    save_checkpoint(tmp_path / "hot.safetensors", network, "ssid-kd", metadata={})
    with pytest.raises(VerificationError, match="NaN or infinite"):
        derain_engine.build(
            tmp_path / "hot.safetensors",
            tmp_path / "e.derain",
            backend="reference",
            accept=list(CHECKS),
        )
    assert not (tmp_path / "e.derain").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"backend": "abacus"}, InputError, "openvino"),
        ({"precision": "fp7"}, InputError, "fp7"),
        ({"accept": ["everything"]}, InputError, "max-abs"),
    ],
)
def test_arguments_that_do_not_exist(
    model: Path, tmp_path: Path, arguments: dict, error: type[DerainError], words: str
) -> None:
    with pytest.raises(error, match=words):
        derain_engine.build(model, tmp_path / "e.derain", **arguments)
    assert not list(tmp_path.iterdir())


def test_options_are_an_object_or_single_fields(model: Path, tmp_path: Path) -> None:
    options = derain_engine.BuildOptions(backend="reference", accept=("psnr",))
    one = derain_engine.build(model, tmp_path / "a.derain", options)
    two = derain_engine.build(model, tmp_path / "b.derain", backend="reference")
    assert one.path.read_bytes() == two.path.read_bytes() and one.manifest.backend == "reference"
    other = derain_engine.build(model, tmp_path / "b.derain", options, colour_order="bgr")
    assert other.manifest.weights_sha256 != one.manifest.weights_sha256
    with pytest.raises(TypeError, match="'presicion'"):
        derain_engine.build(model, tmp_path / "c.derain", presicion="fp32")
    assert not (tmp_path / "c.derain").exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"gpu": "sm_90"}, "openvino backend runs on CPUs; leave --gpu out"),
        ({"workspace": 2**30}, "openvino backend does not take --workspace"),
        ({"plugins": True}, "openvino backend does not take --plugins"),
        ({"backend": "fused", "precision": "int8"}, "no precision 'int8'; it has fp16, bf16, fp32"),
        ({"backend": "tensorrt", "hardware_compatibility": "all"}, "no hardware compatibility 'all'"),
        ({"shape": (0, 64)}, "1 to 16384 pixels, not 0x64"),
    ],
)
def test_options_are_refused_where_they_are_made(fields: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        derain_engine.BuildOptions(**fields)


def test_models_that_do_not_exist_or_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no-such-model is neither a file nor the name of shipped weights"):
        derain_engine.build("no-such-model", tmp_path / "e.derain")
    (tmp_path / "notes.txt").write_text("not a model\n")
    with pytest.raises(CheckpointError, match=r"notes\.txt"):
        derain_engine.build(tmp_path / "notes.txt", tmp_path / "e.derain")


def test_outputs_that_cannot_be(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    with pytest.raises(InputError, match="model itself"):
        derain_engine.build(model, model)
    with pytest.raises(InputError, match="is a folder"):
        derain_engine.build(model, tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        derain_engine.build(model, tmp_path / "nowhere" / "e.derain")
    assert model.read_bytes() == before


def test_verify_engine_knows_the_weights(built: build.BuildReport, model: Path, tmp_path: Path) -> None:
    report = build.verify_engine(built.path, model)
    assert report.missed() == []
    save_checkpoint(tmp_path / "other.safetensors", small_network(1), "ssid-kd", metadata={})
    with pytest.raises(VerificationError, match="other weights"):
        build.verify_engine(built.path, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="give that model"):
        build.verify_engine(built.path)


def test_verify_engine_finds_the_colour_order_again(tmp_path: Path) -> None:
    save_as_published(tmp_path / "net_latest", small_network(5))
    path = tmp_path / "e.derain"
    derain_engine.build(tmp_path / "net_latest", path, colour_order="rgb", backend="reference")
    assert build.verify_engine(path, tmp_path / "net_latest").missed() == []


def test_a_backend_that_is_missing_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from derain_engine.engine.backends.openvino import backend

    monkeypatch.setattr(type(backend.backend), "unavailable", lambda self: "no OpenVINO here; install it")
    with pytest.raises(BackendUnavailable, match="install it"):
        derain_engine.build(model, tmp_path / "e.derain")

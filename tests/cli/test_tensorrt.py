"""Engines of TensorRT-RTX from the command line, built here without a GPU: shown, compared, repaired, refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from derain_engine.device import driver
from derain_engine.engine.bundle import open_bundle
from derain_engine.engine.examination import Examination, examining
from derain_engine.export import onnx as export
from derain_engine.models import weights
from derain_engine.models.checkpoint import load_checkpoint, save_checkpoint
from derain_engine.models.registry import create, spec_of
from derain_engine.models.ssid_kd import PRESETS, SSIDKDConfig

from ..helpers import strong
from .conftest import save_model

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

Cli = Callable[..., Any]
RTX = ("--backend", "tensorrt-rtx")
RANGE = ("--min", "32x64", "--opt", "64x64", "--opt", "60x128", "--max", "100x128")
#: Two convolutions after one another with nothing but an activation between them.
FIRST, SECOND = (f"encoder_decoder_4.enLayer_4.units.0.unit.0.scale8.{i}.0" for i in (0, 1))


@pytest.fixture(scope="module", autouse=True)
def little(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Export every network once, and keep a record of trust that is not the user's."""
    if driver.unavailable() is None:
        pytest.skip("this machine has a GPU")
    export_onnx, known = export.export_onnx, dict[str, Any]()

    def export_once(network: Any, spec: Any, **more: Any) -> Any:
        key = "".join(str(float(each.double().sum())) for each in network.parameters())
        if key not in known:
            known[key] = export_onnx(network, spec, **more)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        patch.setattr(export, "export_onnx", export_once)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "small.safetensors", 0)


def overflowing(path: Path) -> Path:
    """Save the same function in fp32, with values of 10^7 within."""
    torch.manual_seed(0)
    network = create(spec_of("ssid-kd", SSIDKDConfig((4, 4, 4), (1, 1, 1), blocks="pffb")))
    state = network.state_dict()
    state[f"{FIRST}.weight"].mul_(3e7)
    state[f"{FIRST}.bias"].mul_(3e7)
    state[f"{SECOND}.weight"].div_(3e7)
    save_checkpoint(path, network, "ssid-kd", metadata={})
    return path


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return overflowing(tmp_path_factory.mktemp("broken") / "broken.safetensors")


@pytest.fixture
def rainy(tmp_path: Path) -> Path:
    path = tmp_path / "rainy.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (33, 50, 3), np.uint8)).save(path)
    return path


def lines(text: str) -> dict[str, str]:
    """Return the second column of a table by the first one."""
    rows = (line.partition("  ") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in rows}


@pytest.mark.slow
def test_an_engine_for_all_gpus_and_a_range_of_sizes(
    cli: Cli, model: Path, rainy: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a.derain"
    done = cli("build", model, "-o", file, *RTX, *RANGE)
    assert (done.code, done.err) == (0, "")
    card = lines(done.out)
    assert card["Precision"] == "fp16" and card["Compiled for"] == "sm_75, sm_80, sm_86, sm_89, sm_120"
    assert card["Frames"] == "32x64 to 128x128, fastest at 64x64, 64x128; larger ones are refused"
    assert (
        card["Layers that multiply"].endswith(" in fp16")
        and "1 of 168 nodes: node_sub" in card["Kept in fp32"]
    )
    assert card["Compared"] == "on the CPU, without the engine's GPU code" and "Repaired" not in card
    assert float(card["PSNR to fp32 reference"].split()[0]) > 50
    again = tmp_path / "b.derain"
    assert cli("build", model, "-o", again, *RTX, *RANGE, "--gpu", "all").code == 0
    assert again.read_bytes() == file.read_bytes()

    shown = json.loads(cli("inspect", file, "--json").out)
    assert shown["precision"] == "fp16" and len(shown["gpus"]) == 5
    assert shown["input"]["sizes"] == {"least": [32, 64], "most": [128, 128], "usual": [[64, 64], [64, 128]]}
    assert shown["verification"]["multiplying_layers"].keys() == {"fp16"}
    assert "NVIDIA driver" in shown["unavailable_here"]

    done = cli("verify", file, model)
    assert done.code == 0 and "on the CPU, without the engine's GPU code" in done.out
    done = cli("run", rainy, "-o", tmp_path / "clean.png", "-e", file)
    assert done.code == 3 and done.err.count("\n") == 1 and "NVIDIA driver" in done.err
    assert not (tmp_path / "clean.png").exists()


def test_an_engine_for_one_gpu_and_one_size(cli: Cli, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.derain"
    done = cli("build", model, "-o", file, *RTX, "--gpu", "sm_89", "--shape", "60x90", "--precision", "fp32")
    card = lines(done.out)
    assert done.code == 0 and card["Compiled for"] == "sm_89" and card["Precision"] == "fp32"
    assert card["Frames"] == "64x96 alone; larger ones are refused"
    assert card["Layers that multiply"].endswith(" in fp32") and "Kept in fp32" not in card
    with open_bundle(file) as bundle:
        sizes = bundle.manifest.sizes
        assert sizes is not None and sizes.fixed and bundle.manifest.input["size"] == [64, 96]


@pytest.mark.slow
def test_overflow_stops_the_build_or_is_repaired(cli: Cli, broken: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.derain"
    small = ("--gpu", "sm_89", "--shape", "32x64")
    done = cli("build", broken, "-o", file, *RTX, *small, "--repair", "off", "--precision", "fp16")
    assert done.code == 4 and "NaN or infinite" in done.err and not file.exists()
    done = cli("build", broken, "-o", file, *RTX, *small)
    assert (done.code, done.err) == (0, "")
    card = lines(done.out)
    assert "would give NaN or infinity in fp16" in card["Repaired"]
    assert int(card["Kept in fp32"].split()[0]) < 8
    assert "in fp16" in card["Layers that multiply"] and "in fp32" in card["Layers that multiply"]
    facts = json.loads(cli("inspect", file, "--json").out)["verification"]
    assert facts["repair"]["psnr_db_before"] is None and facts["psnr_db"] > 50
    assert set(facts["repair"]["nodes"]) < set(facts["kept_in_fp32"])


@pytest.mark.slow
def test_what_the_crops_do_not_show_is_found_in_the_pictures(
    cli: Cli, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crops that are black overflow nowhere; the comparison does, and then the search is repeated on its pictures."""
    from derain_engine.export import repair

    find, seen = repair.find_fragile, []

    def find_fragile(model: Any, batch: np.ndarray, *more: Any) -> Any:
        seen.append(batch.shape)
        if len(seen) == 1:
            return repair.FragileNodes((), 80.0, 80.0, 1)
        return find(model, batch, *more)

    monkeypatch.setattr(repair, "find_fragile", find_fragile)
    done = cli("build", broken, "-o", tmp_path / "a.derain", *RTX, "--gpu", "sm_89", "--shape", "32x64")
    assert done.code == 0 and "Repaired" in done.out
    assert seen == [(1, 3, 32, 32), (1, 3, 32, 64)]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ["--backend", "openvino", "--opt", "64x64"],
            2,
            "openvino backend does not take --min, --opt and --max",
        ),
        (["--backend", "fused", "--min", "64x64"], 2, "fused backend does not take --min, --opt and --max"),
        (["--workspace", "5"], 2, "openvino backend does not take --workspace"),
        ([*RTX, "--version-compatible"], 2, "tensorrt-rtx backend does not take --version-compatible"),
        ([*RTX, "--hardware-compatibility", "ampere_plus"], 2, "does not take --hardware-compatibility"),
        (
            [*RTX, "--gpu", "sm_90"],
            2,
            "'sm_90' is not a GPU that can be built for; give all, or some of sm_75",
        ),
        ([*RTX, "--gpu", "current"], 2, "no GPU that could be meant by current"),
        (
            [*RTX, "--shape", "64x64", "--max", "64x64"],
            2,
            "An engine of one --shape has no --min, --opt or --max",
        ),
        ([*RTX, "--min", "128x128", "--max", "64x64"], 2, "from 128x128 over 128x128 to 64x64 are no range"),
        ([*RTX, "--opt", "64"], 2, "not HxW"),
        ([*RTX, "--precision", "bf16"], 2, "no precision 'bf16'; it has fp16, fp32"),
        (
            [*RTX, "--workspace", "1", "--max", "4096x4096"],
            1,
            "Raise --workspace, or lower the largest frames",
        ),
        (["--backend", "tensorrt"], 3, "TensorRT is not installed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_cannot_be(
    cli: Cli, model: Path, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    done = cli("build", model, "-o", tmp_path / "a.derain", *arguments)
    assert done.code == code and words in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "a.derain").exists()


@pytest.fixture(scope="module")
def sid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sid") / "sid.safetensors"
    save_checkpoint(path, strong(PRESETS["sid"]), "ssid-kd", metadata={})
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sid-lite", "sid"])
def test_the_networks_in_fp16(cli: Cli, name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Static and dynamic, for all GPUs; over 50 dB on rainy pictures."""
    trained = "sid-lite" if name == "sid-lite" else request.getfixturevalue("sid")
    for arguments in (["--shape", "512x512"], []):
        file = tmp_path / "a.derain"
        with examining(Examination((64, 256))):
            done = cli("build", trained, "-o", file, *RTX, *arguments)
        assert (done.code, done.err) == (0, "")
        facts = json.loads(cli("inspect", file, "--json").out)
        assert facts["verification"]["psnr_db"] > 50 and len(facts["gpus"]) == 5
        assert facts["verification"]["multiplying_layers"].keys() == {"fp16"}
        assert facts["input"]["size"] == ([512, 512] if arguments else None)


@pytest.mark.slow
def test_shipped_weights_made_to_overflow_are_mended(cli: Cli, tmp_path: Path) -> None:
    shipped = weights.shipped("sid-lite")
    assert shipped is not None
    network = load_checkpoint(shipped).network
    state = network.state_dict()
    state[f"{FIRST}.weight"].mul_(3e7)
    state[f"{FIRST}.bias"].mul_(3e7)
    state[f"{SECOND}.weight"].div_(3e7)
    broken = tmp_path / "broken.safetensors"
    save_checkpoint(broken, network, "ssid-kd", metadata={})
    file = tmp_path / "a.derain"
    assert (
        cli(
            "build", broken, "-o", file, *RTX, "--shape", "64x64", "--repair", "off", "--precision", "fp16"
        ).code
        == 4
    )
    done = cli("build", broken, "-o", file, *RTX, "--shape", "64x64")
    assert done.code == 0
    facts = json.loads(cli("inspect", file, "--json").out)["verification"]
    assert facts["nodes"] == 654 and len(facts["repair"]["nodes"]) <= 4 and facts["psnr_db"] > 50

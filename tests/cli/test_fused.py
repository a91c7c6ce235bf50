"""Engines for GPUs from the command line: built, shown, trusted, and run where there is a GPU (or a stand-in)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from derain_engine.device import driver
from derain_engine.engine.backends.fused import kernels
from derain_engine.engine.backends.fused.emulation import FusedEmulation
from derain_engine.engine.build import build
from derain_engine.engine.bundle import open_bundle
from derain_engine.models.checkpoint import save_checkpoint
from derain_engine.models.ssid_kd import SSIDKDConfig
from derain_engine.plan import lower

from ..device.conftest import StandIn, cubin, cuda
from ..engine.backends.fused_stand_in import StandInCompiler
from ..helpers import pad_frame
from ..plan.networks import strong

__all__ = ["cubin", "cuda"]

Cli = Callable[..., Any]
CONFIG = SSIDKDConfig((16, 16, 16), (1, 1, 1))


@pytest.fixture(scope="module", autouse=True)
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Set one picture to compare, and a record of trust that is not the user's, whose folder this is."""
    data = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(data))
        yield data / "derain-engine" / "trusted"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "wide.safetensors"
    save_checkpoint(path, strong(CONFIG), "ssid-kd", metadata={})
    return path


@pytest.fixture(scope="module")
def fused_file(wide: Path) -> Path:
    """Return an engine without compiled kernels, built here."""
    path = wide.with_name("fused.derain")
    if driver.unavailable() is None:
        pytest.skip("this machine has a GPU")
    build(wide, path, backend="fused", shape=(32, 32))
    return path


@pytest.fixture
def hers(fused_file: Path, record: Path) -> Iterator[str]:
    """Return the engine as somebody else built it: its SHA-256, which is in no record."""
    named = hashlib.sha256(fused_file.read_bytes()).hexdigest()
    (record / named).unlink()
    yield named
    (record / named).touch()


@pytest.fixture
def rainy(tmp_path: Path) -> Path:
    path = tmp_path / "rainy.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (33, 50, 3), np.uint8)).save(path)
    return path


def test_the_report_card_says_what_was_not_done(
    cli: Cli, wide: Path, fused_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a.derain"
    done = cli("build", wide, "-o", file, "--backend", "fused", "--shape", "32x32")
    assert (done.code, done.err) == (0, "")
    for words in (
        "no GPU yet; where it is opened Triton compiles it, or build with --gpu",
        "on the CPU, without the engine's GPU code",
        "not timed: this machine cannot run the engine",
        "fp16",
    ):
        assert words in done.out
    assert file.read_bytes() == fused_file.read_bytes()
    done = cli("verify", file, wide)
    assert done.code == 0 and "on the CPU, without the engine's GPU code" in done.out


def test_an_engine_for_cpus_says_nothing_of_gpus(cli: Cli, model: Path, tmp_path: Path) -> None:
    done = cli("build", model, "-o", tmp_path / "a.derain", "--backend", "reference", "--shape", "32x32")
    assert done.code == 0 and "Compiled for" not in done.out and "Compared" not in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "reference", "--gpu", "sm_90"], "reference backend runs on CPUs; leave --gpu out"),
        (["--gpu", "all"], "openvino backend runs on CPUs"),
        (["--backend", "fused", "--gpu", "sm_12"], "'sm_12' is not a GPU that can be built for"),
        (["--backend", "fused", "--precision", "int8"], "no precision 'int8'; it has fp16, bf16, fp32"),
    ],
)
def test_options_that_cannot_be_are_refused(
    cli: Cli, wide: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = cli("build", wide, "-o", tmp_path / "a.derain", *arguments)
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "a.derain").exists()


def test_a_network_that_the_kernels_do_not_know_ends_with_1(cli: Cli, wide: Path, tmp_path: Path) -> None:
    arguments = ("--backend", "fused", "--option", "pyramid=maxpool")
    done = cli("build", wide, "-o", tmp_path / "a.derain", *arguments)
    assert done.code == 1 and "build with another backend" in done.err and done.err.count("\n") == 1


def test_without_a_gpu_it_does_not_run(cli: Cli, fused_file: Path, rainy: Path, tmp_path: Path) -> None:
    done = cli("run", rainy, "-o", tmp_path / "clean.png", "-e", fused_file)
    assert done.code == 3 and done.err.count("\n") == 1 and "driver" in done.err
    assert not (tmp_path / "clean.png").exists()


def test_an_engine_of_somebody_else_has_to_be_named(
    cli: Cli, wide: Path, fused_file: Path, hers: str, rainy: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "rainy"
    folder.mkdir()
    rainy.rename(folder / "a.png")
    verbs = [
        ("run", folder / "a.png", "-o", tmp_path / "clean.png", "-e", fused_file),
        ("verify", fused_file, wide),
        ("eval", fused_file, "--rainy", folder, "--clean", folder),
        ("bench", "engine", fused_file, "--model", wide, "--size", "32x32", "--runs", "1"),
    ]
    for verb in verbs:
        done = cli(*verb)
        assert done.code == 2 and done.err.endswith(f"--trust {hers}\n") and done.err.count("\n") == 1, verb
        done = cli(*verb, "--trust", "0" * 64, "--trust", hers)
        # There is no GPU, and only the comparison goes without.
        assert done.code == (0 if verb[0] == "verify" else 3), (verb, done.err)
    for wrong, words in (("0" * 64, hers), ("sha256", "is not a SHA-256")):
        done = cli(*verbs[0], "--trust", wrong)
        assert done.code == 2 and words in done.err
    # Looking at it runs nothing.
    assert cli("inspect", fused_file).code == 0
    assert cli("inspect", fused_file, "--steps").code == 0
    assert cli("unpack", fused_file, "-o", tmp_path / "files").code == 0


def test_pictures_go_through_the_gpu(
    cli: Cli,
    fused_file: Path,
    rainy: Path,
    tmp_path: Path,
    cuda: StandIn,
    cubin: Callable[..., bytes],
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = lower(strong(CONFIG), "fp16", nominal=(32, 32))
    compiler = StandInCompiler(plan, cubin)
    compiler.run_on(cuda)
    monkeypatch.setattr(kernels, "compile_calls", compiler)
    for mode in ("latency", "throughput"):
        done = cli("run", rainy, "-o", tmp_path / "clean.png", "-e", fused_file, "--mode", mode)
        assert (done.code, done.err) == (0, "")
        padded, _ = pad_frame(np.asarray(Image.open(rainy))[None], 32, 32)
        expected = FusedEmulation(plan).run(padded)[0, :33, :50]
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "clean.png")), expected)
    # Compiled for the stand-in at the first time and kept.
    assert compiler.asked == [("fp16", ("sm_90",))]
    assert [path.name for path in own_cache.rglob("kernels.json")] == ["kernels.json"]


def test_launches_are_shown_for_engines_and_models_alike(
    cli: Cli, wide: Path, fused_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = cli("inspect", wide, "--steps").out.splitlines()
    steps = len(lower(strong(CONFIG), "fp16").steps)
    assert len(lines) == steps + 2 and "GFLOP" in lines[0]
    assert lines[-1].startswith(f"{steps} launches, ") and " fp16 weights" in lines[-1]
    # A picture of 33x50 is padded to 64x64.
    small = cli("inspect", wide, "--steps", "--size", "33x50").out
    assert small == cli("inspect", wide, "--steps", "--size", "64x64").out != "\n".join(lines)
    assert "64x64" in small and "512x512" in lines[-2]
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "torch", None)
        done = cli("inspect", fused_file, "--steps", "--size", "64x64")
    # Its launches are cut for the size that it was built for.
    steps = len(lower(strong(CONFIG), "fp16", nominal=(32, 32)).steps)
    assert done.code == 0 and done.out.splitlines()[-1].startswith(f"{steps} launches, ")


def test_launches_that_cannot_be_shown(cli: Cli, wide: Path, reference_file: Path, model: Path) -> None:
    for arguments, code, words in (
        ((reference_file, "--steps"), 2, "an engine of the reference backend"),
        ((wide, "--size", "32x32"), 2, "--size belongs to --steps"),
        ((wide, "--steps", "--json"), 2, "exclude each other"),
        ((wide, "--steps", "--size", "32"), 2, "not HxW"),
        (("no-such-model", "--steps"), 2, "neither a file nor"),
    ):
        done = cli("inspect", *arguments)
        assert done.code == code and words in done.err and done.out == "", arguments


@pytest.mark.slow
def test_the_shipped_network_compiled_for_a_gpu(cli: Cli, rainy: Path, tmp_path: Path) -> None:
    """Compile with the real compiler, which needs no GPU."""
    file = tmp_path / "sid-lite.derain"
    done = cli("build", "sid-lite", "-o", file, "--backend", "fused", "--gpu", "sm_90", "--shape", "64x64")
    assert done.code == 0, done.err
    assert any(line.split() == ["Compiled", "for", "sm_90"] for line in done.out.splitlines())
    with open_bundle(file) as bundle:
        assert bundle.manifest.gpus == ("sm_90",)
        rows = json.loads(bytes(bundle.read("fused/sm_90/kernels.json")))["kernels"]
        steps = json.loads(bytes(bundle.read("fused/plan.json")))["calls"]
        assert len(rows) == len(steps) + 8
        for row in rows:
            code = bytes(bundle.read(f"fused/sm_90/{row['file']}"))
            assert code.startswith(b"\x7fELF") and hashlib.sha256(code).hexdigest() == row["sha256"]
    done = cli("run", rainy, "-o", tmp_path / "clean.png", "-e", file)
    assert done.code == 3 and done.err.count("\n") == 1
    done = cli("verify", file)
    assert done.code == 0 and "on the CPU, without the engine's GPU code" in done.out
    again = tmp_path / "again.derain"
    arguments = ("build", "sid-lite", "-o", again, "--backend", "fused", "--gpu", "sm_90", "--shape", "64x64")
    assert cli(*arguments).code == 0
    assert again.read_bytes() == file.read_bytes()

"""Tests of what is built from the checkout: wheel, source distribution, and life without the checkout and PyTorch."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from derain_engine.base.version import __version__

ROOT = Path(__file__).resolve().parents[1]


def stated_packages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the packages that setup.py finds."""
    stated: dict[str, list[str]] = {}
    monkeypatch.setattr("setuptools.setup", stated.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return stated["packages"]


def test_every_folder_of_modules_is_a_stated_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check for folders that work in the checkout and would be missing from the wheel."""
    tops = {
        Path(top).parts[0]
        for top in subprocess.check_output(["git", "ls-files", "*/*.py"], cwd=ROOT, text=True).split()
    }
    folders = {
        file.parent for top in tops - {"docs", "examples", "tests"} for file in (ROOT / top).rglob("*.py")
    }
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []
    packages = {".".join(("derain_engine", *folder.relative_to(ROOT).parts)) for folder in folders}
    assert set(stated_packages(monkeypatch)) == {"derain_engine", *packages}


def test_the_installed_version_is_the_stated_one() -> None:
    assert metadata.version("derain-engine") == __version__


class Installation:
    """A Python with derain-engine in it, used from a folder that is no checkout."""

    def __init__(self, scripts: Path, work: Path) -> None:
        self.scripts, self.work = scripts, work
        self.environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        # Messages on one line each, however long, and a cache of its own.
        self.environment |= {"COLUMNS": "1000", "XDG_CACHE_HOME": str(work / "cache")}

    def __call__(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.scripts / program), *arguments],
            cwd=self.work,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the source distribution, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("distributions")
    leftovers = shutil.ignore_patterns(
        ".*", "*.egg-info", "__pycache__", "build", "dist", "demo-out", "runs", "site"
    )
    shutil.copytree(ROOT, folder / "checkout", ignore=leftovers)
    done = Installation(Path(sys.executable).parent, folder)(
        "python", "-m", "build", "--outdir", "dist", "checkout"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist"


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(
    distributions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {
        "derain_engine/py.typed",
        "derain_engine/evaluation/niqe_pristine.NOTICE",
        "derain_engine/evaluation/niqe_pristine.npz",
        "derain_engine/models/weights/LICENSE",
        "derain_engine/kernels/cuda/planar.ptx",
        "derain_engine/kernels/tuned.json",
    }
    for package in stated_packages(monkeypatch):
        folder = ROOT.joinpath(*package.split(".")[1:])
        patterns = ["*.py", "*.safetensors", "*.md"] if package.endswith(".weights") else ["*.py"]
        files = {file.name for pattern in patterns for file in folder.glob(pattern)} - {"setup.py"}
        expected |= {f"{package.replace('.', '/')}/{name}" for name in files}

    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = f"derain_engine-{__version__}.dist-info"
    assert {name for name in names if not name.startswith(f"{about}/")} == expected
    assert {f"{about}/licenses/LICENSE", f"{about}/licenses/models/weights/LICENSE"} <= names


@pytest.mark.slow
def test_the_source_distribution_can_be_developed(distributions: Path) -> None:
    (source,) = distributions.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "Makefile",
        "README.md",
        "constraints.txt",
        "docs/hooks.py",
        "mkdocs.yml",
        "pyproject.toml",
        "setup.py",
        "tests/test_packaging.py",
    } <= names


@pytest.fixture(scope="module")
def developer(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Return the environment that runs the tests, which can build engine files."""
    return Installation(Path(sys.executable).parent, tmp_path_factory.mktemp("developer"))


@pytest.fixture(scope="module")
def lean(distributions: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Make a fresh environment with the wheel and what it requires: no PyTorch, no ONNX."""
    work = tmp_path_factory.mktemp("lean")
    venv.create(work / "venv", with_pip=True)
    installation = Installation(work / "venv" / ("Scripts" if os.name == "nt" else "bin"), work)
    (wheel,) = distributions.glob("*.whl")
    done = installation(
        "python", "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), str(wheel)
    )
    assert done.returncode == 0, done.stderr
    return installation


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "onnx", "onnxruntime", "safetensors", "skimage"])
def test_the_lean_environment_is_lean(lean: Installation, name: str) -> None:
    assert "ModuleNotFoundError" in lean("python", "-c", f"import {name}").stderr


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(lean: Installation) -> None:
    done = lean(
        "python", "-c", "import derain_engine as d; print(d.__file__, d.__version__, d.load, d.Engine)"
    )
    assert done.returncode == 0, done.stderr
    assert str(lean.work) in done.stdout
    assert __version__ in done.stdout
    done = lean("derain-engine", "--help")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_built_engine_file_runs_without_pytorch(lean: Installation, developer: Installation) -> None:
    done = developer("derain-engine", "build", "sid-lite", "-o", "lite.derain")
    assert done.returncode == 0, done.stderr
    pixels = np.random.default_rng(0).integers(0, 256, (45, 70, 3), np.uint8)
    clean = []
    for installation in (lean, developer):
        Image.fromarray(pixels).save(installation.work / "rainy.png")
        engine = str(developer.work / "lite.derain")
        done = installation("derain-engine", "run", "rainy.png", "-o", "clean.png", "-e", engine)
        assert done.returncode == 0, done.stderr
        clean.append(np.asarray(Image.open(installation.work / "clean.png")))
    assert clean[0].shape == pixels.shape
    assert np.array_equal(clean[0], clean[1])


@pytest.mark.slow
def test_building_without_pytorch_says_what_to_install(lean: Installation) -> None:
    done = lean("derain-engine", "build", "sid-lite", "-o", "lite.derain")
    assert done.returncode == 3
    assert "derain-engine[build]" in done.stderr
    assert not (lean.work / "lite.derain").exists()

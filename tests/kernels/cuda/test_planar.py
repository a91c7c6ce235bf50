"""The pixel kernels that TensorRT sessions launch: the PTX in the package is its source's, and the source's arithmetic,
compiled for the CPU, is that of frames."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from derain_engine.engine.frames import pad_to, quantise, to_float

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "kernels" / "cuda" / "planar.cu"
#: Of the nvcc whose PTX is in the package.
RELEASE = "release 13.0"

_HOST = """
#include <cstdint>
#define __global__
#define __device__
#define __launch_bounds__(threads)
struct Index { unsigned int x; };
static Index blockIdx, threadIdx;
#include "SOURCE"
template <typename Kernel, typename... Arguments>
void launch(Kernel kernel, int pixels, Arguments... arguments) {
    for (blockIdx.x = 0; blockIdx.x * kThreads < (unsigned int)pixels; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < kThreads; ++threadIdx.x) kernel(arguments...);
}
extern "C" void planar_in(const void *picture, float *planes, int h, int w, int ph, int pw, int planar, int bytes) {
    launch(derain_planar_in, h * w, picture, planes, h, w, ph, pw, planar, bytes);
}
extern "C" void planar_out(const float *planes, void *picture, int h, int w, int ph, int pw, int planar, int bytes) {
    launch(derain_planar_out, ph * pw, planes, picture, h, w, ph, pw, planar, bytes);
}
"""


def test_the_ptx_in_the_package_is_the_sources(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None or shutil.which("make") is None:
        pytest.skip("nvcc or make is not installed")
    if RELEASE not in subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout:
        pytest.skip(f"the PTX is that of nvcc {RELEASE}")
    recipe = subprocess.run(
        ["make", "--dry-run", "--always-make", "--no-print-directory", "ptx", f"NVCC={nvcc}"],
        # Tests are run by make themselves, which would have its say in a make of theirs.
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    made = tmp_path / "planar.ptx"
    assert "> kernels/cuda/planar.ptx" in recipe
    command = recipe.replace("> kernels/cuda/planar.ptx", f"> {made}")
    subprocess.run(["sh", "-c", command], cwd=ROOT, check=True, capture_output=True)
    text = SOURCE.with_suffix(".ptx").read_text("utf-8")
    assert made.read_text("utf-8") == text
    # Drivers from CUDA 11 on compile it, for GPUs from Turing on.
    assert ".version 7.0" in text and ".target sm_75" in text
    entries = re.findall(r"\.entry (\w+)", text.replace("\n", " "))
    assert entries == ["derain_planar_in", "derain_planar_out"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler is installed")
    folder = tmp_path_factory.mktemp("planar")
    source = folder / "host.cpp"
    source.write_text(_HOST.replace("SOURCE", str(SOURCE)), "utf-8")
    library = folder / "planar.so"
    subprocess.run(
        [compiler, "-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-o", library, source],
        check=True,
    )
    return ctypes.CDLL(str(library))


def call(function: Callable[..., object], source: np.ndarray, target: np.ndarray, *numbers: int) -> None:
    function(ctypes.c_void_p(source.ctypes.data), ctypes.c_void_p(target.ctypes.data), *numbers)


def picture(height: int, width: int, planar: bool, dtype: type) -> np.ndarray:
    values = np.random.default_rng((height, width)).random(
        (3, height, width) if planar else (height, width, 3)
    )
    return (255 * values).astype(np.uint8) if dtype is np.uint8 else values.astype(np.float32)


@pytest.mark.parametrize("planar", [False, True], ids=["HWC", "CHW"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("frame", "padded"),
    [
        ((1, 1), (32, 32)),
        ((7, 13), (32, 32)),
        ((33, 65), (64, 96)),
        ((32, 64), (32, 64)),
        ((17, 40), (64, 64)),
    ],
    ids=str,
)
def test_pictures_become_padded_planes(
    host: ctypes.CDLL, frame: tuple[int, int], padded: tuple[int, int], dtype: type, planar: bool
) -> None:
    source = picture(*frame, planar, dtype)
    planes = np.full((3, *padded), np.nan, np.float32)
    call(host.planar_in, source, planes, *padded, *frame, planar, dtype is np.uint8)
    batch = (source.transpose(1, 2, 0) if planar else source)[None]
    expected = pad_to(to_float(batch), padded)
    np.testing.assert_array_equal(planes.transpose(1, 2, 0), expected[0])


@pytest.mark.parametrize("planar", [False, True], ids=["HWC", "CHW"])
@pytest.mark.parametrize("frame", [(1, 1), (7, 13), (33, 65), (64, 96)], ids=str)
def test_planes_become_pictures(host: ctypes.CDLL, frame: tuple[int, int], planar: bool) -> None:
    padded = 64, 96
    planes = np.random.default_rng(3).uniform(-0.3, 1.3, (3, *padded)).astype(np.float32)
    # Halfway between two steps, the edges of the range, and what is no number.
    planes.reshape(-1)[:7] = 0.5 / 255, 1.5 / 255, 0.0, 1.0, np.inf, -np.inf, np.nan
    cropped = planes[:, : frame[0], : frame[1]]
    expected = np.ascontiguousarray(cropped if planar else cropped.transpose(1, 2, 0))
    floats = np.empty_like(expected)
    call(host.planar_out, planes, floats, *padded, *frame, planar, 0)
    np.testing.assert_array_equal(floats, expected)
    levels = np.empty(expected.shape, np.uint8)
    call(host.planar_out, planes, levels, *padded, *frame, planar, 1)
    np.testing.assert_array_equal(levels, quantise(np.nan_to_num(expected, posinf=2, neginf=-1), np.uint8))

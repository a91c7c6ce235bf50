"""The native library as programs meet it: refusals, errors, symbols, generations, an installed copy, `make native`."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from pathlib import Path

import pytest

# For the sake of the build, 13 s on one core.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def library(make_native):
    return make_native()


@pytest.fixture
def arguments(library):
    """Valid arguments of an entry point by its name: a 4 x 5 image and frames of 32 x 32, in memory of zeros."""
    size = 32 * 1024
    memory = ctypes.create_string_buffer(4 * size + 15)
    start = ctypes.addressof(memory) + -ctypes.addressof(memory) % 16

    def arguments(name: str) -> list:
        assert memory  # held as long as this is
        source, target = name.split("_to_")
        structs = {
            "rgb8": library.struct("rgb8", start, 1024, 5, 4, "RGB"),
            "nv12": library.struct("nv12", start, start + 8 * 1024, 1024, 1024, 5, 4, "BT709", "FULL"),
            "frame": library.struct("frame", start + size, 1024, 32, 32, 8),
        }
        rain = [library.struct("frame", start + 2 * size, 1024, 32, 32, 4)] if source == "frame" else []
        return [structs[source], *rain, structs[target]]

    return arguments


@pytest.mark.parametrize("suffix", ["_host", ""])
@pytest.mark.parametrize(
    ("name", "argument", "change", "status"),
    [
        ("rgb8_to_frame", 0, None, "NULL_POINTER"),
        ("rgb8_to_frame", 0, {"pixels": None}, "NULL_POINTER"),
        ("rgb8_to_frame", 0, {"width": 0}, "BAD_SIZE"),
        ("rgb8_to_frame", 0, {"height": -4}, "BAD_SIZE"),
        ("rgb8_to_frame", 0, {"width": 33}, "BAD_SIZE"),
        ("rgb8_to_frame", 0, {"height": 33}, "BAD_SIZE"),
        ("rgb8_to_frame", 0, {"pitch": 14}, "BAD_PITCH"),
        ("rgb8_to_frame", 0, {"pitch": -1024}, "BAD_PITCH"),
        ("rgb8_to_frame", 0, {"order": 0}, "BAD_COLOUR"),
        ("rgb8_to_frame", 0, {"order": 3}, "BAD_COLOUR"),
        ("rgb8_to_frame", 1, None, "NULL_POINTER"),
        ("rgb8_to_frame", 1, {"values": None}, "NULL_POINTER"),
        ("rgb8_to_frame", 1, {"height": 65537}, "BAD_SIZE"),
        ("rgb8_to_frame", 1, {"channels": 3}, "BAD_CHANNELS"),
        ("rgb8_to_frame", 1, {"pitch": 496}, "BAD_PITCH"),
        ("rgb8_to_frame", 1, {"pitch": 1032}, "BAD_ALIGNMENT"),
        ("nv12_to_frame", 0, {"luma": None}, "NULL_POINTER"),
        ("nv12_to_frame", 0, {"chroma": None}, "NULL_POINTER"),
        ("nv12_to_frame", 0, {"luma_pitch": 4}, "BAD_PITCH"),
        ("nv12_to_frame", 0, {"chroma_pitch": 5}, "BAD_PITCH"),
        ("nv12_to_frame", 0, {"matrix": 2}, "BAD_COLOUR"),
        ("nv12_to_frame", 0, {"range": 0}, "BAD_COLOUR"),
        ("frame_to_rgb8", 0, {"channels": 0}, "BAD_CHANNELS"),
        ("frame_to_rgb8", 1, {"values": None}, "NULL_POINTER"),
        ("frame_to_rgb8", 1, {"width": 31}, "BAD_SIZE"),
        ("frame_to_rgb8", 2, {"order": 0}, "BAD_COLOUR"),
        ("frame_to_nv12", 1, {"height": 33}, "BAD_SIZE"),
        ("frame_to_nv12", 2, {"matrix": 0}, "BAD_COLOUR"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    library, arguments, name, argument, change, status, suffix
) -> None:
    given = arguments(name)
    if change is None:
        given[argument] = None
    else:
        for field, value in change.items():
            setattr(given[argument], field, value)
    stream = [] if suffix else [None]
    assert library(name + suffix, *given, *stream) == library.constants[status]
    assert library(f"{name}_host", *arguments(name)) == 0


def test_a_misaligned_frame_is_refused(library, arguments) -> None:
    image, target = arguments("rgb8_to_frame")
    target.values += 8
    assert library("rgb8_to_frame_host", image, target) == library.constants["BAD_ALIGNMENT"]
    target.channels = 4
    assert library("rgb8_to_frame_host", image, target) == 0


def test_every_status_has_words_of_its_own(library) -> None:
    names = ["OK", "NULL_POINTER", *(name for name in library.constants if name.startswith("BAD_"))]
    statuses = [-1, *(library.constants[name] for name in names), library.constants["CUDA_ERROR"] + 100]
    texts = [library.text(status) for status in statuses]
    assert all(texts) and len(set(texts)) == 9


def test_a_machine_without_a_gpu_gets_the_words_of_cuda(library, arguments) -> None:
    if pytest.importorskip("torch").cuda.is_available():
        pytest.skip("PyTorch finds a GPU")
    for name in ("rgb8_to_frame", "nv12_to_frame", "frame_to_rgb8", "frame_to_nv12"):
        status = library(name, *arguments(name), None)
        assert status > library.constants["CUDA_ERROR"]
        assert "CUDA" in library.text(status)


def test_nothing_but_the_interface_is_exported(library, run) -> None:
    """Hide the static CUDA runtime above all, for which another one in the process could answer."""
    exported = {
        line.split()[-1] for line in run("nm", "-D", "--defined-only", library.path).stdout.splitlines()
    }
    declared = re.findall(r"(?m)^DERAIN_API [\w *]*?derain_(\w+)\(", library.header)
    assert exported == {f"derain_{name}" for name in declared}
    assert library("kernels_abi") == library.constants["KERNELS_ABI"]


def test_there_is_code_for_every_generation_and_none_spills(library, run) -> None:
    cuobjdump = shutil.which("cuobjdump", path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
    if cuobjdump is None:
        triton = pytest.importorskip("triton", reason="neither the CUDA toolkit nor Triton brings cuobjdump")
        cuobjdump = f"{Path(triton.__file__).parent}/backends/nvidia/bin/cuobjdump"
    cubins, ptx = (run(cuobjdump, f"--list-{kind}", library.path).stdout for kind in ("elf", "ptx"))
    assert re.findall(r"sm_(\w+)\.", cubins) == ["75", "80", "86", "89", "90a", "100", "120"]
    assert re.findall(r"sm_(\w+)\.", ptx) == ["120"]
    used = run(cuobjdump, "--dump-resource-usage", library.path).stdout
    kernels = re.findall(r"STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", used)
    assert kernels == [("0", "0")] * 4 * 7


def test_c_programs_use_it_where_it_was_built_and_installed(library, run, tmp_path) -> None:
    done = run("ctest", "--test-dir", library.folder, "--no-tests=error")
    assert done.returncode == 0, done.stdout
    done = run("cmake", "--install", library.folder, "--prefix", tmp_path)
    assert done.returncode == 0, done.stderr
    (installed,) = tmp_path.glob("lib*/**/libderain_kernels.so")
    program, source = tmp_path / "program", Path(__file__).with_name("c_interface.c")
    found = ["-I", tmp_path / "include", "-L", installed.parent, "-lderain_kernels"]
    done = run(os.environ.get("CC", "cc"), source, *found, "-o", program)
    assert done.returncode == 0, done.stderr
    done = run(program, LD_LIBRARY_PATH=str(installed.parent))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("variable", "name"), [("CMAKE", "CMake"), ("NVCC", "nvcc")])
def test_make_native_says_what_is_missing(run, variable, name) -> None:
    done = run("make", "native", f"{variable}=/nowhere/it")
    assert done.returncode != 0
    assert f"make native needs {name}" in done.stderr and "'/nowhere/it' is not there" in done.stderr

"""The native library: built by `make native`, loaded with ctypes, its constants and structs read from the header."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
_TYPES = {"void *": ctypes.c_void_p, "int64_t ": ctypes.c_int64, "int32_t ": ctypes.c_int32}

Run = Callable[..., subprocess.CompletedProcess[str]]


class Library:
    """The loaded library.

    header: the text of derain_kernels.h.
    constants: of the header, by their names without `DERAIN_`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "libderain_kernels.so"
        self.native = ctypes.CDLL(str(self.path))
        self.native.derain_status_string.restype = ctypes.c_char_p
        self.header = (ROOT / "include" / "derain_kernels.h").read_text("utf-8")
        defined = re.findall(r"DERAIN_(\w+) (?:= )?(\d+)\b", self.header)
        self.constants = {name: int(value) for name, value in defined}
        self._structs = {
            name: type(name, (ctypes.Structure,), {"_fields_": _fields(body)})
            for body, name in re.findall(r"(?ms)^typedef struct \w+ {(.*?)^} derain_(\w+);", self.header)
        }

    def struct(self, name: str, *values: int | str) -> Any:
        """Return the struct `derain_NAME`; words among its values are constants."""
        return self._structs[name](*(self.constants[v] if isinstance(v, str) else v for v in values))

    def __call__(self, name: str, *arguments: ctypes.Structure | ctypes.c_void_p | None) -> int:
        """Return the status that `derain_NAME` returns; structs are passed by their address."""
        passed = (ctypes.byref(a) if isinstance(a, ctypes.Structure) else a for a in arguments)
        return getattr(self.native, f"derain_{name}")(*passed)

    def text(self, status: int) -> str:
        return self.native.derain_status_string(status).decode()


def _fields(body: str) -> list[tuple[str, type]]:
    return [(name, _TYPES[kind]) for kind, name in re.findall(r"(?m)^ +(\w+ \*?)(\w+);", body)]


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a command in the repository's root."""

    def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        words, variables = [str(word) for word in command], os.environ | environment
        return subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600)

    return run


@pytest.fixture(scope="session")
def make_native(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Library]:
    """Builds the library in a new folder, with variables of the environment."""
    missing = [program for program in ("make", "cmake") if shutil.which(program) is None]
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if missing or nvcc is None:
        pytest.skip(f"building the native library needs {' and '.join(missing) or 'nvcc'}")

    def make(**environment: str) -> Library:
        folder = tmp_path_factory.mktemp("native")
        done = run("make", "native", f"NATIVE={folder}", **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stdout + done.stderr
        return Library(folder)

    return make

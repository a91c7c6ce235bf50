"""The guides of CONTRIBUTING.md work as they stand: their code is taken from the text and run in a copied package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNEL, TEST, LOWERING = re.findall(
    r"^```python\n(.*?)^```$",
    re.search(
        r"^## Add a kernel\n.*?(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.M | re.S
    )[0],  # type: ignore[index]
    re.M | re.S,
)

#: What a plan is made, stored, checked and run with, and what prepares kernels, for a kernel that only its file names.
_EVERYTHING_KNOWS_IT = """
import dataclasses, sys
import torch
from torch import nn
from derain_engine.base.errors import BundleError
from derain_engine.bench.kernels.alike import Check, alike
from derain_engine.bench.kernels.candidates import candidates
from derain_engine.kernels import difference
from derain_engine.kernels.aot import compile_call
from derain_engine.kernels.plain import plain, run_plain
from derain_engine.kernels.record import find, forms, heuristic, kernels
from derain_engine.plan.assembly import Assembly
from derain_engine.plan.executors import run_by_torch
from derain_engine.plan.describe import describe
from derain_engine.plan.memory import Memory
from derain_engine.plan.stored import from_json, to_json

assert find("difference.absolute") is difference.ABSOLUTE and difference.ABSOLUTE in kernels()
assert difference.ABSOLUTE.form == forms()["difference.absolute"]

self = Assembly(nn.Identity(), "fp16", heuristic)
self.blob += bytes(256)
name, level, side, channels = "difference", 0, 32, 4
first, second, out = (self.buffer(each, level, channels) for each in ("image", "second", "out"))
rain = self.buffer("rain", 0, 3)
exec(LOWERING)
plan = self.finished(first.buffer, rain.buffer)

assert from_json(to_json(plan), plan.weights) == plan
assert "difference.absolute" in describe(plan, 64, 64)
for wrong in (dict(pointers=plan.steps[0].pointers[:2]), dict(sizes=("h0", "w0", 1))):
    damaged = dataclasses.replace(plan, steps=(dataclasses.replace(plan.steps[0], **wrong),))
    try:
        from_json(to_json(damaged), plan.weights)
    except BundleError as error:
        assert "for difference.absolute" in str(error), error
    else:
        raise AssertionError("a damaged step was accepted")

memory = Memory(plan, 32, 64)
image, other = torch.rand(32, 64, 3), torch.rand(32, 64, 4).half()
memory.fill(image)
memory.map(second.buffer)[0] = other
call, pointers = plan.steps[0].call, [memory.flat(pointer) for pointer in plan.steps[0].pointers]
run_plain(call, pointers, (32, 64))
expected = (memory.map(first.buffer)[0].float() - other.float()).abs().half()
assert torch.equal(memory.map(out.buffer)[0], expected)
assert run_by_torch(plan, image).map(out.buffer).isnan().all(), "what nothing wrote is NaN"

(each,) = alike(memory)
assert each.key == ("difference.absolute", 4, 0)
assert Check(each).passes(lambda: run_plain(call, each.pointers(call), each.sizes))
assert not Check(each).passes(lambda: None)
function, arguments = plain(call, pointers, (32, 64))
assert function(*arguments)[0].shape == (1, 4, 32, 64) and function(*arguments)[0].dtype == torch.float16
found = candidates([call], 99 << 10)
assert found[0] == heuristic("difference.absolute", 4) and len(found) > 5

compiled = compile_call(call, "fp16", "sm_90")
assert compiled.faults() == [] and compiled.arguments[:5] == ("*fp16",) * 3 + ("i32", "i32")
print("known everywhere")
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a copy of the package in which nothing but the guide's two files is new."""
    package = tmp_path / "derain_engine"
    package.mkdir()
    for each in ROOT.iterdir():
        if each.name == "__init__.py" or (each / "__init__.py").is_file() or each.name == "pyproject.toml":
            if each.name not in ("kernels", "tests"):
                (package / each.name).symlink_to(each)
    ignored = shutil.ignore_patterns("__pycache__", "test_*.py")
    shutil.copytree(ROOT / "kernels", package / "kernels", ignore=ignored)
    (package / "tests").mkdir()
    for name in ("__init__.py", "conftest.py"):
        if (ROOT / "tests" / name).is_file():
            shutil.copy(ROOT / "tests" / name, package / "tests")
    shutil.copytree(ROOT / "tests" / "kernels", package / "tests" / "kernels", ignore=ignored)
    (package / "kernels" / "difference.py").write_text(KERNEL, "utf-8")
    (package / "tests" / "kernels" / "test_difference.py").write_text(TEST, "utf-8")
    return package


def run(package: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=package,
        env={**kept, "PYTHONPATH": str(package.parent), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def run_its_test(package: Path) -> subprocess.CompletedProcess[str]:
    return run(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels/test_difference.py")


def test_the_kernel_of_the_guide_passes_its_own_test(package: Path) -> None:
    done = run_its_test(package)
    assert done.returncode == 0 and "10 passed" in done.stdout, done.stdout + done.stderr


def test_a_mistake_in_the_kernel_of_the_guide_is_caught(package: Path) -> None:
    wrong = KERNEL.replace("out.dtype.element_ty), mask=live)", "out.dtype.element_ty), mask=n < C)")
    assert wrong != KERNEL
    (package / "kernels" / "difference.py").write_text(wrong, "utf-8")
    done = run_its_test(package)
    assert done.returncode == 1 and "values outside its output" in done.stdout, done.stdout + done.stderr


def test_everything_knows_the_kernel_of_the_guide(package: Path) -> None:
    done = run(package, "-c", f"LOWERING = {LOWERING!r}\n{_EVERYTHING_KNOWS_IT}")
    assert done.returncode == 0 and done.stdout.endswith("known everywhere\n"), done.stdout + done.stderr

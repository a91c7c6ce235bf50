"""Who may import whom: downwards only, no circles, nothing heavy before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: From the roof to the ground: a part imports from the rows below its own, and from itself.
ROWS = (
    {"cli"},
    {"bench", "training"},
    {"facade"},
    {"evaluate"},
    {"contents", "convert", "shipped"},
    {"builder", "media"},
    {"environment", "runtime"},
    {"verify"},
    {"backends", "trust"},
    {"export", "plan", "bundle", "device", "frames", "metrics", "rain"},
    {"checkpoint"},
    {"models"},
    {"kernels"},
    {"files", "limits", "nvinfer", "progress", "sizes", "weights"},
    {"errors", "version"},
)
#: Files of engine/ that belong to a part of another name.
MEMBER_OF = {
    "build_options": "builder",
    "manifest": "bundle",
    "model_file": "checkpoint",
    "sources": "builder",
    "foreign": "builder",
    "niqe": "metrics",
    "quality": "metrics",
    "tiling": "frames",
    **dict.fromkeys(
        (f"evaluate_{each}" for each in "bootstrap csv figures published sets sheet subject video".split()),
        "evaluate",
    ),
}
#: Parts that may import anything at module level; the others stay light until a function is called.
HEAVY_PARTS = {"export", "kernels", "models", "plan", "training"}
LIGHT_MODULES = {
    *(
        "engine.models",
        "engine.models.spec",
        "engine.plan",
        "engine.plan.arena",
        "engine.plan.program",
        "engine.plan.stored",
        "export",
    ),
    *("kernels", "kernels.aot", "kernels.aot_pool", "kernels.config", "kernels.launch", "training"),
}
#: Third-party packages that the light parts may import at module level.
LIGHT = {"numpy"}
LIGHT_IN = {"cli": {"rich", "typer"}}
#: What importing a light part must never load.
HEAVY = (
    "av cuda matplotlib onnx onnxruntime onnxscript openvino safetensors scipy skimage tensorrt tensorrt_rtx torch "
    "triton"
)


@dataclass(frozen=True)
class Import:
    """One name that a file imports: a module of the package (``inside``) or the top name of another package."""

    name: str
    line: int
    inside: bool
    at_import: bool


def find_modules(root: Path) -> dict[str, Path]:
    """Dotted name below the package (``""`` for its face) -> file, for everything that is not a test."""
    files = [root / "__init__.py"]
    for folder in ("engine", "kernels", "export", "training", "bench", "cli"):
        files += sorted(file for file in (root / folder).rglob("*.py") if not file.name.startswith("test_"))
    modules = {}
    for file in files:
        parts = file.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return modules


def part_of(module: str) -> str:
    """The part of ROWS that a module belongs to."""
    if not module:
        return "facade"
    first, _, rest = module.partition(".")
    if first != "engine":
        return first
    name = rest.partition(".")[0]
    return MEMBER_OF.get(name, name)


def _statements(body: list[ast.stmt], at_import: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import statement, with whether it runs when the file is imported."""
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield statement, at_import
            continue
        runs = at_import and not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
        typing_only = isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING")
        for name, value in ast.iter_fields(statement):
            if name in ("body", "orelse", "finalbody", "handlers", "cases"):
                for child in value:
                    inner = [child] if isinstance(child, ast.stmt) else child.body
                    yield from _statements(inner, runs and not (typing_only and name == "body"))


def imports_of(module: str, modules: dict[str, Path]) -> list[Import]:
    """What one module imports, lazily and for type checkers included."""
    file = modules[module]
    package = module.split(".") if module else []
    if file.name != "__init__.py":
        package = package[:-1]
    found = []
    for node, at_import in _statements(ast.parse(file.read_text("utf-8"), str(file)).body, True):
        if isinstance(node, ast.Import):
            found += [
                Import(alias.name.partition(".")[0], node.lineno, False, at_import) for alias in node.names
            ]
        elif not node.level:
            found.append(Import(str(node.module).partition(".")[0], node.lineno, False, at_import))
        else:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                deeper = ".".join([*base, alias.name])
                name = deeper if deeper in modules else ".".join(base)
                found.append(Import(name, node.lineno, True, at_import))
    return found


def broken_rules(root: Path) -> list[str]:
    """One line for every import that breaks a rule, with its place and what would be right."""
    modules = find_modules(root)
    row_of = {part: row for row, parts in enumerate(ROWS) for part in parts}
    problems, edges = [], {}
    for module, file in modules.items():
        part, where = part_of(module), file.relative_to(root).as_posix()
        if module == "engine":
            if imports_of(module, modules):
                problems.append(f"{where}: engine/ has no face; import nothing here")
            continue
        if part not in row_of:
            problems.append(
                f"{where}: '{part}' stands in no row of ROWS; add it, or name its part in MEMBER_OF"
            )
            continue
        edges[module] = set()
        for found in imports_of(module, modules):
            place = f"{where}:{found.line}"
            if found.inside:
                edges[module].add(found.name)
                target = part_of(found.name)
                if found.name not in modules:
                    problems.append(f"{place}: imports '{found.name}', which is not there")
                elif target != part and row_of.get(target, -1) <= row_of[part]:
                    problems.append(
                        f"{place}: {part} must not import {target}, which does not stand below it"
                    )
            elif found.name == "derain_engine":
                problems.append(f"{place}: siblings are imported relatively")
            elif found.at_import and found.name not in sys.stdlib_module_names | LIGHT | LIGHT_IN.get(
                part, set()
            ):
                if part not in HEAVY_PARTS or module in LIGHT_MODULES:
                    problems.append(f"{place}: import {found.name} inside the function that needs it")
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        problems.append("circle: " + " -> ".join(name or "__init__" for name in reversed(error.args[1])))
    return problems


def test_imports_go_downwards_without_circles_and_stay_light() -> None:
    problems = broken_rules(ROOT)
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"engine/runtime.py": "from .errors import DerainError\nimport json\nimport numpy as np\n"}, None),
        ({"engine/runtime.py": "def f():\n    import torch\n"}, None),
        ({"engine/runtime.py": "if TYPE_CHECKING:\n    import torch\n"}, None),
        ({"engine/models/net.py": "import torch\n"}, None),
        ({"cli/run.py": "import typer\nfrom ..engine import errors\n"}, None),
        (
            {
                "engine/backends/a.py": "from . import b\n",
                "engine/backends/b.py": "from ..errors import DerainError\n",
            },
            None,
        ),
        ({"engine/runtime.py": "import torch\n"}, "runtime.py:1: import torch inside"),
        (
            {"engine/runtime.py": "try:\n    import onnx.helper\nexcept ImportError:\n    pass\n"},
            "runtime.py:2: import onnx",
        ),
        ({"engine/runtime.py": "class A:\n    from torch import nn\n"}, "runtime.py:2: import torch inside"),
        ({"engine/models/spec.py": "import torch\n"}, "spec.py:1: import torch inside"),
        (
            {"engine/errors.py": "from .runtime import load\n", "engine/runtime.py": ""},
            "errors must not import runtime",
        ),
        (
            {"engine/errors.py": "def f():\n    from . import runtime\n", "engine/runtime.py": ""},
            "errors.py:2: errors must not",
        ),
        (
            {"engine/frames.py": "from . import metrics\n", "engine/metrics.py": ""},
            "frames must not import metrics",
        ),
        (
            {"kernels/a.py": "from ..engine.models import spec\n", "engine/models/spec.py": ""},
            "kernels must not import models",
        ),
        ({"engine/runtime.py": "from .. import build\n"}, "runtime must not import facade"),
        ({"engine/runtime.py": "from derain_engine.engine import errors\n"}, "imported relatively"),
        ({"engine/runtime.py": "from .gone import thing\n"}, "'engine.gone', which is not there"),
        ({"engine/novelty.py": ""}, "'novelty' stands in no row"),
        ({"engine/__init__.py": "from . import errors\n"}, "no face"),
        ({"engine/media/a.py": "from . import b\n", "engine/media/b.py": "from .a import c\n"}, "circle: "),
        (
            {
                "engine/tiling.py": "from . import frames\n",
                "engine/frames.py": "def f():\n    from . import tiling\n",
            },
            "circle: ",
        ),
    ],
)
def test_the_rules_see_what_breaks_them(tmp_path: Path, files: dict[str, str], problem: str | None) -> None:
    house = {
        "__init__.py": "",
        "engine/__init__.py": "",
        "engine/errors.py": "class DerainError(Exception): ...\n",
    }
    for name, text in (house | files).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    problems = broken_rules(tmp_path)
    if problem is None:
        assert problems == []
    else:
        assert len(problems) == 1
        assert problem in problems[0]


_IMPORT_WITHOUT_HEAVY = """
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise RuntimeError(f"loads {name}")
HEAVY = set(sys.argv[1].split())
sys.meta_path.insert(0, Refuse())
for module in sys.argv[2:]:
    try:
        importlib.import_module(module)
    except Exception as error:
        print(f"{module}: {type(error).__name__}: {error}")
"""


def test_light_modules_import_without_anything_heavy() -> None:
    modules = [m for m in find_modules(ROOT) if m in LIGHT_MODULES or part_of(m) not in HEAVY_PARTS]
    assert len(modules) > 10
    names = [f"derain_engine.{module}".rstrip(".") for module in modules if not module.endswith("__main__")]
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_WITHOUT_HEAVY, HEAVY, *names],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_face_fetches_its_names_from_their_homes() -> None:
    import derain_engine
    from derain_engine.engine import errors, runtime, version

    assert derain_engine.DerainError is errors.DerainError
    assert derain_engine.load is runtime.load
    assert derain_engine.Engine is runtime.Engine
    assert derain_engine.__version__ == version.__version__
    assert set(derain_engine.__all__) <= set(dir(derain_engine))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        derain_engine.nothing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]

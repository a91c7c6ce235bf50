"""The rules of imports: downwards only, no circles, nothing heavy before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: From the roof to the ground: a folder imports from the rows below its own, and from itself. The facade imports from
#: any, and is imported by none.
ROWS = (
    {"cli"},
    {"bench", "evaluation", "training"},
    {"media"},
    {"engine"},
    {"export", "plan"},
    {"models"},
    {"device", "kernels", "samples"},
    {"base"},
)
#: Folders that may import anything at module level; the others stay light until a function is called.
HEAVY_FOLDERS = {"export", "kernels", "models", "plan", "training"}
#: Of those the modules that have to be light: an engine is opened and run through them.
LIGHT_MODULES = set(
    (
        "export export.nvinfer export.tensorrt kernels kernels.aot kernels.aot.pool kernels.launch "
        "kernels.record models models.loading models.model_file models.spec models.weights plan "
        "plan.arena plan.program plan.stored training training.options"
    ).split()
)
#: Third-party packages that light modules may import at module level.
LIGHT = {"numpy"}
LIGHT_IN = {"cli": {"rich", "typer"}}
#: What importing a light module must never load.
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
    """Map dotted names below the package (``""`` for its facade) to files, for everything that is not a test."""
    folders = sorted(file.parent for file in root.glob("*/__init__.py"))
    files = [root / "__init__.py", *(file for folder in folders for file in sorted(folder.rglob("*.py")))]
    modules = {}
    for file in files:
        parts = file.relative_to(root).with_suffix("").parts
        if not file.name.startswith("test_"):
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return modules


def folder_of(module: str) -> str:
    """Return the folder of ROWS that a module lies in; ``""`` for the facade."""
    return module.partition(".")[0]


def _statements(body: list[ast.stmt], at_import: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield every import statement, with whether it runs when the file is imported."""
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
    """List the imports of one module, those in functions and for type checkers included."""
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


def circles(edges: Iterable[tuple[str, str]]) -> Iterator[list[str]]:
    """Circles among the files and subfolders of each folder, at every depth; of each folder one at most."""
    graphs: dict[str, dict[str, set[str]]] = {}
    for importer, imported in edges:
        ours, theirs = importer.split("."), imported.split(".")
        shared = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
        if shared is not None:
            graph = graphs.setdefault(".".join(ours[:shared]), {})
            graph.setdefault(".".join(ours[: shared + 1]), set()).add(".".join(theirs[: shared + 1]))
    for graph in graphs.values():
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            yield list(reversed(error.args[1]))


def broken_rules(root: Path) -> list[str]:
    """Return one line for every import that breaks a rule, with its place and what would be right."""
    modules = find_modules(root)
    row_of = {folder: row for row, folders in enumerate(ROWS) for folder in folders} | {"": -1}
    problems, edges = [], []
    for module, file in modules.items():
        folder, where = folder_of(module), file.relative_to(root).as_posix()
        if folder not in row_of:
            problems.append(f"{where}: '{folder}' stands in no row of ROWS; add it")
            continue
        for found in imports_of(module, modules):
            place = f"{where}:{found.line}"
            if found.inside:
                target = folder_of(found.name)
                if found.name not in modules:
                    problems.append(f"{place}: imports '{found.name}', which is not there")
                elif target != folder and row_of.get(target, -1) <= row_of[folder]:
                    problems.append(
                        f"{place}: {folder} must not import {target or 'the facade'}, which does not stand below it"
                    )
                else:
                    edges.append((module, found.name))
            elif found.name == "derain_engine":
                problems.append(f"{place}: siblings are imported relatively")
            elif found.at_import and found.name not in sys.stdlib_module_names | LIGHT | LIGHT_IN.get(
                folder, set()
            ):
                if folder not in HEAVY_FOLDERS or module in LIGHT_MODULES:
                    problems.append(f"{place}: import {found.name} inside the function that needs it")
    return problems + [f"circle: {' -> '.join(circle)}" for circle in circles(edges)]


def test_imports_go_downwards_without_circles_and_stay_light() -> None:
    problems = broken_rules(ROOT)
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"engine/a.py": "from ..base.errors import DerainError\nimport json\nimport numpy as np\n"}, None),
        ({"engine/a.py": "def f():\n    import torch\n"}, None),
        ({"engine/a.py": "if TYPE_CHECKING:\n    import torch\n"}, None),
        ({"models/net.py": "import torch\n"}, None),
        ({"cli/run.py": "import typer\nfrom ..base import errors\n"}, None),
        (
            {"engine/b/c.py": "from .. import a\n", "engine/a.py": "", "engine/d.py": "from .b import c\n"},
            None,
        ),
        ({"engine/a.py": "import torch\n"}, "a.py:1: import torch inside"),
        (
            {"engine/a.py": "try:\n    import onnx.helper\nexcept ImportError:\n    pass\n"},
            "a.py:2: import onnx",
        ),
        ({"engine/a.py": "class A:\n    from torch import nn\n"}, "a.py:2: import torch inside"),
        ({"models/spec.py": "import torch\n"}, "spec.py:1: import torch inside"),
        ({"base/a.py": "from ..engine import b\n", "engine/b.py": ""}, "base must not import engine"),
        ({"base/a.py": "def f():\n    from ..engine import b\n", "engine/b.py": ""}, "a.py:2: base must not"),
        ({"kernels/a.py": "from ..device import b\n", "device/b.py": ""}, "kernels must not import device"),
        (
            {"kernels/a.py": "from ..models import spec\n", "models/spec.py": ""},
            "kernels must not import models",
        ),
        ({"engine/a.py": "from .. import build\n"}, "engine must not import the facade"),
        ({"engine/a.py": "from derain_engine.base import errors\n"}, "imported relatively"),
        ({"engine/a.py": "from .gone import thing\n"}, "'engine.gone', which is not there"),
        ({"novelty/__init__.py": ""}, "'novelty' stands in no row"),
        ({"media/a.py": "from . import b\n", "media/b.py": "from .a import c\n"}, "circle: "),
        ({"media/a.py": "from . import b\n", "media/b.py": "def f():\n    from . import a\n"}, "circle: "),
        (
            {
                "media/a/x.py": "from ..b import y\n",
                "media/b/y.py": "",
                "media/b/z.py": "from ..a import w\n",
                "media/a/w.py": "",
            },
            "circle: media.",
        ),
    ],
)
def test_the_rules_see_what_breaks_them(tmp_path: Path, files: dict[str, str], problem: str | None) -> None:
    tree = {"__init__.py": "", "base/errors.py": "class DerainError(Exception): ...\n"} | files
    for name, text in tree.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
        for folder in (tmp_path / name).relative_to(tmp_path).parents:
            (tmp_path / folder / "__init__.py").touch()
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
    modules = [m for m in find_modules(ROOT) if m in LIGHT_MODULES or folder_of(m) not in HEAVY_FOLDERS]
    assert len(modules) > 10
    names = [f"derain_engine.{module}".rstrip(".") for module in modules if not module.endswith("__main__")]
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_WITHOUT_HEAVY, HEAVY, *names],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_facade_fetches_its_names_from_their_homes() -> None:
    import derain_engine
    from derain_engine.base import errors, version
    from derain_engine.engine import runtime
    from derain_engine.evaluation import evaluate
    from derain_engine.media.video import clean

    assert derain_engine.DerainError is errors.DerainError
    assert derain_engine.load is runtime.load
    assert derain_engine.Engine is runtime.Engine
    assert derain_engine.evaluate is evaluate.evaluate
    assert derain_engine.clean_video is clean.clean_video
    assert derain_engine.VideoOptions is clean.VideoOptions
    assert derain_engine.__version__ == version.__version__
    assert set(derain_engine.__all__) <= set(dir(derain_engine))
    for name in derain_engine.__all__:
        # A folder of that name would take its place as soon as something is imported from there.
        assert not (ROOT / name).exists()
        assert getattr(derain_engine, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        derain_engine.nothing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]

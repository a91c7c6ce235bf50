"""Form of the source that no linter checks: docstrings that are sentences, short signatures, no formatter dodges."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {".venv", "build", "demo-out", "dist", "runs"}
PLACES = sorted(
    {path.relative_to(ROOT).parts[0] for path in ROOT.glob("*/**/*.py")} - LEFT_OUT
    | {path.name for path in ROOT.glob("*.py")}
)

#: Words that begin no sentence of their own: what follows has no subject and no verb.
BARE = set(
    "After Against Among As At Back Before Behind Beside Between By For From How If In Into Like None Of On Only Over "
    "Plus Than Those Through To Under Until What When Where Whether Which Who Whose Why With Without".split()
)
#: Words that begin the name of a thing. A class or a property is a thing; a function does something: "Return the ...".
NAMING = set(
    "A All An Another Any Both Each Every Its No One Same Some The Their These This Three Two".split()
)
#: Parameters that a function takes at most; more belong in an object. A kernel's are what a launch passes to the GPU.
MOST_PARAMETERS = 12

Function = ast.FunctionDef | ast.AsyncFunctionDef


def wrong_form(docstring: str, does_something: bool) -> str | None:
    """Return what is wrong with a docstring's first sentence; None for nothing."""
    first = docstring.strip().split(maxsplit=1)[0] if docstring.strip() else ""
    paragraph = docstring.strip().split("\n\n")[0]
    if not first:
        return "is empty"
    if first in BARE or (does_something and first in NAMING):
        return f"begins with a bare {first!r}"
    if not (first[0].isupper() or first[0] == "`") or first.endswith(":"):
        return f"begins with {first!r}, which is no sentence"
    if not any(mark in paragraph for mark in (".", ":", "?")):
        return "has no whole first sentence"
    return None


def decorators(function: Function) -> str:
    """Join a function's decorators as source."""
    return " ".join(map(ast.unparse, function.decorator_list))


def faults(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, what is wrong) of everything in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function):
            is_property = isinstance(node, Function) and "property" in decorators(node)
            docstring = ast.get_docstring(node)
            if docstring is not None:
                what = wrong_form(docstring, isinstance(node, Function) and not is_property)
                if what is not None:
                    yield getattr(node, "lineno", 1), f"a docstring {what}"
        if isinstance(node, Function) and "jit" not in decorators(node):
            arguments = node.args
            count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
            if count > MOST_PARAMETERS:
                yield node.lineno, f"{node.name} takes {count} parameters, at most {MOST_PARAMETERS}"
        if isinstance(node, ast.Starred) and isinstance(node.value, ast.Tuple | ast.List):
            yield node.lineno, "a tuple is written out only to be unpacked"


@pytest.mark.parametrize("place", PLACES)
def test_the_source_has_the_form(place: str) -> None:
    files = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
    found = [
        f"{file.relative_to(ROOT).as_posix()}:{line}: {what}"
        for file in files
        for line, what in faults(ast.parse(file.read_text("utf-8")))
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ('"""The kernels of a block."""', None),
        ('"""What a block is."""', "bare 'What'"),
        ('"""Kernels"""', "no whole first sentence"),
        ('def f():\n    """Return the kernels."""', None),
        ('def f():\n    """The kernels."""', "bare 'The'"),
        ('def f():\n    """x: a map."""', "no sentence"),
        ('class A:\n    """The kernels."""', None),
        ('class A:\n    """With kernels."""', "bare 'With'"),
        ('class A:\n    @property\n    def f(self):\n        """The kernels."""', None),
        (f"def f({', '.join(f'a{i}' for i in range(12))}): ...", None),
        (f"def f({', '.join(f'a{i}' for i in range(13))}): ...", "takes 13 parameters"),
        (f"@triton.jit\ndef f({', '.join(f'a{i}' for i in range(13))}): ...", None),
        ("f(*a, b)", None),
        ("f(*(a, b))", "only to be unpacked"),
    ],
)
def test_the_form_is_seen(source: str, what: str | None) -> None:
    found = [each for _, each in faults(ast.parse(source))]
    assert len(found) == (what is not None)
    assert what is None or what in found[0]

"""The documentation against the repository: links, paths, names, messages and exit codes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import derain_engine
from derain_engine.base import errors

from ..test_imports import ROWS, find_modules
from .pages import PAGES, README, ROOT, anchors, blocks, prose

DOCS = ROOT / "docs"
#: Folders that paths begin with; `build/` is made, and a folder of that name may lie there.
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")} - {
    "build"
}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 200


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), f"{page.name}: {target} is not there"
        assert page.parent == ROOT or file.is_relative_to(DOCS), (
            f"{page.name}: {target} is not part of the site"
        )
        assert not anchor or anchor in anchors(file), f"{page.name}: {target} has no such heading"


#: Files that a guide tells to make.
EXAMPLES = {"kernels/difference.py", "tests/kernels/test_difference.py"}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name
)
def test_paths_exist(page: Path) -> None:
    """Check that every file is there, so that whoever moves one is told which page names it."""
    for path in re.findall(r"`([\w.-]+/[\w./-]*)`", prose(page)):
        if path.partition("/")[0] in FOLDERS and "NAME" not in path and path not in EXAMPLES:
            assert (ROOT / path).exists(), f"{page.name}: {path} is not there"


def test_architecture_names_every_folder() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    packages = {name.partition(".")[0] for name in find_modules(ROOT)} - {""}
    for folder in packages | {"docs", "examples", "include", "tests"}:
        assert f"| `{folder}/` |" in text
    (rows,) = (block for block in blocks(DOCS / "architecture.md", "text") if "-->" not in block)
    assert [set(row.split(", ")) for row in rows.splitlines()] == list(ROWS)


def test_there_are_ten_files_to_read_in_order() -> None:
    text = (DOCS / "architecture.md").read_text("utf-8")
    files = re.findall(r"^(\d+)\. `([^`]+)`: ", text, re.MULTILINE)
    assert [int(number) for number, _ in files] == list(range(1, 11))
    assert all((ROOT / file).is_file() for _, file in files)


def test_papers_has_every_equation() -> None:
    ours, theirs = (DOCS / "papers.md").read_text("utf-8").split("## Semi-DerainGAN: equations")
    for part, last in ((ours, 11), (theirs, 13)):
        found: set[int] = set()
        for numbers in re.findall(r"^\| ([\d, to]+) \|", part, re.MULTILINE):
            first, _, end = numbers.partition(" to ")
            found |= set(range(int(first), int(end) + 1)) if end else {int(n) for n in numbers.split(", ")}
        assert found == set(range(1, last + 1))


def test_python_has_every_public_name() -> None:
    text = (DOCS / "python.md").read_text("utf-8")
    assert sorted(re.findall(r"^::: derain_engine\.(\w+)$", text, re.MULTILINE)) == sorted(
        derain_engine.__all__
    )


def test_the_readme_has_every_backend() -> None:
    from derain_engine.engine import backends

    for name in backends.names():
        (row,) = re.findall(rf"^\| `{name}`(?: \(default\))? \|.*$", README.read_text("utf-8"), re.MULTILINE)
        assert set(backends.get(name).precisions) == set(re.findall(r"`(\w+)`", row.split("|")[3]))


def test_exit_codes_are_those_of_the_errors() -> None:
    text = (DOCS / "troubleshooting.md").read_text("utf-8")
    told = {
        name: int(code)
        for code, names in re.findall(r"^\| (\d+) \|.*\|([^|]*)\|$", text, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert told == {kind.__name__: kind.exit_code for kind in kinds if issubclass(kind, errors.DerainError)}


def texts() -> str:
    """Return every string of the source; where a value is put into one, a NUL stands."""
    found = []
    for file in find_modules(ROOT).values():
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(
                        str(getattr(each, "value", "\0")) if isinstance(each, ast.Constant) else "\0"
                        for each in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_messages_are_the_program_s() -> None:
    text, source = (DOCS / "troubleshooting.md").read_text("utf-8"), texts()
    messages = re.findall(r"^> `(.+)`$", text, re.MULTILINE)
    assert len(messages) >= 10
    for message in messages:
        parts = [re.escape(part) for part in re.split("…", message) if part]
        assert re.search(r"[^\n]*".join(parts), source), f"nothing says {message!r}"


def test_pre_commit_runs_what_make_lint_runs() -> None:
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert lint is not None
    hooks = " ".join((ROOT / ".pre-commit-config.yaml").read_text("utf-8").split())
    for command in re.findall(r"\$\(BIN\)/(.+)", lint[1]):
        assert f"entry: .venv/bin/{command}" in hooks

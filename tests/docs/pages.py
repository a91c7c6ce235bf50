"""The pages that people read, and what is in them."""

from __future__ import annotations

import functools
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:(?<=\n\n) {4}.*\n(?: {4}.*\n)*)")


@functools.cache
def hooks() -> ModuleType:
    """Load docs/hooks.py, which lies in no package."""
    spec = importlib.util.spec_from_file_location("documentation_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def as_read(page: Path) -> str:
    """Return a page's Markdown with what is filled in when the site is built."""
    return hooks().on_page_markdown(page.read_text("utf-8"))


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language; those without one, and indented ones, count as ``sh``."""
    text = page.read_text("utf-8")
    found = [code for tag, code in _FENCE.findall(text) if (tag or "sh") == language]
    if language == "sh":
        found += [code.replace("\n    ", "\n") for code in _INDENTED.findall(_FENCE.sub("", text))]
    return found


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


def command_lines(code: str) -> Iterator[list[str]]:
    """Yield the arguments of every ``derain-engine`` in a piece of shell, without pipes and redirections."""
    for line in code.replace("\\\n", " ").splitlines():
        split = shlex.shlex(line, posix=True, punctuation_chars="|<>&;")
        split.whitespace_split = True
        words = list(split)
        while "derain-engine" in words:
            words = words[words.index("derain-engine") + 1 :]
            end = next((i for i, word in enumerate(words) if set(word) <= set("|<>&;")), len(words))
            yield words[:end]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as MkDocs and GitHub make them of ASCII text."""
    headings = re.findall(r"^#{1,6} (.+)$", _FENCE.sub("", as_read(page)), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", each).strip().lower()) for each in headings}

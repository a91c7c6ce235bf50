"""Fills the command-line page of the documentation from the program, so that no table of options is written by hand.

MkDocs calls the ``on_...`` functions while it builds the site; see ``hooks`` in mkdocs.yml.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import typer.main

from derain_engine.cli.app import make_app

PROGRAM = "derain-engine"
_MARK = "<!-- the verbs -->"
#: The end of typer's help of a parameter, such as "  [default: auto; required]".
_REMARKS = re.compile(r"(.*?)(?:  \[([^\[\]]*)\])?", re.DOTALL)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the reference where a page asks for it."""
    return markdown.replace(_MARK, "\n".join(command_line())) if _MARK in markdown else markdown


def on_page_content(content: str, **_: Any) -> str:
    """Drop the roles (``:meth:``) of docstrings, which Markdown does not know."""
    return re.sub(r":(?:attr|class|data|func|meth|mod):(?=<code>)", "", content)


def commands() -> Iterator[tuple[str, Any]]:
    """Yield (words after the program's name, command) of every verb; the program itself comes first, without words."""

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        below = getattr(command, "commands", {})
        if not below or not name:
            yield name, command
        for child, each in below.items():
            yield from walk(each, f"{name} {child}".strip())

    yield from walk(typer.main.get_command(make_app()), "")


def command_line() -> Iterator[str]:
    """Yield the Markdown of a section for every verb: usage, description, arguments, options, examples."""
    for name, command in commands():
        full = f"{PROGRAM} {name}".strip()
        context = command.make_context(full, [], resilient_parsing=True)
        yield f"## `{full}`\n"
        yield f"```text\n{' '.join([full, *command.collect_usage_pieces(context)])}\n```\n"
        yield _text(command.help or "") + "\n"
        for kind, title in (("argument", "Argument"), ("option", "Option")):
            found = [each for each in command.get_params(context) if each.param_type_name == kind]
            if found:
                yield f"| {title} | Meaning | Default |\n|---|---|---|"
                yield from (_row(*each.get_help_record(context)) for each in found)
                yield ""
        examples = (command.epilog or "").partition("\b\n")[2].strip()
        yield f"```sh\n{examples}\n```\n"


def _row(names: str, meaning: str) -> str:
    matched = _REMARKS.fullmatch(meaning)
    text, remarks = matched.groups() if matched else (meaning, None)
    remarks = (remarks or "").split("; ")
    default = next((each.partition(": ")[2] for each in remarks if each.startswith("default: ")), "")
    bounds = [each for each in remarks if each and not each.startswith(("default: ", "required"))]
    text += "".join(f" ({each})" for each in bounds)
    default = "required" if "required" in remarks else default.removeprefix("(").removesuffix(")")
    return f"| `{names}` | {_text(text)} | {_text(default)} |"


def _text(words: str) -> str:
    """Escape what would be markup in Markdown."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", html.escape(words.replace("\b", ""), quote=False))

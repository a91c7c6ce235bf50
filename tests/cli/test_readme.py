"""The README's reference names every verb and every option."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from derain_engine.cli.app import make_app

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def commands(command: object, name: str = "") -> Iterator[tuple[str, object]]:
    children = getattr(command, "commands", {})
    if not children or not name:
        yield name, command
    for child, each in children.items():
        yield from commands(each, f"{name} {child}".strip())


COMMANDS = dict(commands(typer.main.get_command(make_app())))


def section(name: str) -> str:
    """The text of a verb's entry: from its heading to the next one."""
    heading = f"### `derain-engine {name}`" if name else "## Command line"
    assert heading in README, f"README.md has no section {heading!r}"
    return re.split(r"\n#{2,3} ", README.split(heading, 1)[1], maxsplit=1)[0]


def test_there_are_the_verbs_of_the_product() -> None:
    verbs = "build run inspect verify unpack export eval collect-env".split()
    assert {*verbs, "train sid", "bench engine"} <= set(COMMANDS)


@pytest.mark.parametrize(
    "name", [name for name, command in COMMANDS.items() if not getattr(command, "commands", {})]
)
def test_every_option_is_in_the_reference(name: str) -> None:
    entry = section(name)
    for parameter in COMMANDS[name].params:  # type: ignore[attr-defined]
        for option in parameter.opts if parameter.param_type_name == "option" else []:
            if option != "--help":
                assert re.search(rf"`[^`]*(?<![\w-]){re.escape(option)}(?![\w-])", entry), (
                    f"README.md does not name {option} under 'derain-engine {name}'"
                )


def test_the_reference_names_no_option_that_is_gone() -> None:
    for name, command in COMMANDS.items():
        if getattr(command, "commands", {}):
            continue
        known = {option for parameter in command.params for option in parameter.opts}  # type: ignore[attr-defined]
        table = "\n".join(line for line in section(name).splitlines() if line.startswith("|"))
        assert set(re.findall(r"--[a-z][\w-]*", table)) <= known | {"--help"}


def test_every_verb_shows_examples() -> None:
    for name, command in COMMANDS.items():
        if name and not getattr(command, "commands", {}):
            assert "derain-engine " + name in (getattr(command, "epilog", "") or ""), (
                f"{name} --help shows no example"
            )

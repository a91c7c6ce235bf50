"""Commands and Python in the documentation, against the program."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from .pages import PAGES, README, ROOT, blocks, command_lines, hooks, prose

COMMANDS: dict[str, Any] = dict(hooks().commands())
VERBS = {name: command for name, command in COMMANDS.items() if name and not hasattr(command, "commands")}
SHELL = {page.name: "\n".join(blocks(page, "sh")) for page in PAGES} | {
    f"{name} --help".strip(): command.epilog or "" for name, command in COMMANDS.items()
}


def options(command: Any) -> set[str]:
    """Return the names that a command's options have."""
    found = [each for each in command.params if each.param_type_name == "option"]
    return {name for each in found for name in (*each.opts, *each.secondary_opts)} | {"--help"}


def parse(arguments: list[str]) -> None:
    """Parse a command line as the program does; nothing is run."""
    command: Any = COMMANDS[""]
    while hasattr(command, "commands"):
        # A group's own options go before its verb.
        while arguments and arguments[0].startswith("-"):
            assert arguments.pop(0) in options(command)
        if not arguments:
            return
        command = command.commands[arguments.pop(0)]
    if "--help" not in arguments:
        command.make_context("derain-engine", arguments)


@pytest.mark.parametrize("where", SHELL)
def test_every_command_line_parses(where: str) -> None:
    for arguments in command_lines(SHELL[where]):
        quoted = " ".join(arguments)
        try:
            parse(arguments)
        except KeyError as error:
            pytest.fail(f"{where}: there is no verb {error} in 'derain-engine {quoted}'")
        except typer.TyperException as error:
            pytest.fail(f"{where}: 'derain-engine {quoted}': {error.format_message()}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences_name_verbs_and_options_that_exist(page: Path) -> None:
    known = set().union(*map(options, COMMANDS.values()))
    for code in re.findall(r"`([^`]+)`", prose(page)):
        words = code.split()
        if words[0] == "derain-engine" and words[1:] and words[1][0].islower():
            name = " ".join(words[1:3]) if " ".join(words[1:3]) in COMMANDS else words[1]
            assert name in COMMANDS, f"{page.name}: there is no verb in '{code}'"
            used = {word for word in words if word.startswith("--")}
            assert used <= options(COMMANDS[name]), f"{page.name}: '{code}'"
        elif words[0].startswith("--"):
            assert words[0] in known, f"{page.name}: there is no option {words[0]}"


def test_a_wrong_command_line_is_seen() -> None:
    assert list(command_lines("a | derain-engine run x \\\n -o y > z | derain-engine b # c")) == [
        ["run", "x", "-o", "y"],
        ["b"],
    ]
    with pytest.raises(KeyError):
        parse(["clean", "x"])
    for wrong in (
        ["run", "x"],
        ["run", "x", "-o", "y", "--outt", "z"],
        ["build", "-o", "x", "--repair", "no"],
    ):
        with pytest.raises(typer.TyperException):
            parse(wrong)


def test_the_page_of_the_command_line_has_every_verb_and_option() -> None:
    page = "\n".join(hooks().command_line())
    for name, command in COMMANDS.items():
        section = page.partition(f"\n## `derain-engine {name}`\n" if name else "## `derain-engine`\n")[2]
        section = section.partition("\n## ")[0]
        for option in options(command):
            assert re.search(rf"^\| `[^`]*(?<![\w-]){option}(?![\w-])", section, re.MULTILINE), (name, option)
    assert "| `-o, --out FILE` | The engine file to write. | required |" in page
    assert "<!--" in (ROOT / "docs" / "command-line.md").read_text("utf-8")


def test_there_are_the_verbs_of_the_product() -> None:
    verbs = "build run inspect verify unpack export eval video collect-env".split()
    assert {*verbs, "train sid", "bench engine", "kernels compile"} <= set(VERBS)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_shows_examples(name: str) -> None:
    assert f"derain-engine {name}" in (VERBS[name].epilog or ""), f"{name} --help shows no example"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_compiles(page: Path) -> None:
    for code in blocks(page, "python"):
        compile(code, page.name, "exec")


@pytest.mark.slow
def test_the_readme_s_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"rainy": np.random.default_rng(0).integers(0, 256, (33, 65, 3), np.uint8)}
    (code,) = blocks(README, "python")
    exec(compile(code, README.name, "exec"), names)
    assert names["clean"].shape == (33, 65, 3)
    assert names["clean"].dtype == np.uint8

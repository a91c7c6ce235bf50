"""The form in which verbs, and groups of them, are added to the program."""

from __future__ import annotations

from collections.abc import Callable

import typer


def add_verb(app: typer.Typer, name: str, verb: Callable[..., None], examples: str) -> None:
    """Add a verb with its examples, one a line, the first after a line break."""
    app.command(name, epilog=f"Examples:\n\n\b{examples}")(verb)


def add_group(app: typer.Typer, name: str, help: str) -> typer.Typer:
    """Add a group of verbs, and return it."""
    group = typer.Typer(help=help, no_args_is_help=True, rich_markup_mode=None)
    group.callback()(lambda: None)
    app.add_typer(group, name=name)
    return group

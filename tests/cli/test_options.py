"""Option objects as options of a verb."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from derain_engine.base.errors import InputError
from derain_engine.base.options import option
from derain_engine.cli.options import with_options, with_settings


def side(text: str) -> int:
    if not text.endswith("px"):
        raise ValueError(f"{text!r} is not pixels, such as 64px.")
    return int(text[:-2])


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every kind."""

    kind: Literal["light", "heavy"] = option("light", help="Of the rain.")
    least_side: int | None = option(None, help="In pixels.", flags=("--least",), parse=side, metavar="PIXELS")
    passes: int = option(1, help="How often.", least=1, most=9)
    names: tuple[str, ...] = option((), help="Some.", flags=("--name",))
    count: Literal[1, 2] = option(1, help="Of layers.")
    loud: bool = option(False, help="Say more.", flags=("--loud",))
    inner: int = 7

    def __post_init__(self) -> None:
        if self.passes == 9:
            raise InputError("9 is too many.")


@dataclass(frozen=True, kw_only=True)
class More(Options):
    deep: int = option(0, help="How deep.")


def run(verb: Any, *arguments: str) -> Any:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(verb)
    return CliRunner().invoke(app, arguments)


def verb(got: list[Any]) -> Any:
    @with_options(options=Options)
    def verb(file: str, options: Options, late: bool = False) -> None:
        got.append((file, options, late))

    return verb


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        ((), Options()),
        (
            ("--kind", "heavy", "--least", "64px", "--passes", "3"),
            Options(kind="heavy", least_side=64, passes=3),
        ),
        (("--name", "a", "--name", "b", "--loud"), Options(names=("a", "b"), loud=True)),
    ],
)
def test_a_verb_gets_the_object(arguments: tuple[str, ...], made: Options) -> None:
    got: list[Any] = []
    done = run(verb(got), "x", *arguments, "--late")
    assert (done.exit_code, got) == (0, [("x", made, True)]), done.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--kind", "dry"), "'dry' is not one of 'light', 'heavy'"),
        (("--least", "64"), "'64' is not pixels, such as 64px."),
        (("--passes", "0"), "greater than or equal to 1"),
        (("--inner", "1"), "No such option"),
    ],
)
def test_what_an_option_does_not_take_is_a_matter_of_usage(arguments: tuple[str, ...], told: str) -> None:
    done = run(verb([]), "x", *arguments)
    assert done.exit_code == 2
    assert told in done.output


def test_what_the_object_refuses_is_raised() -> None:
    assert isinstance(run(verb([]), "x", "--passes", "9").exception, InputError)


def test_help_shows_meaning_names_and_default() -> None:
    text = run(verb([]), "--help").output
    assert "How often." in text and "default: 1" in text
    assert "--least" in text and "PIXELS" in text and "--inner" not in text


def test_a_field_that_two_objects_share_is_one_option() -> None:
    got: list[Any] = []

    @with_options(options=Options, more=More)
    def verb(options: Options, more: More) -> None:
        got.append((options, more))

    assert run(verb, "--passes", "2", "--deep", "3").exit_code == 0
    assert got == [(Options(passes=2), More(passes=2, deep=3))]


def test_settings_are_those_that_are_given() -> None:
    got: list[Any] = []

    @with_settings(given=Options)
    def verb(given: dict[str, Any]) -> None:
        got.append(given)

    assert run(verb).exit_code == 0
    assert run(verb, "--passes", "1", "--name", "a", "--count", "3", "--loud").exit_code == 0
    assert got == [{}, {"passes": 1, "names": ("a",), "count": 3, "loud": True}]
    assert "default: (1)" in run(verb, "--help").output

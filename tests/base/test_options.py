"""Option objects: what they refuse, and how they are combined with single fields."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import pytest

from derain_engine.base.errors import InputError
from derain_engine.base.options import combined, option, require_valid


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every type."""

    mode: Literal["auto", "off"] = option("auto", help="How.")
    size: tuple[int, int] | None = option(None, help="In pixels.")
    names: tuple[str, ...] = option((), help="Some.")
    count: int = option(1, help="How many.", least=1)
    start: Fraction | None = option(None, help="In seconds.")
    file: Path | None = option(None, help="Where.")
    loud: bool = option(False, help="Say more.")

    def __post_init__(self) -> None:
        require_valid(self)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"mode": "off", "size": (3, 4), "names": ["a"], "count": 2, "loud": True},
        {"size": [3, 4], "start": 2, "file": "here.png"},
        {"start": Fraction(1, 3), "file": Path("here.png")},
    ],
)
def test_values_of_their_types_are_taken(fields: dict[str, Any]) -> None:
    assert combined(Options, None, fields) == Options(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "Auto"}, "mode is one of auto, off, not 'Auto'."),
        ({"size": (3, 4, 5)}, "size is a tuple of 2, not (3, 4, 5)."),
        ({"size": "3x4"}, "size is a tuple of 2, not '3x4'."),
        ({"size": (3, 4.5)}, "size is a tuple of 2, not (3, 4.5)."),
        ({"names": "a"}, "names is a list, not 'a'."),
        ({"names": None}, "names is a list, not None."),
        ({"count": 0}, "count is 0; it must be 1 or more."),
        ({"count": True}, "count is a whole number, not True."),
        ({"start": "1:30"}, "start is a number, not '1:30'."),
        ({"loud": 1}, "loud is True or False, not 1."),
        ({"file": 3}, "file is a path, not 3."),
    ],
)
def test_others_are_refused_in_a_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        combined(Options, None, fields)
    assert str(refused.value) == message


def test_single_fields_go_before_those_of_an_object() -> None:
    assert combined(Options, Options(count=3, loud=True), {"count": 4}) == Options(count=4, loud=True)
    with pytest.raises(
        InputError, match="options is a Options, not a dict; give single options by their names"
    ):
        combined(Options, {"count": 3}, {})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no option 'cuont'; did you mean 'count'"):
        combined(Options, None, {"cuont": 3})
    with pytest.raises(TypeError, match="no option 'xyz'; there is mode, size, names"):
        combined(Options, None, {"xyz": 3})

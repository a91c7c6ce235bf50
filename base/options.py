"""Fields of option objects: what an option means, said once for Python, the command line and the documentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from typing import Any

_KEY = "option"


@dataclass(frozen=True)
class Meaning:
    """The meaning of a field of an option object, for whoever sets it by hand.

    help: sentences without the name of the option.
    flags: the option's names on the command line; empty where it is called as the field is.
    metavar: what stands for a value, such as ``HxW``.
    least, most: bounds of a number.
    parse: from a text of the command line; raises ValueError with a sentence.
    shown: the default in words, where the value does not tell.
    """

    help: str
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    least: float | None = None
    most: float | None = None
    parse: Callable[[str], Any] | None = None
    shown: str | None = None


def option(default: Any = MISSING, *, help: str, flags: tuple[str, ...] = (), **meaning: Any) -> Any:
    """Declare a field of a dataclass that is an option; the keywords are those of :class:`Meaning`."""
    return dataclasses.field(default=default, metadata={_KEY: Meaning(help, flags, **meaning)})


def meaning(field: dataclasses.Field[Any]) -> Meaning | None:
    """Return what a field means; None for one that is no option."""
    return field.metadata.get(_KEY)

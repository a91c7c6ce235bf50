"""Fields of option objects: what an option means, said once for Python, the command line and the documentation."""

from __future__ import annotations

import dataclasses
import difflib
import os
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from numbers import Rational, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import InputError

Options = TypeVar("Options")

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


def combined(kind: type[Options], options: Options | None, fields: Mapping[str, Any]) -> Options:
    """Return an option object of ``kind``: the given one, or the defaults, with single fields replaced.

    Raises:
        InputError: ``options`` is something else, or a value is refused.
        TypeError: a field that there is not.
    """
    if options is not None and not isinstance(options, kind):
        raise InputError(
            f"options is a {kind.__name__}, not a {type(options).__name__}; give single options by their names."
        )
    known = [each.name for each in dataclasses.fields(kind)]  # pyright: ignore[reportArgumentType]
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(known)}."
            raise TypeError(f"There is no option {name!r}; {hint}")
    return kind(**fields) if options is None else dataclasses.replace(options, **fields)  # pyright: ignore


def require_valid(options: Any) -> None:
    """Check every field of an option object against its type, and a number against its least value.

    Raises:
        InputError: a field has a value of another kind; the message names its choices where it has any.
    """
    hints = get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value, hint, about = getattr(options, field.name), hints[field.name], meaning(field)
        if not _fits(value, hint):
            choices = [
                each
                for kind in (hint, *get_args(hint))
                if get_origin(kind) is Literal
                for each in get_args(kind)
            ]
            wanted = f"one of {', '.join(map(str, choices))}" if choices else _words(hint)
            raise InputError(f"{field.name} is {wanted}, not {value!r}.")
        if about is not None and about.least is not None and value is not None and not value >= about.least:
            raise InputError(f"{field.name} is {value}; it must be {about.least} or more.")


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value is of a type."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in arguments
    if kind in (Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if kind is tuple:
        if not isinstance(value, tuple | list):
            return False
        each = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return len(value) == len(each) and all(map(_fits, value, each))
    kind = kind or hint
    if kind in (int, float) or (kind is not bool and issubclass(kind, Rational)):
        wider = int if kind is int else Real
        return isinstance(value, wider) and not isinstance(value, bool)
    return isinstance(value, (str, os.PathLike) if kind is Path else kind)


def _words(hint: Any) -> str:
    """Return a type in words."""
    kinds = [each for each in get_args(hint) or (hint,) if each is not type(None)]
    if get_origin(hint) is tuple:
        return "a list" if Ellipsis in kinds else f"a tuple of {len(kinds)}"
    (kind, *_) = kinds
    if get_origin(kind) is tuple:
        return _words(kind)
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", Path: "a path"}
    return names.get(kind, "a number" if issubclass(kind, Rational) else f"a {kind.__name__}")

"""Settings files of runs, in TOML: the keys are the fields of the recipe's dataclass.

``phases`` lists ``STEPS:PATCH:BATCH``. Paths are relative to the file's folder. What is given beside the file, such as
options of the command line, goes before it.
"""

from __future__ import annotations

import difflib
import sys
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tomli_w

from ..base.errors import InputError
from ..base.files import atomic_write
from ..models import weights
from .options import Phase, TrainingRun

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

AnyRun = TypeVar("AnyRun", bound=TrainingRun)

#: Settings that may also be the name of shipped weights.
_WEIGHTS = ("start", "teacher")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}


def read_run(kind: type[AnyRun], file: Path | None, given: Mapping[str, Any]) -> AnyRun:
    """Make a run of the settings of a file and of ``given``, which go before them.

    Args:
        given: by the fields' names; None for what is not given.

    Raises:
        InputError: the file cannot be read, an unknown key, a value of another kind, a setting that is missing or that
            the recipe refuses.
    """
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    if file is not None:
        for key, value in _read(file).items():
            if key not in hints:
                near = difflib.get_close_matches(key, hints, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(hints)}."
                raise InputError(f"{file}: there is no setting {key!r} in this recipe; {hint}")
            values[key] = _setting(key, value, hints[key], f"{file}: {key}", file.parent)
    for key, value in given.items():
        if value is not None:
            values[key] = _setting(key, value, hints[key], key, Path())
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in values]
    if missing:
        raise InputError(
            f"{file or 'The run'}: {missing[0]} is missing; give it in the file or as an option."
        )
    return kind(**values)


def write_run(run: TrainingRun, path: Path) -> None:
    """Write the effective settings of ``run`` as a file for :func:`read_run`, paths absolute."""
    values = {f.name: _plain(getattr(run, f.name)) for f in fields(run)}
    with atomic_write(path) as temporary:
        temporary.write_text(tomli_w.dumps({k: v for k, v in values.items() if v is not None}), "utf-8")


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as f:
            return tomllib.load(f)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no TOML: {error}") from error


def _setting(key: str, value: Any, hint: Any, where: str, folder: Path) -> Any:
    converted = _convert(value, hint, where, folder)
    if key in _WEIGHTS and not converted.is_file():
        return weights.shipped(str(value)) or converted
    return converted


def _convert(value: Any, hint: Any, where: str, folder: Path) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    if get_origin(hint) is Literal:
        hint = type(get_args(hint)[0])
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where} is {value!r}; it must be a list.")
        return tuple(_convert(each, get_args(hint)[0], where, folder) for each in value)
    if hint is Phase:
        return Phase.parse(value) if isinstance(value, str) else value
    if hint is Path:
        if not isinstance(value, str | Path):
            raise InputError(f"{where} is {value!r}; it must be a path.")
        return folder / Path(value).expanduser()
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        raise InputError(f"{where} is {value!r}; it must be {_WORDS[hint]}.")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value.absolute())
    return str(value) if isinstance(value, Phase) else value

"""Options of the command line, made from option objects."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from ..base.options import Meaning, meaning
from .values import network_options


def with_options(**kinds: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb an option for every field of the option objects that it takes.

    Args:
        kinds: by the verb's parameter, the dataclass (fields declared by :func:`base.options.option`) that it gets an
            object of. What the dataclass refuses reaches the user as its InputError. A field that several of them
            have from one base is one option.
    """
    return _expanding(kinds, lambda kind, given: kind(**given), all_given=True)


def with_settings(**kinds: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb an option for every field, and hand it a dict of those that were given, by the fields' names: for
    verbs whose options go before the settings of a file."""
    return _expanding(kinds, lambda kind, given: given, all_given=False)


def _expanding(
    kinds: dict[str, type[Any]], make: Callable[[type[Any], dict[str, Any]], Any], all_given: bool
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def expand(verb: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(verb, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for name, parameter in signature.parameters.items():
            if name in kinds:
                known = {each.name for each in parameters}
                parameters += [each for each in _parameters(kinds[name], all_given) if each.name not in known]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

        @functools.wraps(verb)
        def command(**given: Any) -> None:
            objects = {}
            for name, kind in kinds.items():
                values = {each.name: given[each.name] for each in _options(kind)}
                values = {
                    key: _converted(_hints(kind)[key], value)
                    for key, value in values.items()
                    if all_given or value not in (None, [], ())
                }
                objects[name] = make(kind, values)
            verb(**{name: given[name] for name in signature.parameters if name not in kinds}, **objects)

        command.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return expand


def _options(kind: type[Any]) -> list[dataclasses.Field[Any]]:
    return [each for each in dataclasses.fields(kind) if meaning(each) is not None]


@functools.cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    # Typer lets users choose among texts alone: a Literal of numbers is a number, which the object refuses or takes.
    hints = get_type_hints(kind)
    return {name: int if int in map(type, get_args(hint)) else hint for name, hint in hints.items()}


def _many(hint: Any) -> Any:
    """Return what a ``tuple[X, ...]`` is of; None for another type."""
    return get_args(hint)[0] if get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis else None


def _converted(hint: Any, value: Any) -> Any:
    """Return an option's value of the field's type; typer gives lists for all that may be repeated."""
    if _is_mapping(hint):
        return network_options(value or [])
    return value if _many(hint) is None else tuple(value or ())


def _is_mapping(hint: Any) -> bool:
    """Tell whether an option is a mapping, which is given as ``NAME=VALUE`` several times."""
    return any(get_origin(each) is Mapping for each in (hint, *get_args(hint)))


def _parameters(kind: type[Any], all_given: bool) -> list[inspect.Parameter]:
    parameters = []
    for field in _options(kind):
        about = meaning(field)
        hint: Any = _hints(kind)[field.name]
        assert about is not None
        default: Any = field.default if all_given else None
        if _is_mapping(hint):
            hint, default = list[str], None
        elif (each := _many(hint)) is not None:
            # What is parsed has the parser's type; typer would read a size's tuple as two values.
            hint = list[str] if about.parse else list[each]
            default = list(default) or None if default else None
        elif about.parse:
            hint = str
        if default is None and type(None) not in get_args(hint):
            hint = hint | None
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[hint, _typer_option(field, about, all_given)],
            )
        )
    return parameters


def _typer_option(field: dataclasses.Field[Any], about: Meaning, all_given: bool) -> Any:
    flags = about.flags or (f"--{field.name.replace('_', '-')}",)
    shown: Any = about.shown if about.shown is not None else True
    if not all_given and about.shown is None and field.default not in (None, dataclasses.MISSING, (), False):
        shown = str(field.default)
    return typer.Option(
        *flags,
        help=about.help,
        metavar=about.metavar,
        min=about.least,
        max=about.most,
        parser=None if about.parse is None else _parser(about.parse),
        show_default=shown,
    )


def _parser(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    @functools.wraps(parse)
    def parsed(text: Any) -> Any:
        # A default is parsed, too, and is a value already.
        if not isinstance(text, str):
            return text
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parsed

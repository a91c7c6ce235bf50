"""Values of options that several verbs take."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple

import typer

from ..base.sizes import parse_size
from .terminal import printable

#: Of every verb that opens engine files.
Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="SHA256",
        help="The hash of an engine file for a GPU that was built by somebody else, or elsewhere, and may run all "
        "the same; may be repeated.",
    ),
]

#: Of verbs that use an engine, which is ``sid-lite`` by default.
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        "-e",
        help="An engine file, or the name of shipped weights, whose engine is built at the first use and kept.",
    ),
]

#: Of verbs that prepare kernels.
KernelModels = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="A model file, or the name of shipped weights or of a preset; may be repeated.",
        show_default="the presets of SSID-KD",
    ),
]
KernelPrecision = Annotated[
    Literal["fp16", "bf16"], typer.Option(help="Of maps and weights; sums are in fp32.")
]

#: Of verbs that read model files.
NetworkOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="An option of the network that its weights do not tell, such as pyramid=maxpool; may be repeated.",
    ),
]
ArchitectureName = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="NAME",
        help="The network's architecture, such as prenet-lstm, where its weights do not tell.",
    ),
]


class Sides(NamedTuple):
    """The sides of a frame in pixels, as typer takes them; elsewhere they are a ``base.sizes.Size``."""

    height: int
    width: int


def frame_size(text: str) -> Sides:
    """Read ``HxW``. Raises typer.BadParameter for anything else."""
    try:
        return Sides(*parse_size(text))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def sized(help: str, default: str | bool = True, *flags: str) -> Any:
    """Return an option whose value is a frame's size; ``default`` is shown for it."""
    return typer.Option(*flags, parser=frame_size, metavar="HxW", help=help, show_default=default)


def width_and_height(text: str) -> Sides:
    """Read ``WxH``, as programs for video write it. Raises typer.BadParameter for anything else."""
    sides = re.fullmatch(r"([0-9]{1,6})[xX]([0-9]{1,6})", text)
    if sides is None or not int(sides[1]) or not int(sides[2]):
        raise typer.BadParameter(f"{text!r} is not WxH in pixels, such as 1280x720.")
    return Sides(height=int(sides[2]), width=int(sides[1]))


def rate(text: str) -> Fraction:
    """Read ``25``, ``29.97`` or ``30000/1001``. Raises typer.BadParameter for anything else, and for 0."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if value <= 0:
        raise typer.BadParameter(f"{text!r} is no rate; write frames a second, such as 25 or 30000/1001.")
    return value


def tile_side(text: str) -> Literal["auto"] | int:
    """Read ``auto``, 0 or a number of pixels. Raises typer.BadParameter for anything else."""
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise typer.BadParameter(f"--tile takes auto, 0 or a number of pixels, not {printable(text)}.")
    return int(text)


def network_options(pairs: list[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE`` each, values as JSON where they are. Raises typer.BadParameter for anything else, or a name
    given twice."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE, such as pyramid=maxpool.")
        if name in options:
            raise typer.BadParameter(f"The option {name} is given twice.")
        try:
            options[name] = json.loads(text)  # numbers, true, false
        except (ValueError, RecursionError):
            options[name] = text
    return options

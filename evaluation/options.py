"""The options of an evaluation, and the protocols that it knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..base.options import option, require_valid
from ..models.spec import ColourChoice

#: What becomes of an output before it is measured.
EvaluationProtocol = Literal["float", "rounded", "truncated"]
PROTOCOLS: tuple[EvaluationProtocol, ...] = get_args(EvaluationProtocol)


@dataclass(frozen=True)
class EvaluateOptions:
    """The ways in which pictures and videos are cleaned and measured.

    ``colour_order``, ``network_options`` and ``arch`` are of the evaluated model, where that is a weights file, as for
    ``load_checkpoint`` (whose ``options`` are the network's).

    Raises:
        InputError: no such protocol.
    """

    native: bool = option(
        False,
        flags=("--native",),
        help="Run models without padding, as papers do; not for engine files.",
    )
    colour_order: ColourChoice = option(
        "auto", help="Channel order of the images that a model file was trained on."
    )
    network_options: Mapping[str, Any] | None = None
    arch: str | None = None
    protocol: EvaluationProtocol = option(
        "float",
        help="What becomes of the output before it is measured: clamped only, or also rounded or truncated to 8 "
        "bits. Deraining papers mostly print Y of truncated output.",
    )
    published: str | None = option(
        None,
        metavar="NAME",
        help="The data set that the pictures are of, such as Rain200H, whose published figures are shown; by "
        "default it is recognised by the folder's name.",
    )
    sheet: Path | None = option(
        None, metavar="FILE", help="Draw the best and the worst cases on this picture."
    )

    def __post_init__(self) -> None:
        require_valid(self)

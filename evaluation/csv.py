"""An evaluation as CSV: one line a picture, or one a video."""

from __future__ import annotations

import csv
import io
import math

from ..base.errors import InputError
from .evaluate import Evaluation


def as_csv(result: Evaluation) -> str:
    """Write a header and lines with all digits and the name of the protocol; empty where a figure is not defined,
    ``inf`` for equal pictures.

    Raises:
        InputError: it has pictures and videos, which have different columns.
    """
    if result.pictures and result.clips:
        raise InputError(
            "Pictures and videos have different columns; evaluate them one after the other for CSV."
        )
    who = ["out", "rival"] if result.rival is not None else ["out"]
    if result.clips:
        heads = ["video", "protocol", "transitions", "source"]
        heads += [f"{what}_{each}" for each in who for what in ("output", "residual", "relative")]
        rows = [
            [name, result.protocol, each[0].transitions, _cell(each[0].source)]
            + [_cell(v) for flicker in each for v in (flicker.output, flicker.residual, flicker.relative)]
            for name, each in result.clips.items()
        ]
    else:
        heads = ["picture", "height", "width", "protocol"]
        heads += [f"{figure}_{each}" for figure in result.figures for each in ("in", *who)]
        rows = [
            [name, *result.sizes[name], result.protocol]
            + [_cell(values[figure]) for figure in result.figures for values in scores.columns]
            for name, scores in result.pictures.items()
        ]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([heads, *rows])
    return file.getvalue()


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(value)

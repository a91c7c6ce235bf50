"""An evaluation as CSV: one line a picture, or one a video."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from ..base.errors import InputError
from .evaluate import Evaluation


def as_csv(result: Evaluation) -> str:
    """With a header, all digits and the name of the protocol; empty where a figure is not defined, ``inf`` for equal
    pictures.

    Raises:
        InputError: it has pictures and videos, which have different columns.
    """
    if result.pictures and result.clips:
        raise InputError(
            "Pictures and videos have different columns; evaluate them one after the other for CSV."
        )
    who = ["in", "out", *(["rival"] if result.rival is not None else [])]
    if result.clips:
        heads = [
            *("video", "protocol", "transitions", "source"),
            *(f"{what}_{each}" for each in who[1:] for what in ("output", "residual", "relative")),
        ]
        rows = [
            [
                *(name, result.protocol, each[0].transitions, _cell(each[0].source)),
                *(_cell(v) for flicker in each for v in (flicker.output, flicker.residual, flicker.relative)),
            ]
            for name, each in result.clips.items()
        ]
    else:
        heads = [
            "picture",
            *("height", "width", "protocol"),
            *(f"{figure}_{each}" for figure in result.figures for each in who),
        ]
        rows = []
        for name, each in result.pictures.items():
            columns = [each.rainy, each.output, *([each.rival] if each.rival is not None else [])]
            figures = [_cell(column[figure]) for figure in result.figures for column in columns]
            rows.append([name, *result.sizes[name], result.protocol, *figures])
    return _write(heads, rows)


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def _write(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return file.getvalue()

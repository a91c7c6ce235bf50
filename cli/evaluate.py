"""``eval``: how much closer to the truth a model brings rainy pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .progress import progress_bar
from .tables import show_columns
from .terminal import say
from .values import Trust

if TYPE_CHECKING:
    from ..engine.evaluate import Comparison, Quality

_EXAMPLES = """Examples:

\b
derain-engine eval sid-lite --rainy test/rainy --clean test/clean
derain-engine eval model.derain --rainy test/rainy --clean test/clean --json > scores.json
derain-engine eval model.pt --rainy test/rainy --clean test/clean --native
derain-engine eval opening --rainy test/rainy --clean test/clean
"""

_FIGURES = (("PSNR", "psnr", 2), ("SSIM", "ssim", 4), ("PSNR Y", "psnr_y", 2), ("SSIM Y", "ssim_y", 4))


def register(app: typer.Typer) -> None:
    app.command("eval", epilog=_EXAMPLES)(_evaluate)


def _evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_ENGINE",
            help="An engine file; a model file, which the reference network runs in fp32; the name of shipped "
            "weights, for their engine; or 'opening', a 5x5 morphological opening to compare with.",
        ),
    ],
    rainy: Annotated[Path, typer.Option(help="Folder of rainy pictures.")],
    clean: Annotated[
        Path, typer.Option(help="Folder of the same pictures without rain, under the same names.")
    ],
    native: Annotated[
        bool,
        typer.Option("--native", help="Run the model without padding, as papers do; not for engine files."),
    ] = False,
    colour_order: Annotated[
        Literal["auto", "rgb", "bgr"],
        typer.Option(help="Channel order of the images that a model file was trained on."),
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    trust: Trust = None,
) -> None:
    """Measure PSNR and SSIM of rainy pictures and of the clean ones made from them, over RGB and over luma (Y).

    The output is clamped to [0, 1] and not rounded to 8 bits.
    """
    from ..engine.evaluate import evaluate

    with progress_bar() as progress:
        result = evaluate(
            model,
            rainy,
            clean,
            native=native,
            colour_order=colour_order,
            trust=trust or (),
            progress=progress,
        )
    if as_json:
        say(json.dumps(result.to_json(), allow_nan=False))
        return
    heads = ["Picture", *(f"{head}\n{which}" for head, _, _ in _FIGURES for which in ("in", "out"))]
    mean = result.mean
    gains = [text for figure in _FIGURES for text in ("", _text(mean.gain, *figure[1:], sign="+"))]
    show_columns(
        heads,
        [[name, *_cells(each)] for name, each in result.pictures.items()],
        summary=[[f"Mean of {len(result.pictures)}", *_cells(mean)], ["Gain", *gains]],
    )
    say(f"{result.subject} ({result.method}); PSNR in dB, values in float32 clamped to [0, 1].")


def _cells(comparison: Comparison) -> list[str]:
    return [
        _text(quality, field, digits)
        for _, field, digits in _FIGURES
        for quality in (comparison.rainy, comparison.output)
    ]


def _text(quality: Quality, field: str, digits: int, *, sign: str = "") -> str:
    value = getattr(quality, field)
    return "-" if math.isnan(value) else f"{value:{sign}.{digits}f}"

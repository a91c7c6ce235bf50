"""The verb ``eval``: what a model makes of rainy pictures and videos, in figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..evaluation.options import EvaluateOptions
from .options import with_options
from .progress import progress_bar
from .terminal import note, note_building, say, say_json, say_lines, show_columns
from .values import ArchitectureName, NetworkOptions, Trust, network_options

if TYPE_CHECKING:
    from ..evaluation.evaluate import Evaluation, Scores, SetResult
    from ..evaluation.figures import Values

EXAMPLES = """
derain-engine eval sid-lite --rainy test/rainy --clean test/clean
derain-engine eval sid-lite --rainy photos/ --sheet sheet.png
derain-engine eval model.derain --rainy test/rainy --clean test/clean --json > scores.json
derain-engine eval net_latest.pth --rainy test/rainy --clean test/clean --native --protocol truncated
derain-engine eval new.derain --against sid-lite --rainy a/rainy --clean a/clean --rainy b/rainy --clean b/clean
derain-engine eval sid-lite --video rain.mp4
derain-engine eval clean.mp4 --video rain.mp4
derain-engine eval opening --rainy test/rainy --clean test/clean
"""


@with_options(options=EvaluateOptions)
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_ENGINE",
            help="An engine file; a model file, which the reference network runs in fp32; the name of shipped "
            "weights, for their engine; 'opening', a 5x5 morphological opening to compare with; or what is clean "
            "already: a folder of pictures with the names of the rainy ones, or a video.",
        ),
    ],
    rainy: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Folder of rainy pictures; may be repeated.")
    ] = None,
    clean: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the same pictures without rain, under the same names, one for each --rainy. Without it, "
            "NIQE is measured, which needs no truth.",
        ),
    ] = None,
    video: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Rainy video to measure temporal flicker on; may be repeated."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL_OR_ENGINE",
            help="Measure this one too, and give the mean lead over it with its 95 % bootstrap interval.",
        ),
    ] = None,
    option: NetworkOptions = None,
    arch: ArchitectureName = None,
    *,
    options: EvaluateOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one line a picture or video.")] = False,
    trust: Trust = None,
) -> None:
    """Measure rainy pictures and what a model makes of them, or the flicker of video.

    With a truth: PSNR and SSIM over RGB and over luma (Y). Without: NIQE. Always the mean of the dark channel, which
    rain and haze raise. Every figure is given with the protocol that it was measured under. Pictures that cannot be
    measured are named at the end (exit code 5).
    """
    from ..evaluation.csv import as_csv as write_csv
    from ..evaluation.evaluate import evaluate as measure

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other.")
    if not rainy and not video:
        raise typer.BadParameter("Give --rainy, --video or both.")
    if as_csv and rainy and video:
        raise typer.BadParameter(
            "--csv is of pictures or of videos; --rainy and --video exclude each other there."
        )
    with progress_bar() as progress:
        result = measure(
            model,
            rainy or (),
            clean,
            videos=video or (),
            against=against,
            options=replace(options, network_options=network_options(option or []), arch=arch),
            trust=trust or (),
            building=note_building,
            progress=progress,
        )
    if as_json:
        say_json(result.to_json())
    elif as_csv:
        say_lines(write_csv(result))
    else:
        _show(result)
    broken = [b for flickers in result.clips.values() for b in flickers[0].broken]
    for each in (*(failure.error for failure in result.failures), *broken):
        note(each)
    if result.failures:
        total = len(result.pictures) + len(result.clips) + len(result.failures)
        note(f"{len(result.failures)} of {total} pictures and videos failed.")
    if result.failures or broken:
        raise typer.Exit(5)


def _show(result: Evaluation) -> None:
    from ..evaluation.figures import describe_protocol

    if result.pictures:
        _show_pictures(result)
        for figure in result.figures:
            if missing := result.undefined(figure):
                say(f"{_head(figure)} is not defined for {', '.join(missing)}; left out of its mean.")
    if result.rival is not None and result.pictures:
        _show_lead(result)
    for each in result.sets:
        _show_published(result, each)
    if result.clips:
        _show_clips(result)
    say(f"{result.subject}: {result.method}.")
    if result.rival is not None:
        say(f"Rival, {result.rival}: {result.rival_method}.")
    words = describe_protocol(result.protocol, result.figures if result.pictures else ())
    say(f"Protocol {words['name']}: {words['values']}; cropped: {words['crop']}.")
    for figure in result.figures if result.pictures else ():
        say(f"  {_head(figure)}: {words[figure]}.")


def _show_pictures(result: Evaluation) -> None:
    columns = ["in", "out", *(["rival"] if result.rival is not None else [])]
    summary = []
    several = len(result.sets) > 1
    for each in result.sets if several else ():
        if each.pictures:
            mean = result.mean_of(each.pictures)
            summary.append([f"Mean of {len(each.pictures)}, {each.name}", *_cells(result, mean)])
    mean = result.mean
    summary.append([f"Mean of {len(result.pictures)}", *_cells(result, mean)])
    gains = [
        cell for f in result.figures for cell in ("", _text(f, mean.gain, "+"), *[""] * len(columns[2:]))
    ]
    show_columns(
        ["Picture", *(f"{_head(figure)}\n{which}" for figure in result.figures for which in columns)],
        [[name, *_cells(result, each)] for name, each in result.pictures.items()],
        summary=[*summary, ["Gain", *gains]],
    )


def _cells(result: Evaluation, scores: Scores) -> list[str]:
    return [_text(figure, values) for figure in result.figures for values in scores.columns]


def _show_lead(result: Evaluation) -> None:
    from ..evaluation.figures import FIGURES, text

    rows = [
        [
            f"{_head(name)} ({'more' if FIGURES[name].rises else 'less'} is better)",
            *(text(name, value, sign="+") for value in (each.mean, each.low, each.high)),
            str(each.pictures),
        ]
        for name, each in result.lead().items()
    ]
    show_columns([f"Lead over {result.rival}", "mean", "95 % from", "to", "pictures"], rows)
    say("Intervals: paired bootstrap over the pictures, percentiles of 10 000 draws, seeded.")


def _show_published(result: Evaluation, part: SetResult) -> None:
    if part.data_set is None or not part.pictures:
        return
    mean = result.mean_of(part.pictures)
    for table in part.data_set.compared(result.figures):
        ours = [("Here, rainy", mean.rainy), (f"Here, {result.subject}", mean.output)]
        if mean.rival is not None:
            ours.append((f"Here, {result.rival}", mean.rival))
        show_columns(
            [part.data_set.name, *(_head(figure) for figure in table.figures)],
            [
                *([name, *(_text(figure, values) for figure in table.figures)] for name, values in ours),
                *([row.method, *row.printed] for row in table.rows),
            ],
        )
        say(f"Here: {part.share} of {part.data_set.name}, protocol {result.protocol}.")
        say(f"Published: {table.source}; protocol: {table.protocol}.")


def _show_clips(result: Evaluation) -> None:
    who = ["out", *(["rival"] if result.rival is not None else [])]
    heads = [f"{what}\n{each}" for each in who for what in ("Output", "Residual", "Residual / source")]
    show_columns(
        ["Video", "Transitions", "Source\nin", *heads],
        [
            [
                name,
                str(each[0].transitions),
                f"{each[0].source:.3f}",
                *(f"{v:.3f}" for f in each for v in (f.output, f.residual, f.relative)),
            ]
            for name, each in result.clips.items()
        ],
    )
    say(
        "Flicker: mean absolute difference of consecutive frames in levels of 1/255, over RGB; the residual is source "
        "less output."
    )


def _head(figure: str) -> str:
    from ..evaluation.figures import FIGURES

    return FIGURES[figure].head


def _text(figure: str, values: Values, sign: str = "") -> str:
    from ..evaluation.figures import text

    return text(figure, values[figure], sign=sign)

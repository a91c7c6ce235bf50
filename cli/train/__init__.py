"""``train``: weights from photographs, one verb a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import (
    Accumulate,
    Compile,
    Config,
    Device,
    Exclude,
    Out,
    Pairs,
    Photos,
    Precision,
    Resume,
    SamplesEvery,
    Seed,
    Start,
    StopAfter,
    Threads,
    ValidateEvery,
    ValidationPhotos,
    Workers,
)
from .run import require_training, run_training
from .semi_derain_gan import EXAMPLES, train_semi_derain_gan

_SID_EXAMPLES = """Examples:

\b
derain-engine train sid --photos photos/ -o runs/lite
derain-engine train sid --photos photos/ -o runs/lite --resume
derain-engine train sid --photos photos/ -o runs/finer --from sid-lite \\
    --learning-rate 2e-4 --phase 4000:128:8
derain-engine train sid --photos photos/ -o runs/distilled --teacher runs/sid/best.safetensors
derain-engine train sid --photos bsds500/ --exclude overlap.csv -o runs/sid --preset sid \\
    --phase 20000:64:16 --phase 10000:128:16 --device cuda --workers 12 --stop-after 420
torchrun --nproc-per-node 2 --no-python derain-engine train sid --photos photos/ -o runs/two
"""

_SSID_KD_EXAMPLES = """Examples:

\b
derain-engine train ssid-kd --pairs Rain200H/train -o runs/teacher
derain-engine train ssid-kd --stage 2 --pairs Rain200H/train --real real/ \\
    --from runs/teacher/final.safetensors -o runs/student
derain-engine train ssid-kd --config run.toml
derain-engine train ssid-kd --config run.toml --kl-reduction pixel --kl-weight 1 -o runs/rescaled
derain-engine train ssid-kd --config runs/rescaled/run.toml --resume
"""


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="Train a network by one of the recipes.", no_args_is_help=True, rich_markup_mode=None
    )
    group.callback()(lambda: None)
    group.command("sid", epilog=_SID_EXAMPLES)(_train_sid)
    group.command("ssid-kd", epilog=_SSID_KD_EXAMPLES)(_train_ssid_kd)
    group.command("semi-derain-gan", epilog=EXAMPLES)(train_semi_derain_gan)
    app.add_typer(group, name="train")


def _train_sid(
    config: Config = None,
    photos: Photos = None,
    output: Out = None,
    exclude: Exclude = None,
    pairs: Pairs = None,
    preset: Annotated[
        str | None, typer.Option(help="Size of the network: sid or sid-lite.", show_default="sid-lite")
    ] = None,
    start: Start = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Weights of a trained network, mostly a larger one, that supervises beside the truth (distillation).",
        ),
    ] = None,
    teacher_weight: Annotated[
        float | None,
        typer.Option(min=0, help="Of the difference to the teacher's clean pictures.", show_default="5"),
    ] = None,
    code_weight: Annotated[
        float | None, typer.Option(min=0, help="Of the distance to the teacher's codes.", show_default="0.1")
    ] = None,
    phases: Annotated[
        list[str] | None,
        typer.Option(
            "--phase",
            metavar="STEPS:PATCH:BATCH",
            help="A stretch of training with square patches of PATCH pixels, BATCH at a time; repeat it for "
            "several, one after the other.",
            show_default="12000:64:8, then 6000:128:8",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Highest rate of the schedule: a warm-up, then half a cosine.", show_default="0.001"
        ),
    ] = None,
    accumulate: Accumulate = None,
    validation_photos: ValidationPhotos = None,
    validate_every: ValidateEvery = None,
    samples_every: SamplesEvery = None,
    seed: Seed = None,
    precision: Precision = None,
    device: Device = None,
    compile: Compile = False,
    workers: Workers = None,
    threads: Threads = None,
    resume: Resume = False,
    stop_after: StopAfter = None,
) -> None:
    """Train a SID network on clean photographs under synthetic rain, or on pairs.

    The best weights by PSNR on held-out pictures are kept as best.safetensors, which build and eval take.
    """
    given = locals()
    require_training()
    from ...training.sid import SidRun, train_sid

    run_training(SidRun, train_sid, given)


def _train_ssid_kd(
    config: Config = None,
    stage: Annotated[
        int | None,
        typer.Option(
            help="1: on pairs or photographs (eq. 6). 2: from there, with real rain beside them (eq. 7 to 11).",
            show_default="1",
        ),
    ] = None,
    recipe: Annotated[
        Literal["official", "paper"] | None,
        typer.Option(help="What the published code does, or what the paper prints.", show_default="official"),
    ] = None,
    pairs: Pairs = None,
    photos: Photos = None,
    output: Out = None,
    exclude: Exclude = None,
    real: Annotated[
        Path | None, typer.Option(help="Stage 2: folder of pictures in real rain, without a truth.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Size of the network: sid or sid-lite.", show_default="sid")
    ] = None,
    start: Start = None,
    kl_weight: Annotated[
        float | None, typer.Option(min=0, help="Of the divergence of the codes, eq. 8.", show_default="1e-06")
    ] = None,
    kl_reduction: Annotated[
        Literal["mean", "batchmean", "pixel"] | None,
        typer.Option(help="What its sum is divided by: all values, pictures or pixels.", show_default="mean"),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Each as many steps as the pictures fill batches.", show_default="520 or 10"
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps in all, instead of epochs.")] = None,
    patch: Annotated[
        int | None, typer.Option(help="Side of the patches in pixels.", show_default="120 or 128")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Patches of a step.", show_default="12 or 2")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the beginning.", show_default="of stage and recipe")
    ] = None,
    accumulate: Accumulate = None,
    validation_photos: ValidationPhotos = None,
    validate_every: ValidateEvery = None,
    samples_every: SamplesEvery = None,
    seed: Seed = None,
    precision: Precision = None,
    device: Device = None,
    compile: Compile = False,
    workers: Workers = None,
    threads: Threads = None,
    resume: Resume = False,
    stop_after: StopAfter = None,
) -> None:
    """Train by the two stages of the SSID-KD paper, one stage a run."""
    given = locals()
    require_training()
    from ...training.ssid_kd import SsidKdRun, train_ssid_kd

    run_training(SsidKdRun, train_ssid_kd, given)

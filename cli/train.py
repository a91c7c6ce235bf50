"""``train``: weights from photographs, one verb a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .train_run import require_training, run_training

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

_Config = Annotated[
    Path | None,
    typer.Option(
        metavar="TOML",
        help="Settings of the run; options go before them. Paths in it are relative to it.",
    ),
]
_Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder for best.safetensors, final.safetensors, last.pt, log.csv, run.toml and samples; made if missing.",
    ),
]
_Photos = Annotated[
    Path | None, typer.Option(help="Folder of clean photographs, searched with its subfolders.")
]
_Exclude = Annotated[
    Path | None,
    typer.Option(
        metavar="CSV",
        help="Table of photographs to leave out: file names in its first column, relative to the table.",
    ),
]
_Pairs = Annotated[
    Path | None,
    typer.Option(
        help="Folder of rainy and clean pictures, laid out as Rain100, Rain200, Rain1200, Rain1400 or SPA are, or a "
        "list of them."
    ),
]
_Start = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="FILE|NAME", help="Weights to begin with, also shipped ones; random ones without."
    ),
]
_Accumulate = Annotated[
    int | None,
    typer.Option(min=1, help="Parts that a batch is computed in, for less memory.", show_default="1"),
]
_ValidationPhotos = Annotated[
    int | None,
    typer.Option(
        min=1, help="Photographs or pairs kept apart to choose the best weights by.", show_default="16"
    ),
]
_ValidateEvery = Annotated[
    int | None,
    typer.Option(min=1, help="Steps between validations; the state is saved then.", show_default="1000"),
]
_SamplesEvery = Annotated[
    int | None,
    typer.Option(min=0, help="Steps between pictures of samples; 0 for none.", show_default="1000"),
]
_Seed = Annotated[int | None, typer.Option(min=0, help="Of weights, patches and rain.", show_default="66")]
_Precision = Annotated[
    Literal["auto", "fp32", "bf16"] | None,
    typer.Option(help="auto takes bf16 where the device computes in it.", show_default="auto"),
]
_Device = Annotated[
    Literal["auto", "cpu", "cuda"] | None,
    typer.Option(help="auto takes a CUDA GPU where there is one.", show_default="auto"),
]
_Compile = Annotated[
    bool,
    typer.Option("--compile", help="Put the network's blocks through torch.compile; the start is slower."),
]
_Workers = Annotated[
    int | None, typer.Option(min=0, help="Processes that prepare patches.", show_default="1")
]
_Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of the network.", show_default="all cores")
]
_Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last saved state in the output folder.")
]
_StopAfter = Annotated[
    float | None,
    typer.Option(min=0, metavar="SECONDS", help="Save and leave after these; --resume goes on."),
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="Train a network by one of the recipes.", no_args_is_help=True, rich_markup_mode=None
    )
    group.callback()(lambda: None)
    group.command("sid", epilog=_SID_EXAMPLES)(_train_sid)
    group.command("ssid-kd", epilog=_SSID_KD_EXAMPLES)(_train_ssid_kd)
    app.add_typer(group, name="train")


def _train_sid(
    config: _Config = None,
    photos: _Photos = None,
    out: _Out = None,
    exclude: _Exclude = None,
    pairs: _Pairs = None,
    preset: Annotated[
        str | None, typer.Option(help="Size of the network: sid or sid-lite.", show_default="sid-lite")
    ] = None,
    start: _Start = None,
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
    accumulate: _Accumulate = None,
    validation_photos: _ValidationPhotos = None,
    validate_every: _ValidateEvery = None,
    samples_every: _SamplesEvery = None,
    seed: _Seed = None,
    precision: _Precision = None,
    device: _Device = None,
    compile_blocks: _Compile = False,
    workers: _Workers = None,
    threads: _Threads = None,
    resume: _Resume = False,
    stop_after: _StopAfter = None,
) -> None:
    """Train a SID network on clean photographs under synthetic rain, or on pairs.

    The best weights by PSNR on held-out pictures are kept as best.safetensors, which build and eval take.
    """
    require_training()
    from ..training.sid import SidRun, train_sid

    given = {
        "photos": photos,
        "output": out,
        "exclude": exclude,
        "pairs": pairs,
        "preset": preset,
        "start": start,
        "teacher": teacher,
        "teacher_weight": teacher_weight,
        "code_weight": code_weight,
        "phases": phases or None,
        "learning_rate": learning_rate,
        "accumulate": accumulate,
        "validation_photos": validation_photos,
        "validate_every": validate_every,
        "samples_every": samples_every,
        "seed": seed,
        "precision": precision,
        "device": device,
        "compile": compile_blocks or None,
        "workers": workers,
    }
    run_training(SidRun, train_sid, config, given, threads=threads, resume=resume, stop_after=stop_after)


def _train_ssid_kd(
    config: _Config = None,
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
    pairs: _Pairs = None,
    photos: _Photos = None,
    out: _Out = None,
    exclude: _Exclude = None,
    real: Annotated[
        Path | None, typer.Option(help="Stage 2: folder of pictures in real rain, without a truth.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Size of the network: sid or sid-lite.", show_default="sid")
    ] = None,
    start: _Start = None,
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
    accumulate: _Accumulate = None,
    validation_photos: _ValidationPhotos = None,
    validate_every: _ValidateEvery = None,
    samples_every: _SamplesEvery = None,
    seed: _Seed = None,
    precision: _Precision = None,
    device: _Device = None,
    compile_blocks: _Compile = False,
    workers: _Workers = None,
    threads: _Threads = None,
    resume: _Resume = False,
    stop_after: _StopAfter = None,
) -> None:
    """Train by the two stages of the SSID-KD paper, one stage a run."""
    require_training()
    from ..training.ssid_kd import SsidKdRun, train_ssid_kd

    given = {
        "stage": stage,
        "recipe": recipe,
        "pairs": pairs,
        "photos": photos,
        "output": out,
        "exclude": exclude,
        "real": real,
        "preset": preset,
        "start": start,
        "kl_weight": kl_weight,
        "kl_reduction": kl_reduction,
        "epochs": epochs,
        "steps": steps,
        "patch": patch,
        "batch": batch,
        "learning_rate": learning_rate,
        "accumulate": accumulate,
        "validation_photos": validation_photos,
        "validate_every": validate_every,
        "samples_every": samples_every,
        "seed": seed,
        "precision": precision,
        "device": device,
        "compile": compile_blocks or None,
        "workers": workers,
    }
    run_training(
        SsidKdRun, train_ssid_kd, config, given, threads=threads, resume=resume, stop_after=stop_after
    )

"""``train``: weights from clean photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from .progress import progress_bar
from .terminal import show_table

_EXAMPLES = """Examples:

\b
derain-engine train sid --photos photos/ -o runs/lite
derain-engine train sid --photos photos/ -o runs/lite --resume
derain-engine train sid --photos photos/ -o runs/finer --from runs/lite/best.safetensors \\
    --learning-rate 2e-4 --phase 4000:128:8
derain-engine train sid --photos bsds500/ --exclude overlap.csv -o runs/sid --preset sid \\
    --phase 20000:64:16 --phase 10000:128:16 --device cuda
"""


class _Phase(NamedTuple):
    steps: int
    patch: int
    batch: int


def _phase(text: str) -> _Phase:
    try:
        steps, patch, batch = (int(part) for part in text.split(":"))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not STEPS:PATCH:BATCH, such as 12000:64:8.") from None
    if min(steps, patch, batch) < 1:
        raise typer.BadParameter(f"{text!r} has a number below 1.")
    return _Phase(steps, patch, batch)


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="Train a network by one of the recipes.", no_args_is_help=True, rich_markup_mode=None
    )
    group.callback()(lambda: None)
    group.command("sid", epilog=_EXAMPLES)(_train_sid)
    app.add_typer(group, name="train")


def _train_sid(
    photos: Annotated[Path, typer.Option(help="Folder of clean photographs, searched with its subfolders.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for best.safetensors, last.pt and log.csv; made if missing."
        ),
    ],
    exclude: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Table of photographs to leave out: file names in its first column, relative to the table.",
        ),
    ] = None,
    preset: Annotated[str, typer.Option(help="Size of the network: sid or sid-lite.")] = "sid-lite",
    start: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Weights to begin with; random ones without."),
    ] = None,
    phases: Annotated[
        list[_Phase] | None,
        typer.Option(
            "--phase",
            parser=_phase,
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
    validation_photos: Annotated[
        int | None,
        typer.Option(min=1, help="Photographs kept apart to choose the best weights by.", show_default="16"),
    ] = None,
    validate_every: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between validations; the state is saved then.", show_default="1000"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of weights, patches and rain.", show_default="66")
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="auto takes bf16 where the device computes in it.")
    ] = "auto",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a CUDA GPU where there is one.")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that prepare patches.", show_default="1")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the network.", show_default="all cores")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last saved state in the output folder.")
    ] = False,
) -> None:
    """Train a SID network on clean photographs under synthetic rain.

    The best weights by PSNR on held-out photographs are kept as best.safetensors, which build and eval take.
    """
    from ..engine.errors import BackendUnavailable

    try:
        import torch

        from ..training.sid import Phase, Progress, SidRun, train_sid
    except ImportError as error:
        raise BackendUnavailable(
            f"Training needs {error.name}, which is not installed: pip install 'derain-engine[train]'."
        ) from error

    if threads is not None:
        torch.set_num_threads(threads)
    asked: dict[str, Any] = {
        "phases": tuple(Phase(*phase) for phase in phases) if phases else None,
        "learning_rate": learning_rate,
        "validation_photos": validation_photos,
        "validate_every": validate_every,
        "seed": seed,
        "workers": workers,
    }
    run = SidRun(
        preset,
        photos,
        out,
        exclude=exclude,
        start=start,
        precision=precision,
        device=device,
        **{name: value for name, value in asked.items() if value is not None},
    )
    last: list[Progress] = []
    with progress_bar() as show:

        def report(progress: Progress) -> None:
            last[:] = [progress]
            best = f", best {progress.best_psnr:.2f} dB" if progress.psnr == progress.psnr else ""
            show(f"Step {progress.step}, loss {progress.loss:.4f}{best}", progress.step / progress.steps)

        weights = train_sid(run, resume=resume, report=report)
    rows: list[tuple[str, Any]] = [("Weights", weights)]
    if last:
        rows += [
            ("Steps", last[0].steps),
            ("Last loss", f"{last[0].loss:.4f}"),
            ("Last validation", f"{last[0].psnr:.2f} dB, SSIM {last[0].ssim:.4f}"),
            ("Best validation", f"{last[0].best_psnr:.2f} dB"),
        ]
    show_table(rows)

"""The part that the verbs of ``train`` share: reading the run, showing how it goes, and what came out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ...base.errors import BackendUnavailable
from ...training.options import TrainingRun
from ..options import with_settings
from ..progress import progress_bar
from ..terminal import ERR, note, show_table

Load = Callable[[], Callable[..., Any]]


def training_verb(kind: type[TrainingRun]) -> Callable[[Load], Callable[..., None]]:
    """Make a verb with the options of ``kind`` of a function that loads the recipe's training; its docstring is the
    verb's help."""

    def make(load: Load) -> Callable[..., None]:
        @with_settings(settings=kind)
        def verb(
            *,
            config: Annotated[
                Path | None,
                typer.Option(
                    metavar="TOML",
                    help="Settings of the run; options go before them. Paths in it are relative to it.",
                ),
            ] = None,
            settings: dict[str, Any],
            threads: Annotated[
                int | None, typer.Option(min=1, help="CPU threads of the network.", show_default="all cores")
            ] = None,
            resume: Annotated[
                bool, typer.Option("--resume", help="Go on from the last saved state in the output folder.")
            ] = False,
            stop_after: Annotated[
                float | None,
                typer.Option(min=0, metavar="SECONDS", help="Save and leave after these; --resume goes on."),
            ] = None,
        ) -> None:
            _require_training()
            import torch

            from ...training.run_file import read_run

            train = load()
            run = read_run(kind, config, settings)
            if threads is not None:
                torch.set_num_threads(threads)
            _train(train, run, resume=resume, stop_after=stop_after)

        verb.__doc__ = load.__doc__
        return verb

    return make


def _require_training() -> None:
    """Raise BackendUnavailable where a package that training needs is not installed."""
    try:
        from ...training import loop  # noqa: F401
    except ImportError as error:
        raise BackendUnavailable(
            f"Training needs {error.name}, which is not installed: pip install 'derain-engine[train]'."
        ) from error


def _train(train: Callable[..., Any], run: TrainingRun, **how: Any) -> None:
    """Train; the first of several processes shows how it goes."""
    if os.environ.get("RANK", "0") != "0":
        train(run, **how)
        return
    with progress_bar() as show:

        def report(progress: Any) -> None:
            best = f", best {progress.best_psnr:.2f} dB" if progress.psnr == progress.psnr else ""
            line = f"Step {progress.step}, loss {progress.loss:.4f}{best}"
            show(line, progress.step / progress.steps)
            if progress.validated and not ERR.is_terminal:
                note(f"{line}, {_duration(progress.seconds_left)} left.")

        outcome = train(run, **how, report=report)
    progress = outcome.progress
    rows: list[tuple[str, Any]] = []
    if outcome.best is not None:
        rows += [("Weights", outcome.best)]
    if outcome.final is not None:
        rows += [("After the last step", outcome.final)]
    rows += [("Steps", progress.steps if outcome.complete else f"{progress.step} of {progress.steps}")]
    if progress.loss == progress.loss:
        rows += [("Last loss", f"{progress.loss:.4f}")]
    if progress.psnr == progress.psnr:
        rows += [
            ("Last validation", f"{progress.psnr:.2f} dB, SSIM {progress.ssim:.4f}"),
            ("Best validation", f"{progress.best_psnr:.2f} dB"),
        ]
    show_table(rows)
    if not outcome.complete:
        left = _duration(progress.seconds_left)
        note(f"Stopped as asked, {left} before the end; the same command with --resume goes on.")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"

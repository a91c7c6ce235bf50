"""What the verbs of ``train`` share: reading the run, showing how it goes, and what came out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from ...base.errors import BackendUnavailable
from ..progress import progress_bar
from ..terminal import ERR, note, show_table


def require_training() -> None:
    """Raises BackendUnavailable where a package that training needs is not installed."""
    try:
        from ...training import loop  # noqa: F401
    except ImportError as error:
        raise BackendUnavailable(
            f"Training needs {error.name}, which is not installed: pip install 'derain-engine[train]'."
        ) from error


def run_training(kind: type[Any], train: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Train what file and options say; the first of several processes shows how it goes. given: the verb's parameters,
    which but for those of every verb have the names of the run's settings."""
    import torch

    from ...training.config import read_run

    settings = {**given, "phases": given.get("phases") or None, "compile": given["compile"] or None}
    config, threads = settings.pop("config"), settings.pop("threads")
    resume, stop_after = settings.pop("resume"), settings.pop("stop_after")
    run = read_run(kind, config, settings)
    if threads is not None:
        torch.set_num_threads(threads)
    if os.environ.get("RANK", "0") != "0":
        train(run, resume=resume, stop_after=stop_after)
        return
    with progress_bar() as show:

        def report(progress: Any) -> None:
            best = f", best {progress.best_psnr:.2f} dB" if progress.psnr == progress.psnr else ""
            line = f"Step {progress.step}, loss {progress.loss:.4f}{best}"
            show(line, progress.step / progress.steps)
            if progress.validated and not ERR.is_terminal:
                note(f"{line}, {_duration(progress.seconds_left)} left.")

        outcome = train(run, resume=resume, stop_after=stop_after, report=report)
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

"""The one loop behind all recipes: batches, steps, validation, samples, log, saving, resuming, stopping."""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
from torch import Tensor, nn

from ..base.errors import CheckpointError, DerainError, InputError
from ..base.files import atomic_write
from ..models.checkpoint import save_checkpoint
from .data import Batch, Patches, Scenes, batches, find_photos, part_size, split, to_tensor, validation_pairs
from .distributed import World, join
from .objective import Objective
from .options import Phase, TrainingRun
from .pairs import Scene, find_pairs
from .run_file import AnyRun, write_run
from .trainer import Trainer, TrainingProgress, make_network, precision_of
from .validation import validate, write_samples

_LOG_EVERY = 50
#: Steps after which a GPU's loss is read: reading waits for it.
_READ_EVERY = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """The part of a training that one recipe does differently from the others.

    phases: of a training on so many scenes. rate: the learning rate at a step, counted from 0, of so many.
    objective: around a network. augment: see :class:`Patches`. real: folder of pictures in real rain.
    make: a run's network with its first weights. architecture: its registered name.
    """

    phases: Callable[[int], tuple[Phase, ...]]
    rate: Callable[[int, int], float]
    objective: Callable[[Any, torch.autocast], Objective[Any]]
    augment: bool
    real: Path | None = None
    make: Callable[[Any], nn.Module] = make_network
    architecture: str = "ssid-kd"


@dataclass(frozen=True)
class TrainingOutcome:
    """The state that a training was left in. best, final: weights, None as long as there are none."""

    best: Path | None
    final: Path | None
    progress: TrainingProgress

    @property
    def complete(self) -> bool:
        """True when all steps are done."""
        return self.progress.step == self.progress.steps


@dataclass(frozen=True)
class Training(Generic[AnyRun]):
    """A function that runs trainings by a recipe. recipe: makes it for a run."""

    recipe: Callable[[AnyRun], Recipe]

    def __call__(
        self,
        run: AnyRun,
        *,
        resume: bool = False,
        stop_after: float | None = None,
        report: Callable[[TrainingProgress], None] = lambda progress: None,
    ) -> TrainingOutcome:
        """Run (or resume) a training, alone or in each of ``torchrun``'s processes, of which the first one writes.

        The output folder gets ``run.toml`` (the effective settings), ``log.csv`` (every 50th step and every
        validation), ``last.pt`` (the whole state, at every validation and at a stop), ``best.safetensors`` (by PSNR of
        the moving average on held-out pairs), ``final.safetensors`` (after the last step) and ``samples/``.

        Args:
            stop_after: seconds after which the run is saved and left, to be resumed.
            report: called after every step.

        Raises:
            InputError, MediaError: the data cannot be used.
            CheckpointError: nothing to resume from, or weights of another network.
            BackendUnavailable: the device is not there.
            DerainError: the loss became NaN or infinite.
        """
        started = time.monotonic()
        last = run.output / "last.pt"
        if last.exists() and not resume:
            raise InputError(
                f"{run.output} already holds a training; resume it or choose another output folder."
            )
        if resume and not last.exists():
            raise CheckpointError(f"{last} does not exist: there is no training to resume in {run.output}.")
        with join(run.device) as world:
            state = last if resume else None
            progress = _train(run, self.recipe(run), world, state, report, started, stop_after)
        best, final = (run.output / name for name in ("best.safetensors", "final.safetensors"))
        return TrainingOutcome(best if best.exists() else None, final if final.exists() else None, progress)


def _train(
    run: TrainingRun,
    recipe: Recipe,
    world: World,
    state: Path | None,
    report: Callable[[TrainingProgress], None],
    started: float,
    stop_after: float | None,
) -> TrainingProgress:
    """Train in one of the world's processes, from ``state`` on where there is one."""
    objective = recipe.objective(recipe.make(run), precision_of(run, world.device))
    scenes, pairs = _data(run)
    real = Scenes(_photos(run, recipe.real, None)) if recipe.real else None
    phases = recipe.phases(len(scenes))
    for phase in phases:
        part_size(phase, world, run.accumulate)
    trainer = Trainer(run, objective, sum(phase.steps for phase in phases), world)
    if state is not None:
        trainer.resume(state)
    shown = [to_tensor(_sample(real.read(i)[0])) for i in range(min(2, len(real)))] if real else []
    if world.rank == 0:
        run.output.mkdir(parents=True, exist_ok=True)
        write_run(run, run.output / "run.toml")
    world.wait()
    steps = _steps(run, recipe, phases, scenes, real, trainer)
    with contextlib.ExitStack() as stack:
        files = None
        if world.rank == 0:
            files = _RunFiles(trainer, recipe.architecture, pairs, shown)
            stack.enter_context(files.opened(resume=state is not None))
        _take_steps(trainer, steps, recipe.rate, files, report, _Clock(trainer, started, stop_after))
    world.wait()
    return trainer.progress


def _take_steps(
    trainer: Trainer,
    steps: Iterator[tuple[Phase, list[Batch]]],
    rate_at: Callable[[int, int], float],
    files: _RunFiles | None,
    report: Callable[[TrainingProgress], None],
    clock: _Clock,
) -> None:
    progress = trainer.progress
    for phase, parts in steps:
        rate = rate_at(progress.step, progress.steps)
        losses = trainer.step(parts, rate)
        stop = clock.stops()
        due = _Due.at(progress, trainer.run, stop)
        progress.validated, progress.seconds_left = due.validation, clock.left()
        if due.reading or losses.device.type == "cpu":
            progress.loss = float(losses[0])
            if not math.isfinite(progress.loss):
                raise DerainError(
                    f"The loss became {progress.loss} at step {progress.step}; lower the learning rate."
                )
        if files is not None:
            files.write(due, phase, rate, losses, clock.trained())
        report(progress)
        if stop:
            break


class _Clock:
    """The seconds since the call and since its first step began, and what follows from them."""

    def __init__(self, trainer: Trainer, started: float, stop_after: float | None) -> None:
        self._trainer, self._started, self._limit = trainer, started, stop_after
        self._first, self._begun = trainer.progress.step, time.monotonic()

    def trained(self) -> float:
        return time.monotonic() - self._begun

    def stops(self) -> bool:
        """Say whether the time is up, the same in all processes."""
        if self._limit is None:
            return False
        return self._trainer.world.first_decides(time.monotonic() - self._started >= self._limit)

    def left(self) -> float:
        """Estimate the seconds left of the whole training, at the pace so far."""
        progress = self._trainer.progress
        return self.trained() / (progress.step - self._first) * (progress.steps - progress.step)


@dataclass(frozen=True)
class _Due:
    """The work that comes after a step. reading: of the loss, which waits for a GPU."""

    validation: bool
    samples: bool
    row: bool
    saving: bool
    reading: bool

    @classmethod
    def at(cls, progress: TrainingProgress, run: TrainingRun, stop: bool) -> _Due:
        step, end = progress.step, progress.step == progress.steps
        validation = end or step % run.validate_every == 0
        samples = bool(run.samples_every) and (end or step % run.samples_every == 0)
        row, saving = validation or step % _LOG_EVERY == 0, validation or stop
        reading = row or saving or step % _READ_EVERY == 0 or math.isnan(progress.loss)
        return cls(validation, samples, row, saving, reading)


class _RunFiles:
    """The files that the first process writes: log, weights, state, samples."""

    def __init__(
        self,
        trainer: Trainer,
        architecture: str,
        pairs: Sequence[tuple[Tensor, Tensor]],
        real: Sequence[Tensor],
    ) -> None:
        self._trainer, self._folder, self._pairs, self._real = trainer, trainer.run.output, pairs, real
        self._architecture = architecture
        self._fields = ("step", "patch", "loss", "lr", "seconds", "psnr", "ssim", *trainer.objective.names)

    @contextlib.contextmanager
    def opened(self, resume: bool) -> Iterator[None]:
        """Open the log for rows; one that is resumed keeps those up to the step that was saved."""
        path = self._folder / "log.csv"
        rows = _rows_until(path, self._trainer.progress.step) if resume else []
        with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._fields)
            writer.writeheader()
            writer.writerows(rows)
        with path.open("a", newline="", encoding="utf-8") as self._file:
            yield

    def write(self, due: _Due, phase: Phase, rate: float, losses: Tensor, elapsed: float) -> None:
        trainer, progress = self._trainer, self._trainer.progress
        derain, derain_real = (
            trainer.objective.deraining(trainer.average, real=real) for real in (False, True)
        )
        if due.validation:
            progress.psnr, progress.ssim = validate(derain, self._pairs, trainer.world.device)
            if progress.psnr > progress.best_psnr:
                progress.best_psnr = progress.psnr
                self._save_weights("best.safetensors")
            if progress.step == progress.steps:
                self._save_weights("final.safetensors")
        if due.samples:
            folder = self._folder / "samples"
            folder.mkdir(exist_ok=True)
            name = f"{progress.step:07}.png"
            sheet = (derain, self._pairs, derain_real, self._real)
            write_samples(folder / name, *sheet, trainer.world.device)
        if due.saving:
            trainer.save(self._folder / "last.pt")
        if due.row:
            row = {
                "step": str(progress.step),
                "patch": str(phase.patch),
                "loss": f"{progress.loss:.5f}",
                "lr": f"{rate:.3e}",
                "seconds": f"{elapsed:.1f}",
            }
            row |= {n: f"{v:.5g}" for n, v in zip(trainer.objective.names, losses[1:].tolist(), strict=True)}
            if due.validation:
                row |= {"psnr": f"{progress.psnr:.4f}", "ssim": f"{progress.ssim:.5f}"}
            csv.DictWriter(self._file, self._fields).writerow(row)
            self._file.flush()

    def _save_weights(self, name: str) -> None:
        progress = self._trainer.progress
        metadata = {
            "validation_psnr": f"{progress.psnr:.4f}",
            "validation_ssim": f"{progress.ssim:.5f}",
            "step": str(progress.step),
        }
        network = self._trainer.average
        save_checkpoint(self._folder / name, network, self._architecture, metadata=metadata)


def _rows_until(log: Path, step: int) -> list[dict[str, str]]:
    """Return the log's rows up to a step: those after it are computed again by the run that resumes there."""
    if not log.exists():
        return []
    with log.open(newline="", encoding="utf-8") as f:
        return [dict(row) for row in csv.DictReader(f) if row["step"].isdigit() and int(row["step"]) <= step]


def _photos(run: TrainingRun, folder: Path, exclude: Path | None) -> list[Scene]:
    """Find photographs without the run's own samples, which may lie below the folder and would be photographs when it
    is resumed."""
    own = run.output.resolve()
    return [Scene(path) for path in find_photos(folder, exclude) if own not in path.resolve().parents]


def _data(run: TrainingRun) -> tuple[Scenes, list[tuple[Tensor, Tensor]]]:
    """Return (scenes to train on, validation pairs)."""
    if run.photos is None and run.pairs is None:
        raise InputError("There is nothing to train on; give photos, pairs or both.")
    found = [] if run.photos is None else _photos(run, run.photos, run.exclude)
    found += [] if run.pairs is None else find_pairs(run.pairs, run.layout)
    if run.validation is not None:
        held_out = find_pairs(run.validation, run.layout)[: run.validation_photos]
    else:
        found, held_out = split(found, run.validation_photos, run.seed)
        if not found:
            raise InputError(
                f"{run.photos or run.pairs} holds too few photographs: {run.validation_photos} are kept for validation."
            )
    return Scenes(found), validation_pairs(Scenes(held_out), run.seed)


def _steps(
    run: TrainingRun,
    recipe: Recipe,
    phases: Sequence[Phase],
    scenes: Scenes,
    real: Scenes | None,
    trainer: Trainer,
) -> Iterator[tuple[Phase, list[Batch]]]:
    """Yield phase and parts of the batch of every step that is left. Files that cannot be read are named once each."""
    first, done = 0, trainer.progress.step
    named: set[str] = set()
    for number, phase in enumerate(phases):
        skip = min(max(done - first, 0), phase.steps)
        first += phase.steps
        if skip == phase.steps:
            continue
        patches = Patches(scenes, phase.patch, run.seed + number, recipe.augment, real)
        parts = batches(patches, phase, skip, trainer.world, accumulate=run.accumulate, workers=run.workers)
        while batch := list(islice(parts, run.accumulate)):
            for text in {text for part in batch for text in part["skipped"]} - named:
                named.add(text)
                _log.warning("%s It is skipped (%d so far).", text, len(named))
            yield phase, batch


def _sample(picture: np.ndarray) -> np.ndarray:
    """Scale a picture to [0, 1], its sides cut to multiples of 32, and to 512 pixels at most."""
    height, width = (min(side // 32 * 32, 512) for side in picture.shape[:2])
    return picture[:height, :width].astype(np.float32) / 255

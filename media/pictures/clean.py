"""Pictures through an engine: read, clean, write, the next one meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import numpy as np

from ...base.errors import DerainError, InputError, MediaError
from ...base.files import disk_full
from ...base.progress import Progress, no_progress
from ...engine.runtime import Engine
from .images import Picture, rain_layer, read_picture, side_by_side, write_picture
from .jobs import Job

#: What is written: the clean picture, the rainy and the clean one side by side, or the rain that was taken away.
Show = Literal["clean", "side-by-side", "rain-layer"]


@dataclass(frozen=True)
class PictureFailure:
    """A picture that could not be cleaned, and why; the message names the file."""

    job: Job
    error: DerainError


def clean_pictures(
    engine: Engine,
    jobs: Sequence[Job],
    *,
    show: Show = "clean",
    quality: int | None = None,
    progress: Progress = no_progress,
) -> list[PictureFailure]:
    """Clean every picture and write its result; one that fails does not keep the others from being finished.

    While the engine works on a picture, the next is read and the last one written; ``parallelism`` + 1 pictures
    of the engine's session are in memory. Alpha, profile and the like go from the picture to its result.

    Args:
        jobs: as :func:`find_pictures` gives them, whose checks keep inputs from being overwritten. Missing
            folders of outputs are made.
        quality: as for :func:`write_picture`.
        progress: told each finished picture, with the share of all that are done.

    Returns:
        What failed, in the order of ``jobs``.

    Raises:
        MediaError: the disk is full; the pictures before that are written, none is half written.
        InputError: a quality out of range.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise InputError(f"A quality of {quality} is outside of 1 to 100.")
    failures: dict[int, PictureFailure] = {}
    drawn: deque[tuple[int, Job, Picture]] = deque()
    finished = 0

    def finish(job: Job) -> None:
        nonlocal finished
        finished += 1
        progress(f"Cleaned {job.input.name}", finished / len(jobs))

    def fail(number: int, job: Job, error: DerainError) -> None:
        failures[number] = PictureFailure(job, error)
        finish(job)

    def read_all() -> Iterator[tuple[int, Job, Picture]]:
        for number, job in enumerate(jobs):
            try:
                picture = read_picture(job.input)
            except MediaError as error:
                fail(number, job, error)
            else:
                yield number, job, picture

    def draw(source: Iterator[tuple[int, Job, Picture]]) -> Iterator[np.ndarray]:
        for entry in source:
            drawn.append(entry)
            yield entry[2].pixels

    if jobs:
        progress("Cleaning", 0.0)
    waiting = read_all()
    while True:
        results = engine.stream(draw(waiting))
        try:
            for pixels in results:
                number, job, picture = drawn.popleft()
                try:
                    _write(job, picture, pixels, show, quality)
                except (DerainError, MemoryError) as error:
                    if disk_full(error):
                        raise
                    fail(number, job, _named(job, error))
                else:
                    finish(job)
            return [failures[number] for number in sorted(failures)]
        except (DerainError, MemoryError) as error:
            # A stream ends with the first frame that the engine cannot work on, which is the oldest one drawn;
            # those behind it go into a new stream.
            if disk_full(error) or not drawn:
                raise
            number, job, _ = drawn.popleft()
            fail(number, job, _named(job, error))
            waiting = chain(list(drawn), waiting)
            drawn.clear()


def _write(job: Job, rainy: Picture, pixels: np.ndarray, show: Show, quality: int | None) -> None:
    result = replace(rainy, pixels=pixels)
    if show == "side-by-side":
        result = side_by_side(rainy, result)
    elif show == "rain-layer":
        result = rain_layer(rainy, result)
    try:
        job.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"{job.output.parent} cannot be made: {error.strerror}.") from error
    write_picture(job.output, result, quality=quality)


def _named(job: Job, error: DerainError | MemoryError) -> DerainError:
    """Put the picture's name into an error; it is there already in those of reading and writing."""
    if isinstance(error, MediaError):
        return error
    if isinstance(error, MemoryError):
        return MediaError(f"{job.input} cannot be cleaned: there is not enough memory; use smaller tiles.")
    return MediaError(f"{job.input} cannot be cleaned: {error}")

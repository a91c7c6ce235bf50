"""The subjects of an evaluation: engines, networks, a baseline without one, and what some other program has made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..base.errors import InputError
from ..base.progress import Progress, no_progress
from ..engine import frames, verify
from ..engine.inspect import is_engine
from ..engine.runtime import load
from ..engine.shipped import find_engine
from ..models import weights
from ..models.checkpoint import Checkpoint, load_checkpoint
from ..models.loading import find_model
from .options import EvaluateOptions
from .sets import Pair, pictures_by_stem, read_like

Model = str | os.PathLike[str]

#: The name under which the baseline without a network is evaluated.
BASELINE = "opening"
_BASELINE_SIDE = 5
#: Files with these endings are videos that are clean already.
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".ts", ".mpg", ".mpeg", ".y4m")


@dataclass(frozen=True)
class Subject:
    """Something whose output can be measured.

    name: as it was given. method: how its output is computed, in words.
    remove_rain: H x W x 3 float32 RGB in [0, 1] to the same, not clamped; None where the output lies in files:
    pictures, by stem, or a video.
    """

    name: str
    method: str
    remove_rain: Callable[[np.ndarray], np.ndarray] | None = None
    pictures: dict[str, Path] = field(default_factory=dict)
    video: Path | None = None

    def clean(self, pair: Pair, rainy: np.ndarray) -> np.ndarray:
        """Return the output for a pair's rainy picture, H x W x 3 float32, not clamped.

        Raises:
            InputError: it has no output for this picture, or one of another size; or the picture is not one that can
                be worked on. MediaError: the output cannot be read.
        """
        if self.remove_rain is not None:
            return self.remove_rain(rainy)
        path = self.pictures.get(pair.stem)
        if path is None:
            raise InputError(f"{self.name} has no picture of that name.")
        return read_like(path, rainy, pair.rainy)


@contextlib.contextmanager
def open_subject(
    model: Model,
    options: EvaluateOptions,
    *,
    trust: str | Sequence[str] = (),
    progress: Progress = no_progress,
    building: Callable[[str, Path], None] = lambda name, path: None,
) -> Iterator[Subject]:
    """Open what ``model`` means, as :func:`evaluate.evaluate` says.

    Raises:
        InputError: it is nothing of that kind; ``native`` is asked of what is no network, or options of what is no
            model.
        BundleError, CheckpointError, BackendUnavailable: it cannot be run.
    """
    path, name, native = Path(model), str(model), options.native
    shipped = weights.meant(model) is not None
    exists = path.exists() and not shipped
    folder = exists and path.is_dir()
    video = exists and path.suffix.lower() in VIDEO_SUFFIXES
    baseline = not exists and name == BASELINE
    engine_file = exists and not folder and not video and is_engine(model)
    if native and (folder or video or baseline):
        raise InputError(f"{name} is no network; evaluate it without the native option.")
    if native and engine_file:
        raise InputError(
            f"{model} is an engine file, which always pads its frames; give its model for the native option."
        )
    told = {
        "options": options.network_options,
        "an architecture": options.arch,
        "a colour order": options.colour_order != "auto",
    }
    if any(told.values()) and not native and (shipped or folder or video or baseline or engine_file):
        raise InputError(
            f"{name} is no model file, so {' and '.join(k for k, v in told.items() if v)} would change nothing; build "
            "an engine with that, or give the model file."
        )
    if folder:
        yield Subject(name, "pictures of a folder, as they are", pictures=pictures_by_stem(path))
    elif video:
        yield Subject(name, "a video, as it is", video=path)
    elif baseline:
        yield Subject(name, f"morphological opening, {_BASELINE_SIDE}x{_BASELINE_SIDE}", _opening)
    elif engine_file or (not exists and not native):
        with load(find_engine(model, progress=progress, building=building), trust=trust) as engine:
            yield Subject(name, f"engine, {engine.manifest.backend} in {engine.precision}", engine)
    else:
        checkpoint = load_checkpoint(
            find_model(model)[0],
            colour_order=options.colour_order,
            options=options.network_options,
            arch=options.arch,
        )
        yield _reference(name, checkpoint, native)


def _reference(name: str, checkpoint: Checkpoint, native: bool) -> Subject:
    spec = checkpoint.spec

    def run(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        if not native:
            batch = frames.pad_to(image[None], spec.sizes.padded(height, width))
        elif min(height, width) >= spec.smallest_side:
            batch = image[None]
        else:
            raise InputError(
                f"without padding the network needs sides of at least {spec.smallest_side} pixels, "
                f"not {width}x{height}; leave the native option out."
            )
        return verify.reference_output(checkpoint.network, batch)[0, :height, :width]

    return Subject(name, f"reference network in fp32, {'unpadded' if native else 'padded'}", run)


def _opening(image: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.morphologyEx(image, cv2.MORPH_OPEN, np.ones((_BASELINE_SIDE, _BASELINE_SIDE), np.uint8))

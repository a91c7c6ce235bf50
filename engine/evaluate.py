"""How well rain is removed from pictures whose truth is known: PSNR and SSIM before and after.

Values are measured in float32: the output is clamped to [0, 1] and not rounded to 8 bits, as papers do it. A
picture file written by ``run`` is rounded, which costs at most a few hundredths of a dB.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import frames, metrics, verify
from .builder import find_model
from .checkpoint import load_checkpoint
from .contents import is_engine
from .errors import InputError, VerificationError
from .media.images import SUFFIXES, read_picture
from .progress import Progress, no_progress
from .runtime import load
from .shipped import find_engine

#: The name under which the baseline without a network is evaluated.
BASELINE = "opening"
_BASELINE_SIDE = 5


@dataclass(frozen=True)
class Pair:
    """A rainy picture and its truth: two files of one stem, which is the pair's name."""

    name: str
    rainy: Path
    clean: Path


@dataclass(frozen=True)
class Quality:
    """Closeness to the truth. psnr: dB, infinite for equal pictures. ssim: 1 for equal pictures. Both over RGB;
    ``_y`` over the BT.601 luma of ``metrics.luma``."""

    psnr: float
    ssim: float
    psnr_y: float
    ssim_y: float

    def to_json(self) -> dict[str, float | None]:
        """None stands for what JSON has no number for: infinite, and the difference of two such."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Comparison:
    """The rainy picture and the output, each against the truth."""

    rainy: Quality
    output: Quality

    @property
    def gain(self) -> Quality:
        """Output less rainy; NaN where both are infinite."""
        return _combine(lambda values: values[1] - values[0], [self.rainy, self.output])

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name).to_json() for name in ("rainy", "output", "gain")}


@dataclass(frozen=True)
class Evaluation:
    """subject: what was evaluated, as it was named. method: how its output was computed. pictures: by name, in
    order. sizes: (height, width) of each in pixels."""

    subject: str
    method: str
    pictures: dict[str, Comparison]
    sizes: dict[str, tuple[int, int]]

    @property
    def mean(self) -> Comparison:
        """Each figure's mean over all pictures."""

        def mean(values: list[float]) -> float:
            return sum(values) / len(values)

        each = self.pictures.values()
        return Comparison(_combine(mean, [c.rainy for c in each]), _combine(mean, [c.output for c in each]))

    def to_json(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "method": self.method,
            "mean": self.mean.to_json(),
            "pictures": [
                {"name": name, "height": self.sizes[name][0], "width": self.sizes[name][1], **each.to_json()}
                for name, each in self.pictures.items()
            ],
        }


def find_pairs(rainy: str | os.PathLike[str], clean: str | os.PathLike[str]) -> list[Pair]:
    """The pictures of the folder ``rainy``, sorted by name, each with the one of the same stem in ``clean``.

    Truths without a rainy picture are passed over.

    Raises:
        InputError: no folder, an empty one, two pictures of one stem in one folder, or a rainy picture without
            truth (named).
    """
    rainy_of, clean_of = (_pictures_by_stem(Path(folder)) for folder in (rainy, clean))
    missing = [path.name for stem, path in rainy_of.items() if stem not in clean_of]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise InputError(
            f"{clean} has no picture named like {', '.join(missing[:5])}{more} of {rainy}; "
            "pairs have the same file name but for the suffix."
        )
    return [Pair(stem, path, clean_of[stem]) for stem, path in rainy_of.items()]


def evaluate(
    model: str | os.PathLike[str],
    rainy: str | os.PathLike[str],
    clean: str | os.PathLike[str],
    *,
    native: bool = False,
    colour_order: Literal["auto", "rgb", "bgr"] = "auto",
    trust: str | Sequence[str] = (),
    progress: Progress = no_progress,
) -> Evaluation:
    """Clean every picture of ``rainy`` and measure it against its namesake in ``clean``.

    Args:
        model: an engine file; a weights file, which the fp32 reference network runs on padded frames, as every
            engine does; the name of shipped weights, for their engine; or ``BASELINE``, a 5x5 morphological
            opening of each channel, which removes thin bright streaks without a network. An existing file goes
            before a name.
        native: run the reference network on the pictures as they are, without padding, as papers do.
        colour_order: of a weights file, as for ``load_checkpoint``.
        trust: as for ``load``.
        progress: told the picture being worked on and the fraction done.

    Raises:
        InputError: folders or pictures that do not pair, sizes that differ or are too small, or ``native`` for
            something that is no network.
        MediaError: a picture cannot be read.
        VerificationError: NaN or infinity came out.
        BundleError, CheckpointError, BackendUnavailable: the model cannot be run.
    """
    pairs = find_pairs(rainy, clean)
    # All of them before any work: a set with a fault in it is refused in seconds, not after hours.
    sizes = {pair.name: _read_pair(pair)[0].shape[:2] for pair in pairs}
    pictures: dict[str, Comparison] = {}
    with _open_subject(model, native, colour_order, trust, progress) as (method, remove_rain):
        for pair in pairs:
            progress(pair.name, len(pictures) / len(pairs))
            pictures[pair.name] = _measure(pair, str(model), remove_rain)
    progress(pairs[-1].name, 1.0)
    return Evaluation(str(model), method, pictures, sizes)


#: H x W x 3 float32 RGB in [0, 1] to the same, not clamped.
_RemoveRain = Callable[[np.ndarray], np.ndarray]


@contextlib.contextmanager
def _open_subject(
    model: str | os.PathLike[str],
    native: bool,
    colour_order: Literal["auto", "rgb", "bgr"],
    trust: str | Sequence[str],
    progress: Progress,
) -> Iterator[tuple[str, _RemoveRain]]:
    """(method in words, function) of what is to be evaluated."""
    exists = Path(model).exists()
    if not exists and str(model) == BASELINE:
        if native:
            raise InputError(f"{BASELINE} is no network; evaluate it without the native option.")
        yield f"morphological opening, {_BASELINE_SIDE}x{_BASELINE_SIDE}", _opening
    elif (exists and is_engine(model)) or (not exists and not native):
        if native:
            raise InputError(
                f"{model} is an engine file, which always pads its frames; give its model for the native option."
            )
        with load(find_engine(model, progress=progress), trust=trust) as engine:
            yield f"engine, {engine.manifest.backend} in {engine.precision}", engine
    else:
        checkpoint = load_checkpoint(find_model(model)[0], colour_order=colour_order)
        spec = checkpoint.spec

        def reference(image: np.ndarray) -> np.ndarray:
            height, width = image.shape[:2]
            if not native:
                batch, _ = frames.pad_frame(image[None], spec.granularity, spec.smallest_side)
            elif min(height, width) >= spec.smallest_side:
                batch = image[None]
            else:
                raise InputError(
                    f"without padding the network needs sides of at least {spec.smallest_side} pixels, "
                    f"not {width}x{height}; leave the native option out."
                )
            return verify.reference_output(checkpoint.network, batch)[0, :height, :width]

        yield f"reference network in fp32, {'unpadded' if native else 'padded'}", reference


def _opening(image: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.morphologyEx(image, cv2.MORPH_OPEN, np.ones((_BASELINE_SIDE, _BASELINE_SIDE), np.uint8))


def _pictures_by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a folder of pictures.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        if path.stem in found:
            raise InputError(
                f"{found[path.stem]} and {path} have the same name but for the suffix; remove one of them."
            )
        found[path.stem] = path
    if not found:
        raise InputError(f"{folder} has no pictures in it; pictures end in {', '.join(SUFFIXES)}.")
    return found


def _read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """(rainy, clean), H x W x 3 float32 in [0, 1]."""
    rainy, clean = (read_picture(path).pixels for path in (pair.rainy, pair.clean))
    if rainy.shape != clean.shape:
        raise InputError(
            f"{pair.rainy} is {rainy.shape[1]}x{rainy.shape[0]} and {pair.clean} is "
            f"{clean.shape[1]}x{clean.shape[0]}; a pair must have one size."
        )
    return frames.to_float(rainy), frames.to_float(clean)


def _measure(pair: Pair, subject: str, remove_rain: _RemoveRain) -> Comparison:
    rainy, clean = _read_pair(pair)
    try:
        output = remove_rain(rainy)
        if not np.isfinite(output).all():
            raise VerificationError(f"{subject} gave NaN or infinite values on {pair.rainy}.")
        return Comparison(_quality(rainy, clean), _quality(np.clip(output, 0, 1), clean))
    except InputError as error:
        raise InputError(f"{pair.rainy}: {error}") from error


def _quality(image: np.ndarray, truth: np.ndarray) -> Quality:
    y, truth_y = metrics.luma(image), metrics.luma(truth)
    return Quality(
        metrics.psnr(image, truth),
        metrics.ssim(image, truth),
        metrics.psnr(y, truth_y),
        metrics.ssim(y, truth_y),
    )


def _combine(how: Callable[[list[float]], float], qualities: list[Quality]) -> Quality:
    """Field by field."""
    return Quality(*(how([getattr(q, name) for q in qualities]) for name in asdict(qualities[0])))

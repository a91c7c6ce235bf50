"""Temporal flicker of a cleaned video: how much what was taken away jumps from frame to frame."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import InputError, MediaError, VerificationError
from ..base.progress import Progress, no_progress
from ..engine import frames
from ..media.video.colour import coding_of_frame, to_rgb
from ..media.video.pixel_formats import convert, planar_form, planes
from ..media.video.reader import DecodedFrame, VideoReader
from .figures import as_measured
from .options import EvaluationProtocol
from .subject import Subject


@dataclass(frozen=True)
class Flicker:
    """Mean absolute differences of consecutive frames, over all pixels and channels of RGB, in levels of 1/255.

    source: of the video x, of which motion and rain are part. output: of the cleaned y. residual: of x - y, which
    holds the rain that was taken away, as it should jump, and whatever else comes and goes. transitions: pairs of
    consecutive frames that were measured. broken: what is wrong with frames that were left out.
    """

    transitions: int
    source: float
    output: float
    residual: float
    broken: tuple[str, ...] = ()

    @property
    def relative(self) -> float:
        """The ratio residual / source; NaN for a still source that stays still."""
        if self.source:
            return self.residual / self.source
        return math.inf if self.residual else math.nan

    def to_json(self) -> dict[str, Any]:
        record = asdict(self) | {"relative": self.relative, "broken": list(self.broken)}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def measure_flicker(
    clip: Path, subject: Subject, protocol: EvaluationProtocol = "float", *, progress: Progress = no_progress
) -> Flicker:
    """Clean a video frame by frame, or read the clean one that the subject is, and compare consecutive frames.

    A broken frame is left out, and so are the two transitions at it.

    Raises:
        MediaError: the video cannot be read, or has fewer than two frames in a row.
        InputError: the cleaned video has other sizes or another number of frames, or the subject has no video.
        VerificationError: NaN or infinity came out.
        BackendUnavailable: PyAV is not installed.
    """
    if subject.remove_rain is None and subject.video is None:
        raise InputError(
            f"{subject.name} holds pictures; to measure {clip}, give an engine or the clean video."
        )
    sums, transitions, broken = np.zeros(3), 0, []
    before: tuple[np.ndarray, np.ndarray] | None = None
    with VideoReader(clip) as reader:
        total = reader.frames
        for number, (rainy, clean, damage) in enumerate(_both(reader, subject)):
            progress(clip.name, min(number / total, 1.0) if total else 0.0)
            if rainy is None or clean is None:
                broken.append(damage)
                before = None
                continue
            if not np.isfinite(clean).all():
                raise VerificationError(f"{subject.name} gave NaN or infinite values on {clip}.")
            clean = as_measured(clean, protocol)
            if before is not None and before[0].shape == rainy.shape:
                source, output = rainy - before[0], clean - before[1]
                sums += [np.abs(each).mean(dtype=np.float64) for each in (source, output, source - output)]
                transitions += 1
            before = rainy, clean
    if not transitions:
        why = f": {broken[0]}" if broken else ""
        raise MediaError(f"{clip} has no two frames in a row that can be compared{why}.")
    progress(clip.name, 1.0)
    source, output, residual = (float(each) for each in 255 * sums / transitions)
    return Flicker(transitions, source, output, residual, tuple(broken))


_Frames = Iterator[tuple[np.ndarray | None, np.ndarray | None, str]]


def _both(reader: VideoReader, subject: Subject) -> _Frames:
    """Yield (rainy, clean, what is wrong with them) of every frame, H x W x 3 float32; None for a broken one."""
    if subject.remove_rain is not None:
        for rainy, damage in _rgb(reader):
            yield rainy, None if rainy is None else subject.remove_rain(rainy), damage
        return
    assert subject.video is not None
    with VideoReader(subject.video) as other:
        cleaned = _rgb(other)
        for rainy, damage in _rgb(reader):
            clean, clean_damage = next(cleaned, (None, None))
            if clean_damage is None:
                raise InputError(f"{subject.video} ends before {reader.name}; both need the same frames.")
            if rainy is not None and clean is not None and rainy.shape != clean.shape:
                raise InputError(
                    f"{reader.name} is {rainy.shape[1]}x{rainy.shape[0]} and {subject.video} is "
                    f"{clean.shape[1]}x{clean.shape[0]}; both need one size."
                )
            yield rainy, clean, damage or clean_damage
        if next(cleaned, None) is not None:
            raise InputError(f"{subject.video} goes on after {reader.name}; both need the same frames.")


def _rgb(reader: VideoReader) -> Iterator[tuple[np.ndarray | None, str]]:
    """Yield (H x W x 3 float32 RGB, "") of every frame, or (None, what is wrong with it)."""
    for item in reader.read():
        if not isinstance(item, DecodedFrame):
            continue
        if item.frame is None or item.damage:
            yield None, f"{reader.name}: the frame at {item.seconds:.3f} s is broken: {item.damage}"
            continue
        frame = convert(item.frame, planar_form(item.frame.format.name))
        coding = coding_of_frame(frame, reader.siting(item.frame))
        yield frames.to_float(to_rgb(planes(frame, coding.sample), coding)), ""

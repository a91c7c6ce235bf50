"""The pictures that a build looks at: to compare and time an engine, to repair a network in fp16, to quantise it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..base.sizes import FrameSizes, Size
from ..models.spec import ModelSpec
from ..samples import photographs
from ..samples.rain import KINDS, add_rain, sample_rain
from . import frames, verify
from .backends.base import Calibration, RepairGoal

#: How many dB more than an engine in fp16 needs are wanted where a network is searched for what fp16 breaks.
_SPARE_DB = 1.0
#: Side of the pictures that a network is quantised on.
_CALIBRATED_SIDE = 96


@dataclass(frozen=True)
class Examination:
    """The closeness with which engines are looked at.

    Attributes:
        size: (height, width) in pixels of the pictures that an engine is compared with its reference on, for engines
            that take it: whole for the SSID-KD family, small enough for the largest network's reference on a CPU.
        pictures: how many of them, at most four.
        searched_side: side in pixels of the crops of them on which a network is first searched for what fp16 breaks.
        timed_side: side in pixels of the frame that is timed, for engines that are fastest for no size.
    """

    size: Size = photographs.PICTURE_SIZE
    pictures: int = 4
    searched_side: int = 64
    timed_side: int = 512

    def compared_size(self, sizes: FrameSizes) -> Size:
        """Return the size of the pictures for an engine that takes such frames."""
        return sizes.usual[0] if sizes.usual and sizes.most is None else sizes.nearest(*self.size)

    def timed_size(self, sizes: FrameSizes) -> Size:
        """Return the size of the frame that is timed."""
        return sizes.usual[0] if sizes.usual else sizes.padded(self.timed_side, self.timed_side)

    def pairs(self, size: Size) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (rainy, truth) by name, as of :func:`photographs.rainy_pairs`."""
        return photographs.rainy_pairs(*size, count=self.pictures)


_current = Examination()


def current() -> Examination:
    """Return what builds and :func:`verify_engine` examine at present."""
    return _current


@contextlib.contextmanager
def examining(by: Examination) -> Iterator[None]:
    """Examine by something else in the whole process, until the block ends."""
    global _current
    before, _current = _current, by
    try:
        yield
    finally:
        _current = before


def repair_goals(spec: ModelSpec) -> Iterator[RepairGoal]:
    """Yield what a network in fp16 is judged on before it is compiled: crops, which take little time, and then, where
    the engine misses all the same, the pictures that it is compared on."""
    sizes, side = spec.sizes, _current.searched_side
    for size in (sizes.nearest(*sizes.padded(side, side)), sizes.nearest(*_current.size)):
        pictures = np.stack([rainy for rainy, _ in _current.pairs(size).values()])
        padded = frames.pad_to(pictures, sizes.padded(*size))
        batch = np.ascontiguousarray(padded.transpose(0, 3, 1, 2))
        yield RepairGoal(batch, verify.HALF_PSNR + _SPARE_DB, verify.HALF_MAX_ABS)


def calibration(spec: ModelSpec) -> Calibration:
    """Cut parts out of four photographs and lay every kind of rain over each; other rain than engines are compared
    on."""
    height, width = spec.sizes.nearest(*spec.sizes.padded(_CALIBRATED_SIDE, _CALIBRATED_SIDE))
    pairs = []
    for number, photo in enumerate(photographs.clean_pictures(2 * height, 2 * width).values()):
        # Without dry ones, of which a truth says nothing.
        for i, kind in enumerate(KINDS[1:]):
            y, x = height * (i % 2), width * (i // 2 % 2)
            rng = np.random.default_rng((96, number, i))
            pairs.append(add_rain(photo[y : y + height, x : x + width], sample_rain(kind, rng), rng))
    rainy, clean = (
        np.ascontiguousarray(np.stack(each).transpose(0, 3, 1, 2), dtype=np.float32)
        for each in zip(*pairs, strict=True)
    )
    # One of each kind of rain, on each photograph in turn.
    kinds = len(KINDS) - 1
    judged = [i % (len(pairs) // kinds) * kinds + i for i in range(kinds)]
    return Calibration(rainy, rainy[judged], clean[judged])

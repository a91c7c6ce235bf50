"""What a user asks of a build, as a backend is told it: sizes of frames, and what to judge precision on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..base.errors import InputError
from ..base.sizes import LARGEST_SIDE, FrameSizes, Size, words
from ..models.spec import ModelSpec
from ..samples import photographs
from ..samples.rain import KINDS, add_rain, sample_rain
from . import frames, verify
from .backends.base import Calibration, Repair

if TYPE_CHECKING:
    from .backends.base import Backend

#: Frames that engines of a range of sizes are fastest for and take at most, unless told otherwise: up to full HD.
_USUAL, _MOST = (512, 512), (1088, 1920)
#: Side of the pictures, in pixels, on which a network is searched for what fp16 breaks, and how many dB more than the
#: engine needs are wanted there.
_SEARCHED_SIDE = 64
_SPARE_DB = 1.0
#: Side of the pictures that a network is quantised on.
_CALIBRATED_SIDE = 96
_FLAGS = {
    "sizes": "--min, --opt and --max",
    "workspace": "--workspace",
    "hardware_compatibility": "--hardware-compatibility",
    "version_compatible": "--version-compatible",
    "plugins": "--plugins",
}


def require_taken(backend: Backend, **given: bool) -> None:
    """Raises InputError where an option of CompileOptions is given that the backend does not take."""
    for name, is_given in given.items():
        if is_given and name not in backend.takes:
            raise InputError(
                f"The {backend.name} backend does not take {_FLAGS[name]}; leave that out, or choose another --backend."
            )


def padded_size(size: Size, spec: ModelSpec) -> Size:
    """What the network takes instead of a frame of that size."""
    if not all(0 < side <= LARGEST_SIDE for side in size):
        raise InputError(f"A shape's sides are 1 to {LARGEST_SIDE} pixels, not {words(size)}.")
    height, width = (frames.padded_side(side, spec.granularity, spec.smallest_side) for side in size)
    return height, width


def frame_sizes(
    spec: ModelSpec, shape: Size | None, least: Size | None, usual: Sequence[Size], most: Size | None
) -> FrameSizes:
    """The frames that an engine is to take: ``shape`` alone (padded), or a range, of which what is None has a default.

    Raises:
        InputError: both, or sides that become smaller.
    """
    if shape is not None:
        if least or usual or most:
            raise InputError("An engine of one --shape has no --min, --opt or --max; leave these out.")
        return FrameSizes.only(shape)
    low = padded_size(least or (1, 1), spec)
    opts = [padded_size(each, spec) for each in usual]
    high = padded_size(most, spec) if most else _around([padded_size(_MOST, spec), low, *opts])
    if not opts:
        opts = [FrameSizes(low, (low,), high).nearest(*padded_size(_USUAL, spec))]
    return FrameSizes(low, tuple(dict.fromkeys(opts)), high)


def _around(sizes: Sequence[Size]) -> Size:
    """The least size that holds all."""
    return max(size[0] for size in sizes), max(size[1] for size in sizes)


def repairs(spec: ModelSpec) -> Iterator[Repair]:
    """What a network in fp16 is judged on before it is compiled: crops, which take little time, and then, where the
    engine misses all the same, the pictures that it is compared on."""
    side = frames.padded_side(_SEARCHED_SIDE, spec.granularity, spec.smallest_side)
    for size in ((side, side), ()):
        pictures = np.stack(list(photographs.rainy_pictures(*size).values()))
        padded, _ = frames.pad_frame(pictures, spec.granularity, spec.smallest_side)
        batch = np.ascontiguousarray(padded.transpose(0, 3, 1, 2))
        yield Repair(batch, verify.HALF_PSNR + _SPARE_DB, verify.HALF_MAX_ABS)


def calibration(spec: ModelSpec) -> Calibration:
    """Parts of four photographs, each under every kind of rain; other rain than engines are compared on."""
    side = frames.padded_side(_CALIBRATED_SIDE, spec.granularity, spec.smallest_side)
    pairs = []
    for number, photo in enumerate(photographs.clean_pictures(2 * side, 2 * side).values()):
        # Without dry ones, of which a truth says nothing.
        for i, kind in enumerate(KINDS[1:]):
            y, x = side * (i % 2), side * (i // 2 % 2)
            rng = np.random.default_rng((96, number, i))
            pairs.append(add_rain(photo[y : y + side, x : x + side], sample_rain(kind, rng), rng))
    rainy, clean = (
        np.ascontiguousarray(np.stack(each).transpose(0, 3, 1, 2), dtype=np.float32)
        for each in zip(*pairs, strict=True)
    )
    # One of each kind of rain, on each photograph in turn.
    kinds = len(KINDS) - 1
    judged = [i % (len(pairs) // kinds) * kinds + i for i in range(kinds)]
    return Calibration(rainy, rainy[judged], clean[judged])

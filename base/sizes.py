"""The sizes of frames that a network or an engine takes: the one representation, from the options to the runtime."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .errors import InputError

#: (height, width) in pixels.
Size = tuple[int, int]

#: In pixels, of the frames that an engine may be built for.
LARGEST_SIDE = 16384


def padded_side(side: int, alignment: int, least: int = 1) -> int:
    """Return the least multiple of ``alignment`` that is at least ``side`` and ``least``, in pixels."""
    return -(-max(side, least) // alignment) * alignment


@dataclass(frozen=True)
class FrameSizes:
    """The frames that are taken, from the least to the most, side by side.

    Attributes:
        least: what smaller frames are padded to.
        usual: sizes within the range for which an engine is fastest; one at least, unless there is no bound.
        most: frames with a larger side are run in tiles; None where there is no bound.
        alignment: both sides of a padded frame are multiples of this, in pixels.

    Raises:
        InputError: sides that become smaller from least over usual to most, or are out of all proportion.
    """

    least: Size = (1, 1)
    usual: tuple[Size, ...] = ()
    most: Size | None = None
    alignment: int = 1

    def __post_init__(self) -> None:
        most = self.largest
        for usual in self.usual or (self.least,):
            for low, middle, high in zip(self.least, usual, most, strict=True):
                if not 0 < low <= middle <= high <= LARGEST_SIDE:
                    raise InputError(
                        f"Frames from {words(self.least)} over {words(usual)} to {words(most)} are no range: "
                        f"sides must not become smaller, and are 1 to {LARGEST_SIDE} pixels."
                    )
        if self.most and not self.usual:
            raise InputError("An engine has to be fast for one size of frames at least.")

    @classmethod
    def only(cls, size: Size, alignment: int = 1) -> FrameSizes:
        """Return frames of one size."""
        return cls(size, (size,), size, alignment)

    @classmethod
    def all_from(cls, smallest_side: int, alignment: int = 1) -> FrameSizes:
        """Return all frames, of which those with smaller sides are padded."""
        side = padded_side(smallest_side, alignment)
        return cls((side, side), alignment=alignment)

    @property
    def largest(self) -> Size:
        """The most, or where there is no bound the largest frames that an engine may be built for."""
        return self.most or (LARGEST_SIDE, LARGEST_SIDE)

    @property
    def fixed(self) -> bool:
        """True where there is one size alone."""
        return self.least == self.most

    def padded(self, height: int, width: int) -> Size:
        """Return what a frame of that size is padded to, at the bottom and right; it may be too large to be taken."""
        low_y, low_x = self.least
        return (
            low_y if height <= low_y else padded_side(height, self.alignment),
            low_x if width <= low_x else padded_side(width, self.alignment),
        )

    def take(self, height: int, width: int) -> bool:
        """Tell whether a padded frame of that size is within the range."""
        return (height, width) == self.nearest(height, width)

    def nearest(self, height: int, width: int) -> Size:
        """Return the size within the range whose sides are nearest to these."""
        size = max(height, self.least[0]), max(width, self.least[1])
        return size if self.most is None else (min(size[0], self.most[0]), min(size[1], self.most[1]))

    def tile(self, height: int, width: int, side: int) -> Size:
        """Return the size of the tiles of a padded frame, as near to squares of ``side`` as is taken: the frame's own
        size where it fits into one."""
        rows, columns = self.nearest(side, side)
        return min(height, rows), min(width, columns)

    def favouring(self, usual: tuple[Size, ...]) -> FrameSizes:
        """Return the same range with other usual sizes; as it is where there are none."""
        return replace(self, usual=usual) if usual else self

    def to_json(self) -> dict[str, Any]:
        """Return a range as JSON's types, without the alignment."""
        assert self.most is not None
        return {
            "least": list(self.least),
            "usual": [list(each) for each in self.usual],
            "most": list(self.most),
        }

    @classmethod
    def from_json(cls, record: Any, alignment: int = 1) -> FrameSizes:
        """Return what :meth:`to_json` was called on.

        Raises:
            InputError: it is something else.
        """
        if not isinstance(record, dict) or not isinstance(record.get("usual"), list):
            raise InputError("Frame sizes are an object of least, usual and most.")
        least, most = (size_from_json(record.get(name)) for name in ("least", "most"))
        return cls(least, tuple(map(size_from_json, record["usual"])), most, alignment)


#: Frames of any size.
ALL_SIZES = FrameSizes()


def words(size: Sequence[int]) -> str:
    """Return ``HxW``."""
    return f"{size[0]}x{size[1]}"


def parse_size(text: str) -> Size:
    """Read ``HxW``. Raises ValueError for anything else."""
    sides = re.fullmatch(r"([0-9]{1,6})[xX]([0-9]{1,6})", text)
    if sides is None:
        raise ValueError(f"{text!r} is not HxW in pixels, such as 480x640.")
    size = int(sides[1]), int(sides[2])
    if min(size) < 1:
        raise ValueError(f"{text!r} has a side below 1.")
    return size


def size_from_json(value: Any) -> Size:
    """Read ``[height, width]``. Raises InputError for anything else."""
    if not isinstance(value, list | tuple) or len(value) != 2 or any(type(side) is not int for side in value):
        raise InputError(f"A frame's size of {value!r} is not [height, width] in pixels.")
    return value[0], value[1]

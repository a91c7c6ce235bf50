"""The sizes of frames that an engine takes, where it does not take all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InputError

#: (height, width) in pixels, multiples of the network's granularity.
Size = tuple[int, int]

#: In pixels, of the frames that an engine may be built for.
LARGEST_SIDE = 16384


@dataclass(frozen=True)
class FrameSizes:
    """From the least to the most frame, side by side.

    usual: the sizes within that range for which an engine is fastest, one at least.

    Raises:
        InputError: sides that become smaller from least over usual to most, or are out of all proportion.
    """

    least: Size
    usual: tuple[Size, ...]
    most: Size

    def __post_init__(self) -> None:
        for usual in self.usual:
            for low, middle, high in zip(self.least, usual, self.most, strict=True):
                if not 0 < low <= middle <= high <= LARGEST_SIDE:
                    raise InputError(
                        f"Frames from {words(self.least)} over {words(usual)} to {words(self.most)} are no range: "
                        f"sides must not become smaller, and are 1 to {LARGEST_SIDE} pixels."
                    )
        if not self.usual:
            raise InputError("An engine has to be fast for one size of frames at least.")

    @classmethod
    def only(cls, size: Size) -> FrameSizes:
        """Frames of one size."""
        return cls(size, (size,), size)

    @property
    def fixed(self) -> bool:
        """Whether there is one size alone."""
        return self.least == self.most

    def take(self, height: int, width: int) -> bool:
        """Whether a frame of that size is within the range."""
        return (height, width) == self.nearest(height, width)

    def nearest(self, height: int, width: int) -> Size:
        """The size within the range whose sides are nearest to these."""
        (low_y, low_x), (high_y, high_x) = self.least, self.most
        return min(max(height, low_y), high_y), min(max(width, low_x), high_x)

    def to_json(self) -> dict[str, Any]:
        """As JSON's types."""
        return {
            "least": list(self.least),
            "usual": [list(each) for each in self.usual],
            "most": list(self.most),
        }

    @classmethod
    def from_json(cls, record: Any) -> FrameSizes:
        """Back from :meth:`to_json`.

        Raises:
            InputError: it is something else.
        """
        if not isinstance(record, dict) or not isinstance(record.get("usual"), list):
            raise InputError("Frame sizes are an object of least, usual and most.")
        return cls(_size(record.get("least")), tuple(map(_size, record["usual"])), _size(record.get("most")))


def words(size: Sequence[int]) -> str:
    """``HxW``."""
    return f"{size[0]}x{size[1]}"


def _size(value: Any) -> Size:
    if not isinstance(value, list | tuple) or len(value) != 2 or any(type(side) is not int for side in value):
        raise InputError(f"A frame's size of {value!r} is not [height, width] in pixels.")
    return value[0], value[1]

"""Facts about a network that are needed without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..base.sizes import FrameSizes

#: Order of an image's three channels.
ColourOrder = Literal["rgb", "bgr"]
#: The same as a user may say it: ``auto`` leaves it to what the file or the architecture says.
ColourChoice = Literal["auto", "rgb", "bgr"]

#: The architecture of somebody's ONNX model.
ONNX = "onnx"


@dataclass(frozen=True)
class ModelSpec:
    """A network's name and configuration, and what a runtime must respect when it feeds it.

    architecture: registered name, such as ``"ssid-kd"``.
    config: constructor arguments, values that JSON can hold.
    granularity: both sides of a frame are padded to a multiple of this, in pixels.
    smallest_side: both sides of a frame are padded to at least this, in pixels.
    exact_tiling_halo: reach of the receptive field in pixels, beyond which tiles equal the whole frame; None where
        it is global and tiling is an approximation.
    tile_overlap: overlap of neighbouring tiles in pixels, as measured with trained weights.
    bytes_per_pixel: what a session keeps in memory for a pixel of a frame, estimated from the configuration for
        fp32; 0 where nobody knows.
    picks_maxima: whether it remembers where maxima were (unpooling): of two nearly equal ones, rounding may make it
        remember the other, and single values differ by far more than was rounded.
    """

    architecture: str
    config: Mapping[str, Any] = field(default_factory=dict)
    granularity: int = 1
    smallest_side: int = 1
    exact_tiling_halo: int | None = None
    tile_overlap: int = 0
    bytes_per_pixel: int = 0
    picks_maxima: bool = False

    @property
    def sizes(self) -> FrameSizes:
        """The frames that it takes: all, or those of one size for an ONNX model that was made for these."""
        size = self.config.get("size") if self.architecture == ONNX else None
        if size is not None:
            return FrameSizes.only((size[0], size[1]), self.granularity)
        return FrameSizes.all_from(self.smallest_side, self.granularity)


def clean_image(result: Any) -> Any:
    """Return the clean image (N x 3 x H x W) of what a network returns: that itself, or the field ``clean`` of more."""
    return getattr(result, "clean", result)

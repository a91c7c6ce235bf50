"""Detection of the frames of a video that are dry, so that the network need not be asked for them.

A rain streak is a bright line, and a frame is full of them: its response to line filters is skewed to the bright side
nearly everywhere, and weak across the direction of fall. Photographs without rain have dark lines as often as bright
ones, and as many in every direction. Of a scene that stands still the light that is new since the frame before says
it more clearly: all texture is gone from it, and the streaks are not.

Constants were fitted by logistic regression to the 209 photographs of BSDS500's train and val folders that are the
truth of no test pair, dry and under each kind of ``samples.rain`` but ``near``; the threshold is where one rainy
picture of a hundred among them is taken for dry.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .pixel_formats import convert
from .reader import DecodedFrame
from .working_format import WorkingFormat

if TYPE_CHECKING:
    from av.packet import Packet

#: Frames are judged at this length of the shorter side, in pixels, about that of the photographs; none is enlarged.
_SHORTER_SIDE = 320
#: Of lines, in degrees from straight down; their thickness and length as Gaussian deviations, in pixels.
_ANGLES, _THICKNESS, _LENGTH, _RADIUS = (-45.0, -22.5, 0.0, 22.5, 45.0), 1.0, 2.5, 4
#: Side of the blocks that statistics are made of, in pixels.
_BLOCK = 16
#: Keeps even blocks from counting by their noise: added to the deviation, cubed, and to deviations under a logarithm.
_STILL_CUBED, _STILL = 1.0, 0.05
#: Of the score: skewness of the better blocks, weakest direction against the mean, skewness along the strongest.
_WEIGHTS = (3.7, -5.5, 7.2)
_RAINY = 3.34
#: The scene stands still where half of the pixels change by no more, in levels of 1/255; then new light of this
#: skewness is rain: dry pairs of frames with noise of up to 3 levels reach 0.17, and one in fifty of drizzle is below.
_STILL_LEVELS, _RAINY_LIGHT = 4, 0.2


class DryDetector:
    """Looks at the frames of one video in turn."""

    def __init__(self) -> None:
        self._before: np.ndarray | None = None

    def is_dry(self, luma: np.ndarray) -> bool:
        """Say whether there is no rain to be seen; False in doubt.

        Args:
            luma: H x W uint8, of any range; from 32 pixels a side on, else the answer is False.
        """
        luma = _reduced(luma)
        before, self._before = self._before, luma
        if min(luma.shape) < 2 * _BLOCK or rain_score(luma) >= _RAINY:
            return False
        return before is None or before.shape != luma.shape or not _new_rain(before, luma)

    def skip(self) -> None:
        """Pass over a frame that cannot be looked at: the next one is looked at alone."""
        self._before = None


def mark_dry(items: Iterator[DecodedFrame | Packet], form: WorkingFormat) -> Iterator[DecodedFrame | Packet]:
    """Yield what a source reads, with dry frames, in the form that is worked on, marked as such."""
    detector = DryDetector()
    for item in items:
        if not isinstance(item, DecodedFrame) or item.frame is None or item.damage:
            if isinstance(item, DecodedFrame):
                detector.skip()
            yield item
            continue
        frame = convert(item.frame, form.pix_fmt)
        yield DecodedFrame(frame, item.seconds, dry=detector.is_dry(form.luma(frame)))


def rain_score(luma: np.ndarray) -> float:
    """Return how much a picture, H x W uint8 of 32 pixels a side or more, looks like rain; higher for more."""
    better, weakest, strongest = _statistics(luma)
    return _WEIGHTS[0] * better + _WEIGHTS[1] * weakest + _WEIGHTS[2] * strongest


def _new_rain(before: np.ndarray, now: np.ndarray) -> bool:
    """Say whether new light in a scene that stands still has the form of rain."""
    import cv2

    # A frame that is shown twice says nothing of its rain, and has no new light.
    if np.median(cv2.absdiff(before, now)) > _STILL_LEVELS:
        return False
    return _statistics(cv2.subtract(now, before))[0] >= _RAINY_LIGHT


def _reduced(luma: np.ndarray) -> np.ndarray:
    import cv2

    height, width = luma.shape
    scale = min(height, width) / _SHORTER_SIDE
    if scale <= 1:
        return luma.copy()  # the frame is changed once it has been looked at
    size = max(round(width / scale), 1), max(round(height / scale), 1)
    return cv2.resize(luma, size, interpolation=cv2.INTER_AREA)


@functools.cache
def _line_filters() -> list[np.ndarray]:
    """Return for each angle the response to a bright line, second derivative of a Gaussian across it; sums to 0."""
    y, x = np.mgrid[-_RADIUS : _RADIUS + 1, -_RADIUS : _RADIUS + 1]
    filters = []
    for angle in np.deg2rad(_ANGLES):
        across = (x * np.cos(angle) - y * np.sin(angle)) / _THICKNESS
        along = (x * np.sin(angle) + y * np.cos(angle)) / _LENGTH
        kernel = (1 - across**2) * np.exp(-(across**2 + along**2) / 2)
        kernel -= kernel.mean()
        filters.append((kernel / np.abs(kernel).sum()).astype(np.float32))
    return filters


def _statistics(luma: np.ndarray) -> tuple[float, float, float]:
    """Return statistics of the response in blocks.

    These are the upper quartile of the skewness in its best direction; the logarithm of the median deviation in the
    weakest direction over the mean of all; the median skewness in the strongest direction.
    """
    import cv2

    height, width = (side // _BLOCK * _BLOCK for side in luma.shape)
    picture = luma[:height, :width].astype(np.float32)  # OpenCV filters bytes into floats slowly
    blocks = width // _BLOCK, height // _BLOCK
    deviations, skews = [], []
    for kernel in _line_filters():
        response = cv2.filter2D(picture, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT)
        square = cv2.multiply(response, response)
        second: Any = cv2.resize(square, blocks, interpolation=cv2.INTER_AREA)
        third: Any = cv2.resize(cv2.multiply(square, response), blocks, interpolation=cv2.INTER_AREA)
        deviations.append(np.median(np.sqrt(second)) + _STILL)
        skews.append(third / (second**1.5 + _STILL_CUBED))
    return (
        float(np.percentile(np.maximum.reduce(skews), 75)),
        float(np.log(min(deviations) / np.mean(deviations))),
        float(np.median(skews[int(np.argmax(deviations))])),
    )

"""A contact sheet of the best and the worst cases: rainy, output and truth beside each other, with their figures."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..engine import frames
from ..media.pictures.images import Picture, write_picture

#: Cases at either end.
_KEPT = 4
#: In pixels: the most that a picture takes, the space around everything, the size of letters.
_WIDTH, _HEIGHT, _GAP, _LETTERS = 400, 300, 12, 15
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)


@dataclass(frozen=True)
class Panel:
    """A picture and the line below it. pixels: H x W x 3 uint8."""

    title: str
    pixels: np.ndarray
    caption: str


@dataclass(frozen=True)
class Case:
    """One picture's row. score: more is better."""

    name: str
    score: float
    panels: tuple[Panel, ...]


def panel(title: str, image: np.ndarray, caption: str) -> Panel:
    """Make a panel of H x W x 3 floats in [0, 1], reduced to what the sheet has room for."""
    import cv2

    height, width = image.shape[:2]
    scale = min(_WIDTH / width, _HEIGHT / height, 1.0)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return Panel(title, frames.quantise(image, np.uint8), caption)


class Sheet:
    """A contact sheet: keeps the best and the worst of the cases that it is told of, and draws them in the end."""

    def __init__(self) -> None:
        self._cases: list[Case] = []

    def add(self, case: Case) -> None:
        """Keep a case if it is among the best or the worst; one whose score is NaN has no place in an order."""
        if np.isnan(case.score):
            return
        bisect.insort(self._cases, case, key=lambda each: -each.score)
        if len(self._cases) > 2 * _KEPT:
            del self._cases[_KEPT]

    @property
    def best(self) -> list[Case]:
        """The best first."""
        return self._cases[: (len(self._cases) + 1) // 2]

    @property
    def worst(self) -> list[Case]:
        """The worst first; none of them is among the best."""
        return self._cases[: (len(self._cases) + 1) // 2 - 1 : -1]

    def write(self, path: Path, headline: Iterable[str], order: str) -> None:
        """Draw everything.

        Args:
            headline: lines above it.
            order: what best and worst mean.

        Raises:
            InputError, MediaError: as ``write_picture``.
        """
        from PIL import Image, ImageDraw, ImageFont

        font = ImageFont.load_default(_LETTERS)
        line = _LETTERS + 6
        columns = max((len(case.panels) for case in self._cases), default=1)
        parts: list[str | Case] = list(headline)
        for title, cases in ((f"Best by {order}", self.best), (f"Worst by {order}", self.worst)):
            parts += [title, *cases] if cases else []
        heights = [_row_height(part, line) for part in parts]
        width = _GAP + columns * (_WIDTH + _GAP)
        canvas = Image.new("RGB", (width, 2 * _GAP + sum(heights)), _PAPER)
        draw = ImageDraw.Draw(canvas)
        y = _GAP
        for part, height in zip(parts, heights, strict=True):
            if isinstance(part, str):
                draw.text((_GAP, y), part, _INK, font)
            else:
                draw.text((_GAP, y), part.name, _INK, font)
                for column, each in enumerate(part.panels):
                    x = _GAP + column * (_WIDTH + _GAP)
                    canvas.paste(Image.fromarray(each.pixels), (x, y + line))
                    below = y + line + each.pixels.shape[0] + 3
                    draw.text((x, below), f"{each.title}  {each.caption}".rstrip(), _FAINT, font)
            y += height
        write_picture(path, Picture(np.asarray(canvas)))


def _row_height(part: str | Case, line: int) -> int:
    if isinstance(part, str):
        return line + 4
    return 2 * line + max(each.pixels.shape[0] for each in part.panels) + _GAP

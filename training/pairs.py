"""Rainy and clean pictures of the same scenes, as the data sets of the field lay them out.

Recognised by the names of folders and files, so that Rain100H/L, Rain200H/L, Rain1200 (DID), Rain1400 (DDN) and SPA are
read as they are published, and so are the copies with ``input`` and ``target`` that circulate:

    rainy/NNN.png          clean/NNN.png            and input, rain, rainy_image, real_world
    rain/X2/norain-1x2.png norain/norain-1.png      and target, gt, ground_truth, groundtruth, real_world_gt, label
    rainy_image/1_14.jpg   ground_truth/1.jpg       fourteen rains over one picture
    rain/000.png           gt/000gt.png
    rain-001.png           norain-001.png           in one folder, or the rainy ones in a folder of it
    0.jpg                                           both halves of one picture, side by side
    real_world.txt                                  a list: rainy and clean path on a line, as SPA has it
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from ..base.errors import InputError, MediaError
from ..media.pictures.images import SUFFIXES, read_picture
from .options import SMALLEST_SIDE, Layout

_RAINY = ("rainy", "rain", "rainy_image", "input", "inputs", "real_world")
_CLEAN = tuple(
    "clean norain ground_truth groundtruth gt target targets real_world_gt label reference clear".split()
)
#: Pictures that are looked at for halves, their least correlation on 16 x 16 thumbnails, and the share of them that has
#: to agree on which one is rainy.
_LOOKED_AT, _ALIKE, _AGREEMENT = 16, 0.5, 0.75


@dataclass(frozen=True)
class Scene:
    """A photograph, alone or with the same in rain: files, read when they are asked for.

    clean: the photograph, or both halves side by side. rainy: the same in rain, of its own file.
    halves: which half of ``clean`` is the rainy one; None where the picture is whole.
    """

    clean: Path
    rainy: Path | None = None
    halves: Literal["clean-left", "rain-left"] | None = None

    def read(self) -> tuple[np.ndarray, ...]:
        """Return (clean,) or (clean, rainy), each H x W x 3 uint8 RGB. 16-bit files keep their upper byte.

        Raises:
            MediaError: a file cannot be read, has a side below 32 pixels, or the two differ in size.
        """
        clean = _pixels(self.clean)
        if self.halves is not None:
            half = clean.shape[1] // 2
            left, right = clean[:, :half], clean[:, clean.shape[1] - half :]
            pictures = (left, right) if self.halves == "clean-left" else (right, left)
        elif self.rainy is not None:
            pictures = (clean, _pixels(self.rainy))
            if pictures[0].shape != pictures[1].shape:
                pictures = _cut_alike(*pictures, self)
        else:
            pictures = (clean,)
        if min(pictures[0].shape[:2]) < SMALLEST_SIDE:
            raise MediaError(f"{self.clean} has a side below {SMALLEST_SIDE} pixels.")
        return pictures


def _pixels(path: Path) -> np.ndarray:
    pixels = read_picture(path).pixels
    return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)


def _cut_alike(clean: np.ndarray, rainy: np.ndarray, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    # Copies of Rain100H lack the last row and column of their rainy pictures.
    height, width = (min(a, b) for a, b in zip(clean.shape[:2], rainy.shape[:2], strict=True))
    if max(abs(a - b) for a, b in zip(clean.shape, rainy.shape, strict=True)) > 1:
        raise MediaError(
            f"{scene.rainy} is {rainy.shape[1]}x{rainy.shape[0]} and {scene.clean} "
            f"{clean.shape[1]}x{clean.shape[0]}: not the same scene."
        )
    return clean[:height, :width], rainy[:height, :width]


def find_pairs(folder: Path, layout: Layout = "auto") -> list[Scene]:
    """Find the pairs below ``folder``, or those of a list, sorted by their rainy picture.

    Args:
        layout: ``folders`` for pictures of their own, ``clean-left`` and ``rain-left`` for halves of one picture (the
            published SSID-KD code has the clean one left); ``auto`` recognises it, taking the brighter halves for the
            rainy ones.

    Raises:
        InputError: nothing there that is laid out in a known way, or rainy pictures without a clean one.
    """
    if folder.is_file():
        if pairs := _listed(folder, folder.parent):
            return pairs
        raise InputError(f"{folder} is no list of pairs: a rainy and a clean picture on every line.")
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not there; give a folder of rainy and clean pictures, or a list of them."
        )
    if layout == "auto":
        for file in sorted(folder.glob("*.txt")):
            if pairs := _listed(file, folder):
                return pairs
    files = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
    )
    if not files:
        raise InputError(f"{folder} holds no picture to train on ({', '.join(sorted(SUFFIXES))}).")
    if layout in ("auto", "folders"):
        pairs = _of_their_own(folder, files)
        if pairs:
            return pairs
        if layout == "folders":
            raise InputError(
                f"{folder} holds no rainy and clean pictures in folders that are known by name "
                f"({', '.join(_RAINY)}; {', '.join(_CLEAN)}), and none named rain-... and norain-..."
            )
    if layout != "auto":
        return [Scene(file, halves=layout) for file in files]
    return [Scene(file, halves=_rainy_half(folder, files)) for file in files]


def _listed(file: Path, folder: Path) -> list[Scene]:
    """Return the pairs of a list; none where it is another kind of text."""
    try:
        lines = [line.split() for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as a list of pairs: {error}") from error
    if not all(len(line) == 2 and all(Path(p).suffix.lower() in SUFFIXES for p in line) for line in lines):
        return []
    # SPA's paths begin with a slash and mean the list's own folder.
    pairs = [tuple(folder / path.lstrip("/") for path in line) for line in lines]
    return [Scene(clean, rainy) for rainy, clean in sorted(pairs)]


def _of_their_own(folder: Path, files: Sequence[Path]) -> list[Scene]:
    rainy: dict[Path, tuple[str, ...]] = {}
    clean: dict[tuple[str, ...], Path] = {}
    for file in files:
        kind, place = _kind_and_place(file.relative_to(folder))
        if kind == "rainy":
            rainy[file] = place
        elif kind == "clean":
            clean[(*place, _key(file.stem))] = file
    pairs, alone = [], []
    for file, place in rainy.items():
        found = next((clean[it] for key in _keys(file.stem) if (it := (*place, key)) in clean), None)
        if found is None:
            alone.append(file)
        else:
            pairs.append(Scene(found, file))
    if pairs and alone:
        raise InputError(
            f"{len(alone)} rainy pictures of {folder} have no clean one, such as {alone[0]}; add or remove them."
        )
    return pairs


def _kind_and_place(path: Path) -> tuple[Literal["rainy", "clean"] | None, tuple[str, ...]]:
    """Return what a file is, by its name or the innermost folder that tells, and where it lies without that folder."""
    folders = list(path.parts[:-1])
    # X2 is a folder of Rain200's rainy pictures alone.
    if folders and folders[-1].lower() == "x2":
        folders.pop()
    for i in range(len(folders) - 1, -1, -1):
        name = folders[i].lower()
        if name in _CLEAN:
            return "clean", (*folders[:i], *folders[i + 1 :])
        if name in _RAINY:
            return "rainy", (*folders[:i], *folders[i + 1 :])
    stem = path.stem.lower()
    kind = "clean" if stem.startswith("norain-") else "rainy" if stem.startswith("rain-") else None
    return kind, tuple(folders)


def _key(stem: str) -> str:
    """Return what the names of the rainy and the clean picture of one scene have in common."""
    stem = re.sub(r"^(no)?rain-", "", stem.lower())
    return re.sub(r"(?<=\d)(x2|_?gt)$", "", stem)


def _keys(stem: str) -> Iterator[str]:
    key = _key(stem)
    yield key
    # One clean picture under several rains: 1_14 is the fourteenth of 1.
    if match := re.fullmatch(r"(.+)_\d+", key):
        yield match[1]


def _rainy_half(folder: Path, files: Sequence[Path]) -> Literal["clean-left", "rain-left"]:
    """Decide by brightness, as rain adds light, once it is sure that the halves show the same."""
    brighter, alike = [], []
    for file in files:
        if len(brighter) == _LOOKED_AT:
            break
        try:
            picture = _pixels(file)
        except MediaError:
            continue
        half = picture.shape[1] // 2
        left, right = (
            cv2.resize(each, (16, 16), interpolation=cv2.INTER_AREA).mean(2).ravel()
            for each in (picture[:, :half], picture[:, picture.shape[1] - half :])
        )
        brighter.append(left.mean() > right.mean())
        deviation = left.std() * right.std()
        alike.append(((left - left.mean()) * (right - right.mean())).mean() / max(deviation, 1e-6))
    if not alike or np.median(alike) < _ALIKE:
        raise InputError(
            f"{folder} is laid out in no known way: no folders such as rainy/ and clean/, and its pictures are no two "
            "halves of the same; rename its folders, or give clean photographs as photos."
        )
    share = np.mean(brighter)
    if max(share, 1 - share) < _AGREEMENT:
        raise InputError(
            f"{folder}: it cannot be told which halves are the rainy ones; give layout clean-left or rain-left."
        )
    return "rain-left" if share > 0.5 else "clean-left"

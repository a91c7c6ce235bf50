"""The pictures of an evaluation: folders of rainy ones, each with its truth where there is one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.errors import InputError
from ..engine import frames
from ..media.pictures.images import SUFFIXES, read_picture

Folder = str | os.PathLike[str]


@dataclass(frozen=True)
class Pair:
    """A rainy picture and its truth, None where there is none: two files of one stem.

    name: that stem; where there are several sets, with the set's name before it.
    """

    name: str
    rainy: Path
    clean: Path | None

    @property
    def stem(self) -> str:
        return self.rainy.stem


@dataclass(frozen=True)
class PictureSet:
    """One folder's pairs. name: the rainy folder as it was given."""

    name: str
    folder: Path
    pairs: tuple[Pair, ...]


def find_sets(rainy: Folder | Sequence[Folder], clean: Folder | Sequence[Folder] | None) -> list[PictureSet]:
    """Find a set for every folder of ``rainy``, with the truths of the folder of ``clean`` in its place.

    Raises:
        InputError: as :func:`find_pairs`, or a folder given twice, or another number of clean folders.
    """
    rainy_folders, clean_folders = _folders(rainy), _folders(clean)
    if clean_folders and len(clean_folders) != len(rainy_folders):
        raise InputError(
            f"{len(rainy_folders)} rainy and {len(clean_folders)} clean folders do not pair; give one clean folder for "
            "each rainy one, in the same order, or none at all."
        )
    if len({folder.resolve() for folder in rainy_folders}) < len(rainy_folders):
        raise InputError("A rainy folder is given twice; its pictures would count double.")
    truths = clean_folders or [None] * len(rainy_folders)
    several = len(rainy_folders) > 1
    return [
        PictureSet(str(folder), folder, tuple(find_pairs(folder, truth, f"{folder}/" if several else "")))
        for folder, truth in zip(rainy_folders, truths, strict=True)
    ]


def find_pairs(rainy: Folder, clean: Folder | None, before: str = "") -> list[Pair]:
    """Find the pictures of the folder ``rainy``, sorted by name, each with the one of the same stem in ``clean``.

    Truths without a rainy picture are passed over.

    Args:
        before: stands before every name.

    Raises:
        InputError: no folder, an empty one, two pictures of one stem in one folder, or a rainy picture without
            truth (named).
    """
    rainy_of = pictures_by_stem(Path(rainy))
    if clean is None:
        return [Pair(before + stem, path, None) for stem, path in rainy_of.items()]
    clean_of = pictures_by_stem(Path(clean))
    missing = [path.name for stem, path in rainy_of.items() if stem not in clean_of]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise InputError(
            f"{clean} has no picture named like {', '.join(missing[:5])}{more} of {rainy}; "
            "pairs have the same file name but for the suffix."
        )
    return [Pair(before + stem, path, clean_of[stem]) for stem, path in rainy_of.items()]


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """Find the pictures in a folder, sorted by name.

    Raises:
        InputError: no folder, an empty one, or two pictures of one stem.
    """
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


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray | None]:
    """Read (rainy, clean), H x W x 3 float32 in [0, 1].

    Raises:
        MediaError: a picture cannot be read. InputError: the sizes differ.
    """
    rainy = read_picture(pair.rainy).pixels
    if pair.clean is None:
        return frames.to_float(rainy), None
    return frames.to_float(rainy), read_like(pair.clean, rainy, pair.rainy)


def read_like(path: Path, other: np.ndarray, name: Path) -> np.ndarray:
    """Read a picture as H x W x 3 float32 in [0, 1] that has to have the size of another, called ``name``.

    Raises:
        MediaError: it cannot be read. InputError: the sizes differ.
    """
    pixels = read_picture(path).pixels
    if pixels.shape != other.shape:
        raise InputError(
            f"{name} is {other.shape[1]}x{other.shape[0]} and {path} is {pixels.shape[1]}x{pixels.shape[0]}; "
            "a pair must have one size."
        )
    return frames.to_float(pixels)


def _folders(given: Folder | Sequence[Folder] | None) -> list[Path]:
    if given is None:
        return []
    if isinstance(given, str | os.PathLike):
        return [Path(given)]
    return [Path(each) for each in given]

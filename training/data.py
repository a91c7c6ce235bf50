"""Clean photographs, and rainy / clean pairs made from them on the fly."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..engine.errors import InputError
from ..engine.media.images import read_picture
from ..engine.models.ssid_kd import SMALLEST_SIDE
from .rain import rainy_pair

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def find_photos(folder: Path, exclude_csv: Path | None = None) -> list[Path]:
    """Every picture below ``folder``, sorted, without those listed in the first column of ``exclude_csv`` (a
    table with a header; paths relative to the table's own folder).

    Raises:
        InputError: no such folder or table, no picture left, or a table none of whose rows names a picture there.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a folder of clean photographs.")
    photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if exclude_csv is not None:
        try:
            with exclude_csv.open(newline="", encoding="utf-8") as f:
                rows = [row for row in csv.reader(f) if row][1:]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{exclude_csv} cannot be read as a table of pictures to leave out: {error}"
            ) from error
        left_out = {(exclude_csv.parent / row[0]).resolve() for row in rows}
        kept = [p for p in photos if p.resolve() not in left_out]
        if len(kept) == len(photos):
            raise InputError(
                f"{exclude_csv} leaves out no picture of {folder}; its first column must hold paths relative to "
                f"{exclude_csv.parent}."
            )
        photos = kept
    if not photos:
        raise InputError(f"{folder} holds no picture to train on ({', '.join(sorted(_SUFFIXES))}).")
    return photos


def load_photos(paths: Iterable[Path]) -> list[np.ndarray]:
    """The photographs as H x W x 3 uint8 RGB. 16-bit files keep their upper byte.

    Raises:
        MediaError: a file cannot be read. InputError: a picture is too small to train on.
    """
    photos = []
    for path in paths:
        pixels = read_picture(path).pixels
        if min(pixels.shape[:2]) < SMALLEST_SIDE:
            raise InputError(f"{path} has a side below {SMALLEST_SIDE} pixels; leave it out.")
        photos.append(pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8))
    return photos


def split_photos(photos: Sequence[Path], validation: int, seed: int) -> tuple[list[Path], list[Path]]:
    """(training, validation), disjoint, drawn with ``seed``."""
    order = np.random.default_rng(seed).permutation(len(photos))
    held_out = set(order[:validation].tolist())
    return (
        [p for i, p in enumerate(photos) if i not in held_out],
        [photos[i] for i in sorted(held_out)],
    )


def to_tensor(image: np.ndarray) -> Tensor:
    """H x W x 3 to 3 x H x W float32."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))


@dataclass(frozen=True)
class RainPatches(Dataset):
    """Random patches under random rain: item i is (rainy, clean), each 3 x patch x patch float32 in [0, 1].

    Item i depends on (seed, i) alone, so any number of workers and a resumed run see the same patches.
    """

    photos: Sequence[np.ndarray]
    patch: int
    length: int
    seed: int
    offset: int = 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, self.offset + index))
        photo = self.photos[int(rng.integers(len(self.photos)))]
        rainy, clean = rainy_pair(_augmented_patch(photo, self.patch, rng), rng)
        return to_tensor(rainy), to_tensor(clean)


def _augmented_patch(photo: np.ndarray, patch: int, rng: np.random.Generator) -> np.ndarray:
    """A patch x patch x 3 float32 crop, sometimes reduced, mirrored, turned or exposed differently."""
    # Reducing sharpens a photograph's spectrum: rain must be told from finer detail than JPEGs of one size have.
    size = int(patch * rng.uniform(1.0, 2.0)) if rng.random() < 0.3 else patch
    size = min(size, *photo.shape[:2])
    y = int(rng.integers(photo.shape[0] - size + 1))
    x = int(rng.integers(photo.shape[1] - size + 1))
    crop = photo[y : y + size, x : x + size]
    if size != patch:
        crop = cv2.resize(
            crop, (patch, patch), interpolation=cv2.INTER_AREA if size > patch else cv2.INTER_CUBIC
        )
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.25:
        crop = np.rot90(crop, int(rng.integers(1, 4)))
    image = crop.astype(np.float32) / 255
    if rng.random() < 0.3:
        image = image ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    return image


def validation_pairs(photos: Sequence[np.ndarray], seed: int) -> list[tuple[Tensor, Tensor]]:
    """One fixed (rainy, clean) pair a photograph, whole, sides cut to multiples of 32."""
    pairs = []
    for i, photo in enumerate(photos):
        height, width = (side // 32 * 32 for side in photo.shape[:2])
        rng = np.random.default_rng((seed, i))
        rainy, clean = rainy_pair(photo[:height, :width].astype(np.float32) / 255, rng)
        pairs.append((to_tensor(rainy), to_tensor(clean)))
    return pairs

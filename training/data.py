"""Scenes kept in memory, and patches drawn from them: of photographs under synthetic rain, of pairs, of real rain."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..base.errors import InputError, MediaError
from ..media.pictures.images import SUFFIXES
from ..samples.rain import KINDS, add_rain, sample_rain
from .distributed import World
from .options import Phase
from .pairs import Scene

#: Decoded pictures that are kept in memory; more are decoded whenever they are drawn.
_KEPT_BYTES = 1 << 30
_READERS = 8
#: Share of each kind of rain in training, in the order of ``KINDS``. Clean frames teach the network to leave dry
#: pictures alone; downpours are the hardest and get the most.
TRAINING_SHARES = (0.05, 0.08, 0.15, 0.17, 0.22, 0.20, 0.13)

Batch = dict[str, Any]

_log = logging.getLogger(__name__)


def find_photos(folder: Path, exclude_csv: Path | None = None) -> list[Path]:
    """Return every picture below ``folder``, sorted, without those listed in the first column of ``exclude_csv`` (a
    table, with or without a header; paths relative to the table's own folder).

    Raises:
        InputError: no such folder or table, no picture left, or a table none of whose rows names a picture there.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a folder of photographs.")
    photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if exclude_csv is not None:
        try:
            with exclude_csv.open(newline="", encoding="utf-8") as f:
                rows = [row for row in csv.reader(f) if row]
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
        raise InputError(f"{folder} holds no picture to train on ({', '.join(sorted(SUFFIXES))}).")
    return photos


def split(scenes: Sequence[Scene], validation: int, seed: int) -> tuple[list[Scene], list[Scene]]:
    """Split scenes into (training, validation), drawn with ``seed``."""
    order = np.random.default_rng(seed).permutation(len(scenes))
    held_out = set(order[:validation].tolist())
    return (
        [scene for i, scene in enumerate(scenes) if i not in held_out],
        [scenes[i] for i in sorted(held_out)],
    )


class Scenes:
    """Scenes that can be read, the first of them in memory; those that cannot are named in a warning and skipped.

    Raises:
        InputError: none of them can be read.
    """

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self._kept: list[tuple[np.ndarray, ...]] = []
        readable, damaged, size, read = [], [], 0, 0
        rest = iter(scenes)
        with ThreadPoolExecutor(_READERS) as pool:
            while size < _KEPT_BYTES and (few := list(islice(rest, _READERS))):
                for scene, found in zip(few, pool.map(_read, few), strict=True):
                    read += 1
                    if isinstance(found, MediaError):
                        damaged.append(found)
                        continue
                    readable.append(scene)
                    self._kept.append(found)
                    size += sum(picture.nbytes for picture in found)
        for error in damaged:
            _log.warning("%s It is skipped.", error)
        if damaged:
            _log.warning("%d of %d pictures or pairs cannot be used.", len(damaged), read)
        if scenes and not readable:
            raise InputError(f"None of {len(damaged)} pictures or pairs can be used; the first: {damaged[0]}")
        self._scenes = [*readable, *rest]

    def __len__(self) -> int:
        return len(self._scenes)

    def read(self, index: int) -> tuple[np.ndarray, ...]:
        """Return (clean,) or (clean, rainy) of a scene, H x W x 3 uint8; raise MediaError where it cannot be read."""
        return self._kept[index] if index < len(self._kept) else self._scenes[index].read()

    def draw(self, rng: np.random.Generator, skipped: list[str]) -> tuple[np.ndarray, ...]:
        """Read a scene drawn by chance, or the next one that can be read; add what cannot to ``skipped``."""
        drawn = int(rng.integers(len(self)))
        for index in range(drawn, drawn + len(self)):
            try:
                return self.read(index % len(self))
            except MediaError as error:
                skipped.append(str(error))
        raise MediaError(f"None of {len(self)} pictures can be read any more; the first: {skipped[0]}")


def _read(scene: Scene) -> tuple[np.ndarray, ...] | MediaError:
    try:
        return scene.read()
    except MediaError as error:
        return error


def rainy_pair(clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return (rainy, clean) of an H x W x 3 float32 RGB picture in [0, 1], the rain drawn by ``TRAINING_SHARES`` and
    the rainy picture in steps of 1/255, as files are."""
    kind = KINDS[int(rng.choice(len(KINDS), p=TRAINING_SHARES))]
    rainy, clean = add_rain(clean, sample_rain(kind, rng), rng)
    return np.round(rainy * 255) / np.float32(255), clean


def to_tensor(image: np.ndarray) -> Tensor:
    """Turn H x W x 3 into 3 x H x W float32."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))


@dataclass(frozen=True)
class Patches(Dataset):
    """Random patches: item i is a mapping of ``rainy``, ``clean`` and, where there are ``real`` scenes, ``real``, each
    3 x patch x patch float32 in [0, 1], and ``skipped``, a list of texts on files that could not be read.

    Item i depends on (seed, i) alone, so any number of workers and processes and a resumed run see the same patches.

    augment: patches are also reduced, mirrored and, where the rain is synthetic, turned and exposed differently.
    """

    scenes: Scenes
    patch: int
    seed: int
    augment: bool = True
    real: Scenes | None = None

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng((self.seed, index))
        skipped: list[str] = []
        scene = self.scenes.draw(rng, skipped)
        if len(scene) == 1:
            cut = _augmented_patch(scene[0], self.patch, rng) if self.augment else self._cut(scene, rng)[0]
            rainy, clean = rainy_pair(cut, rng)
        else:
            clean, rainy = self._cut(scene, rng)
            if self.augment and rng.random() < 0.5:
                clean, rainy = clean[:, ::-1], rainy[:, ::-1]
        item: Batch = {"rainy": to_tensor(rainy), "clean": to_tensor(clean), "skipped": skipped}
        if self.real is not None:
            item["real"] = to_tensor(self._cut(self.real.draw(rng, skipped), rng)[0])
        return item

    def _cut(self, scene: tuple[np.ndarray, ...], rng: np.random.Generator) -> list[np.ndarray]:
        """Cut the same patch out of every picture of a scene, patch x patch x 3 float32."""
        return [crop.astype(np.float32) / 255 for crop in _crop(scene, self.patch, self.patch, rng)]


def _crop(
    pictures: Sequence[np.ndarray], size: int, patch: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Cut the same square of ``size`` pixels, or as large as fits, out of every picture, resized to ``patch``."""
    height, width = pictures[0].shape[:2]
    size = min(size, height, width)
    y = int(rng.integers(height - size + 1))
    x = int(rng.integers(width - size + 1))
    crops = [picture[y : y + size, x : x + size] for picture in pictures]
    if size != patch:
        how = cv2.INTER_AREA if size > patch else cv2.INTER_CUBIC
        crops = [cv2.resize(crop, (patch, patch), interpolation=how) for crop in crops]
    return crops


def _augmented_patch(photo: np.ndarray, patch: int, rng: np.random.Generator) -> np.ndarray:
    """Cut out patch x patch x 3 float32, sometimes reduced, mirrored, turned or exposed differently."""
    # Reducing sharpens a photograph's spectrum: rain must be told from finer detail than JPEGs of one size have.
    size = int(patch * rng.uniform(1.0, 2.0)) if rng.random() < 0.3 else patch
    (crop,) = _crop([photo], size, patch, rng)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.25:
        crop = np.rot90(crop, int(rng.integers(1, 4)))
    image = crop.astype(np.float32) / 255
    if rng.random() < 0.3:
        image = image ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    return image


def part_size(phase: Phase, world: World, accumulate: int) -> int:
    """Count the patches of one of the parts that the processes compute a batch in; raise InputError where they are not
    whole."""
    size = phase.batch // (world.size * accumulate)
    if size * world.size * accumulate != phase.batch:
        raise InputError(
            f"A batch of {phase.batch} cannot be split among {world.size} processes and {accumulate} parts; "
            f"choose a multiple of {world.size * accumulate}."
        )
    return size


def batches(
    patches: Patches, phase: Phase, first: int, world: World, *, accumulate: int, workers: int
) -> Iterator[Batch]:
    """Yield this process's parts of the batches of a phase's steps from ``first`` on, ``accumulate`` parts a step.

    A step takes the same patches however many processes and parts there are.
    """
    size = part_size(phase, world, accumulate)
    starts = (
        step * phase.batch + (part * world.size + world.rank) * size
        for step in range(first, phase.steps)
        for part in range(accumulate)
    )
    # PyTorch keeps its workers to one thread; OpenCV would start as many as there are cores in each. It is told before
    # they are forked, as it waits for ever for threads to end that it had in the parent alone.
    cv2.setNumThreads(1)
    return iter(
        DataLoader(
            patches,
            batch_sampler=(range(start, start + size) for start in starts),  # pyright: ignore[reportArgumentType]
            num_workers=workers,
            collate_fn=_collate,
            prefetch_factor=4 if workers else None,
            pin_memory=world.device.type == "cuda",
        )
    )


def _collate(items: Sequence[Batch]) -> Batch:
    pictures = {name: torch.stack([item[name] for item in items]) for name in items[0] if name != "skipped"}
    return {**pictures, "skipped": [text for item in items for text in item["skipped"]]}


def validation_pairs(scenes: Scenes, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return one fixed (rainy, clean) pair a scene, whole, sides cut to multiples of 32; photographs under rain of
    ``seed``.

    A pair depends on its place among the scenes and not on the others.

    Raises:
        MediaError: a scene cannot be read.
    """
    pairs = []
    for i in range(len(scenes)):
        scene = scenes.read(i)
        height, width = (side // 32 * 32 for side in scene[0].shape[:2])
        pictures = [picture[:height, :width].astype(np.float32) / 255 for picture in scene]
        if len(pictures) == 1:
            rainy, clean = rainy_pair(pictures[0], np.random.default_rng((seed, i)))
        else:
            clean, rainy = pictures
        pairs.append((to_tensor(rainy), to_tensor(clean)))
    return pairs

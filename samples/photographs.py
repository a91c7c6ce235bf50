"""Four CC0 photographs, which come with scikit-image, and the same under synthetic rain."""

from __future__ import annotations

import numpy as np

from .rain import Kind, add_rain, sample_rain

#: Photographs, their rain from drizzle to downpour, and the corner (y, x) of the crop of the photograph.
_PICTURES: tuple[tuple[str, Kind, int, int], ...] = (
    ("astronaut", "downpour", 0, 128),
    ("chelsea", "light", 20, 100),
    ("coffee", "heavy", 80, 180),
    ("rocket", "drizzle", 100, 200),
)
#: In pixels: whole for the SSID-KD family, small enough for the largest network's fp32 reference on a CPU.
PICTURE_SIZE = (192, 256)


def rainy_pairs(
    height: int = PICTURE_SIZE[0], width: int = PICTURE_SIZE[1], count: int | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return four photographs (or the first ``count`` of them), by name, as (under synthetic rain, truth): height x
    width x 3 float32 RGB in [0, 1], always the same.

    The photographs are CC0 and come with scikit-image. Beyond their borders they are mirrored.
    """
    pairs = {}
    for seed, (name, photo) in enumerate(clean_pictures(height, width, count).items()):
        rng = np.random.default_rng(seed)
        rainy, truth = add_rain(photo, sample_rain(_PICTURES[seed][1], rng), rng)
        pairs[name] = rainy.astype(np.float32), truth
    return pairs


def clean_pictures(
    height: int = PICTURE_SIZE[0], width: int = PICTURE_SIZE[1], count: int | None = None
) -> dict[str, np.ndarray]:
    """Return the same photographs without rain, under the same names."""
    from skimage import data

    pictures = {}
    for name, kind, y, x in _PICTURES[:count]:
        photo = getattr(data, name)()[y : y + height, x : x + width].astype(np.float32) / 255
        missing = (height - photo.shape[0], width - photo.shape[1])
        photo = np.pad(photo, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
        pictures[f"{name} in {kind}"] = photo
    return pictures

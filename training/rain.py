"""The mixture of synthetic rain that networks are trained and validated on."""

from __future__ import annotations

import numpy as np

from ..samples.rain import KINDS, add_rain, sample_rain

#: Share of each kind of rain in training, in the order of ``KINDS``. Clean frames teach the network to leave
#: dry pictures alone; downpours are the hardest and get the most.
TRAINING_SHARES = (0.05, 0.08, 0.15, 0.17, 0.22, 0.20, 0.13)


def rainy_pair(clean: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """clean: H x W x 3 float32 RGB in [0, 1]. Returns (rainy, clean) like it, the rain drawn by
    ``TRAINING_SHARES`` and the rainy picture in steps of 1/255, as files are."""
    kind = KINDS[int(rng.choice(len(KINDS), p=TRAINING_SHARES))]
    rainy, clean = add_rain(clean, sample_rain(kind, rng), rng)
    return np.round(rainy * 255) / np.float32(255), clean

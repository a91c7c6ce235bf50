"""Bootstrap intervals: is one engine better than another on these pictures, or were the pictures kind to it?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..base.errors import InputError

RESAMPLES, LEVEL, SEED = 10_000, 0.95, 0
#: Of the drawn indices that are in memory at a time.
_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Interval:
    """The bootstrap interval of a mean over pictures.

    mean: of the pictures themselves. low, high: the interval's ends. pictures: how many took part. level: 0 to 1.
    """

    mean: float
    low: float
    high: float
    pictures: int
    level: float = LEVEL

    def to_json(self) -> dict[str, Any]:
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


def paired_bootstrap(
    differences: Sequence[float], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = SEED
) -> Interval:
    """Return the percentile interval (Efron and Tibshirani, 1993, ch. 13) of the mean of paired differences: pictures
    are drawn with replacement, each with both of its figures. The same input gives the same interval.

    Raises:
        InputError: fewer than two differences, or one that is not finite.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise InputError("A bootstrap needs the finite differences of at least two pictures.")
    random = np.random.default_rng(seed)
    means = []
    step = max(1, _AT_ONCE // len(values))
    for begin in range(0, resamples, step):
        count = min(step, resamples - begin)
        means.append(values[random.integers(0, len(values), (count, len(values)))].mean(axis=1))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high), len(values), level)

"""Sessions whose network is plain arithmetic, engines around them, and what they make of an image."""

from __future__ import annotations

import threading
from typing import Literal

import numpy as np

from derain_engine.engine.frames import quantise, to_float
from derain_engine.engine.runtime import Engine

from ..helpers import a_fake_manifest


class FakeSession:
    """`gain * x + offset` as a session would compute it; records what it is given and how many are inside."""

    precision = "fp32"
    available_memory: int | None = None

    def __init__(self, gain=0.9, offset=0.03, parallelism=1):
        self.parallelism = parallelism
        self.gain, self.offset = np.float32(gain), np.float32(offset)
        self.seen: list[tuple[tuple[int, ...], str]] = []
        self.closed = 0
        self.inside = self.most_inside = 0
        self.lock = threading.Lock()

    def network(self, x):
        return self.gain * x + self.offset

    def run(self, batch, out=None):
        assert not self.closed
        assert batch.flags.c_contiguous and batch.dtype in (np.uint8, np.float32)
        with self.lock:
            self.seen.append((batch.shape, str(batch.dtype)))
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        clean = (
            quantise(self.network(to_float(batch)), batch.dtype)
            if batch.dtype == np.uint8
            else self.network(batch)
        )
        with self.lock:
            self.inside -= 1
        return clean

    def close(self):
        self.closed += 1


class ColumnSums(FakeSession):
    """A network that sees the whole frame: what it makes of a pixel depends on how it was padded."""

    def network(self, x):
        return 0.5 * x + 0.5 * x.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32)


def an_engine(
    session=None, *, tile: Literal["auto"] | int = 0, memory_limit_bytes: int | None = 2**40, **changes
):
    return Engine(
        session or FakeSession(), a_fake_manifest(**changes), tile=tile, memory_limit_bytes=memory_limit_bytes
    )


def noise(*shape, dtype="uint8", seed=0):
    values = np.random.default_rng([seed, *shape]).random(shape)
    if np.dtype(dtype).kind == "u":
        return np.round(values * np.iinfo(dtype).max).astype(dtype)
    return values.astype(dtype)


def cleaned(image):
    """Return what FakeSession's network makes of an image, computed here."""
    y = np.float32(0.9) * to_float(image) + np.float32(0.03)
    return quantise(y, image.dtype) if image.dtype.kind == "u" else y.astype(image.dtype)

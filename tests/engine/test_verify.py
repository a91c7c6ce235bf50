from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from derain_engine.base.errors import VerificationError
from derain_engine.engine import verify
from derain_engine.engine.frames import quantise
from derain_engine.models.spec import ModelSpec
from derain_engine.models.ssid_kd import Derained
from derain_engine.samples import photographs

SPEC = ModelSpec("darken", granularity=32, smallest_side=32)


class Darken(nn.Module):
    """A reference that is easy to compute: every pixel times 0.8."""

    def forward(self, image: torch.Tensor) -> Derained:
        return Derained(image * 0.8, image * 0.2, image)


class FakeSession:
    parallelism = 1
    precision = "fp32"
    available_memory = None

    def __init__(self, error: float = 0.0, at: int | None = None, levels: int = 0) -> None:
        self.error, self.at, self.levels = error, at, levels

    def run(self, batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        if batch.dtype == np.uint8:
            return quantise(batch / np.float32(255) * np.float32(0.8), np.uint8) + np.uint8(self.levels)
        clean = batch * np.float32(0.8)
        if self.at is None:
            return clean + np.float32(self.error)
        clean.reshape(-1)[self.at] += np.float32(self.error)
        return clean

    def close(self) -> None:
        pass


def report(session: FakeSession, precision: str) -> verify.Report:
    return verify.verify(session, Darken(), SPEC, precision, photographs.rainy_pairs())


def test_pictures_are_rainy_photographs_and_always_the_same() -> None:
    first, second = photographs.rainy_pairs(), photographs.rainy_pairs()
    assert len(first) == 4
    for name, (picture, _) in first.items():
        assert picture.dtype == np.float32 and picture.shape == (192, 256, 3)
        assert picture.min() >= 0 and picture.max() <= 1 and picture.std() > 0.05
        np.testing.assert_array_equal(picture, second[name][0])


def test_an_equal_session_passes_in_every_precision() -> None:
    for precision in ("fp32", "bf16", "fp16"):
        found = report(FakeSession(), precision)
        assert found.missed() == [] and found.uint8_levels == 0
        verify.check(found, "net")


@pytest.mark.parametrize(
    ("precision", "error", "at", "levels", "missed"),
    [
        ("fp32", 5e-6, None, 0, []),
        ("fp32", 3e-5, None, 0, ["max-abs"]),
        ("fp32", 0.0, None, 1, []),
        ("fp32", 0.0, None, 2, ["uint8"]),
        ("bf16", 3e-3, None, 0, []),
        ("bf16", 5e-3, None, 0, ["psnr"]),
        ("bf16", 3e-2, 1000, 0, ["max-abs"]),
        ("fp16", 3e-2, None, 7, ["psnr", "max-abs"]),
        ("fp16", 0.0, None, 8, ["uint8"]),
    ],
)
def test_bounds(precision: str, error: float, at: int | None, levels: int, missed: list[str]) -> None:
    found = report(FakeSession(error, at, levels), precision)
    assert [line.split(":")[0] for line in found.missed()] == missed
    if missed:
        with pytest.raises(VerificationError, match=missed[0]):
            verify.check(found, "net")
    verify.check(found, "net", accept=missed)


def test_networks_that_remember_maxima_may_differ_in_a_few_values() -> None:
    one = verify.Comparison("one", psnr=104.0, max_abs=4e-4, largest=1.0, uint8_levels=1)
    assert verify.Report("fp32", (one,), picks_maxima=True).missed() == []
    (missed,) = verify.Report("fp32", (one,)).missed()
    assert "4.00e-04 of max(1, max|reference|), at most 1e-05" in missed
    far = dataclasses.replace(one, max_abs=2e-3)
    (missed,) = verify.Report("fp32", (far,), picks_maxima=True).missed()
    assert missed.endswith("at most 1e-03")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_never_accepted(value: float) -> None:
    with pytest.raises(VerificationError, match=r"1 values that are NaN or infinite on 'astronaut"):
        report(FakeSession(value, at=5), "bf16")


def test_a_reference_that_is_nan_is_named() -> None:
    good = np.zeros((1, 2, 2, 3), np.float32)
    with pytest.raises(VerificationError, match="The reference network"):
        verify.compare("picture", good, good.astype(np.uint8), good * np.nan)


def test_the_worst_picture_decides() -> None:
    one = verify.Comparison("one", psnr=60.0, max_abs=1e-3, largest=1.0, uint8_levels=1)
    two = verify.Comparison("two", psnr=40.0, max_abs=1e-4, largest=1.0, uint8_levels=3)
    found = verify.Report("bf16", (one, two))
    assert (found.psnr, found.max_abs, found.uint8_levels) == (40.0, 1e-3, 3)
    assert found.to_json()["psnr_db"] == 40.0


def test_the_record_of_equal_outputs_is_valid_json() -> None:
    assert report(FakeSession(), "fp32").to_json()["psnr_db"] is None or np.isfinite(
        report(FakeSession(), "fp32").to_json()["psnr_db"]
    )

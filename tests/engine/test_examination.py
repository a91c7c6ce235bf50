"""The pictures that a build looks at: the usual pictures, and little in tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from derain_engine.base.sizes import FrameSizes
from derain_engine.engine.backends.reference import ReferenceSession
from derain_engine.engine.build import BuildReport, build
from derain_engine.engine.examination import Examination, current, examining
from derain_engine.models.checkpoint import save_checkpoint
from derain_engine.models.ssid_kd import SSIDKDConfig

from ..helpers import strong


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Record the shapes of all batches that an engine of the reference backend is given."""
    run, shapes = ReferenceSession.run, list[tuple[int, ...]]()

    def recorded(self: ReferenceSession, batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        shapes.append(batch.shape)
        return run(self, batch, out)

    monkeypatch.setattr(ReferenceSession, "run", recorded)
    return shapes


def built(folder: Path) -> BuildReport:
    network = strong(SSIDKDConfig((2, 2, 2), (1, 1, 1), blocks="mffb"))
    save_checkpoint(folder / "small.safetensors", network, "ssid-kd", metadata={})
    return build(folder / "small.safetensors", folder / "small.derain", backend="reference")


def test_a_build_in_tests_looks_at_few_pixels(seen: list[tuple[int, ...]], tmp_path: Path) -> None:
    report = built(tmp_path)
    assert len(report.verification.comparisons) == 1 and report.timed_size == (64, 64)
    pixels = sum(count * height * width for count, height, width, _ in seen)
    # One picture as floats and as bytes, and what is timed: a frame to warm up and five more.
    assert 0 < pixels <= 2 * 32 * 64 + 6 * 64 * 64


def test_a_build_by_users_looks_at_four_photographs(seen: list[tuple[int, ...]], tmp_path: Path) -> None:
    with examining(Examination()):
        report = built(tmp_path)
    assert len(report.verification.comparisons) == 4 and report.timed_size == (512, 512)
    assert seen[:8] == [(1, 192, 256, 3)] * 8 and set(seen[8:]) == {(1, 512, 512, 3)}


def test_another_examination_ends_with_its_block() -> None:
    before, other = current(), Examination((8, 8))
    with pytest.raises(ZeroDivisionError), examining(other):
        assert current() is other
        raise ZeroDivisionError
    assert current() is before


@pytest.mark.parametrize(
    ("sizes", "compared", "timed"),
    [
        (FrameSizes(), (192, 256), (512, 512)),
        (FrameSizes((600, 600), alignment=8), (600, 600), (600, 600)),
        (FrameSizes((32, 32), ((64, 96),)), (64, 96), (64, 96)),
        (FrameSizes((32, 32), ((96, 512), (64, 64)), (128, 1024)), (128, 256), (96, 512)),
        (FrameSizes.only((64, 96)), (64, 96), (64, 96)),
    ],
)
def test_pictures_are_as_large_as_the_engine_takes(
    sizes: FrameSizes, compared: object, timed: object
) -> None:
    assert (Examination().compared_size(sizes), Examination().timed_size(sizes)) == (compared, timed)

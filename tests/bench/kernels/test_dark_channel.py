from __future__ import annotations

import pytest
import torch

from derain_engine.base.errors import InputError
from derain_engine.bench.kernels.dark_channel import measure
from derain_engine.kernels import dark_channel
from derain_engine.kernels.dark_channel import by_torch


def test_rows_say_what_was_measured():
    before, stages = torch.get_num_threads(), []
    rows = measure(
        windows=(3, 16), height=7, width=13, runs=5, threads=1, progress=lambda *stage: stages.append(stage)
    )
    assert torch.get_num_threads() == before
    assert [(row.name, row.window, row.padding) for row in rows] == [
        ("nn.MaxPool3d", 3, 1),
        ("separable", 3, 1),
        ("nn.MaxPool3d", 16, 8),
        ("separable", 16, 8),
    ]
    for plain, fast in (rows[:2], rows[2:]):
        assert (plain.height, plain.width, plain.threads, plain.runs) == (7, 13, 1, 5)
        assert (plain.speedup, plain.verified, fast.verified) == (1.0, None, True)
        assert fast.speedup == pytest.approx(plain.median_ms / fast.median_ms)
        assert 0 < fast.p5_ms <= fast.median_ms <= fast.p95_ms
    assert {stage for stage, _ in stages} == {"Dark channel, P = 3", "Dark channel, P = 16"}
    assert all(0 <= done <= 1 for _, done in stages)


def first_of_ties_missed(x, window, padding):
    """Return the same values, with the last of equal maxima as the source of each."""
    flipped = x.flip(1, 2, 3)
    return by_torch.box_maximum_reference(flipped, window, padding).flip(2, 3)


@pytest.mark.parametrize(
    "wrong",
    [first_of_ties_missed, lambda *box: by_torch.box_maximum_reference(*box) + 1e-6],
    ids=["ties", "values"],
)
def test_what_differs_is_not_verified(wrong, monkeypatch):
    monkeypatch.setattr(dark_channel, "dark_channel_maximum", wrong)
    rows = measure(windows=(3,), height=16, width=16, runs=1, threads=1)
    assert [row.verified for row in rows] == [None, False]


@pytest.mark.parametrize(
    "wrong", [{"windows": ()}, {"windows": (0,)}, {"runs": 0}, {"height": 0}, {"threads": 0}]
)
def test_nothing_to_measure_is_refused(wrong):
    with pytest.raises(InputError, match="at least 1"):
        measure(**wrong)

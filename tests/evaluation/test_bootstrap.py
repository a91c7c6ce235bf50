from __future__ import annotations

import math

import numpy as np
import pytest

from derain_engine.base.errors import InputError
from derain_engine.evaluation.bootstrap import Interval, paired_bootstrap


def test_the_interval_is_the_one_of_written_out_draws() -> None:
    values = [0.3, -0.1, 0.8, 0.4, 0.2]
    random = np.random.default_rng(0)
    draws = random.integers(0, 5, (10_000, 5))
    means = sorted(sum(values[i] for i in draw) / 5 for draw in draws)
    found = paired_bootstrap(values)
    assert found.mean == pytest.approx(0.32)
    assert found.low == pytest.approx(np.quantile(means, 0.025))
    assert found.high == pytest.approx(np.quantile(means, 0.975))
    assert (found.pictures, found.level) == (5, 0.95)


def test_the_same_differences_give_the_same_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(1).normal(size=30)
    assert paired_bootstrap(list(values)) == paired_bootstrap(list(values))
    assert paired_bootstrap(list(values)) != paired_bootstrap(list(values), seed=1)


def test_for_many_pictures_it_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(2).normal(0.3, 1, 400)
    half = 1.96 * values.std() / math.sqrt(400)
    found = paired_bootstrap(list(values))
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.1 * half)


def test_it_covers_the_true_mean_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    found = [paired_bootstrap(list(random.normal(0.5, 1, 40)), resamples=400) for _ in range(300)]
    covered = np.mean([each.low <= 0.5 <= each.high for each in found])
    assert 0.90 <= covered <= 0.98


def test_draws_in_pieces_are_the_draws_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from derain_engine.evaluation import bootstrap as module

    values = list(np.random.default_rng(4).normal(size=7))
    whole = paired_bootstrap(values, resamples=1001)
    monkeypatch.setattr(module, "_AT_ONCE", 70)
    assert paired_bootstrap(values, resamples=1001) == whole


def test_equal_differences_have_no_width() -> None:
    assert paired_bootstrap([0.25] * 4) == Interval(0.25, 0.25, 0.25, 4)


@pytest.mark.parametrize("bad", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_what_has_no_interval_is_refused(bad: list[float]) -> None:
    with pytest.raises(InputError):
        paired_bootstrap(bad)

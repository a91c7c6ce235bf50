"""The cost that int8 may have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from derain_engine.engine import metrics, quality
from derain_engine.engine.quality import Quality, cost, judge

GOOD = Quality(20.0, 30.0, 0.9, 30.0, 0.9, 50.0)


def test_a_picture_is_judged_on_clamped_outputs() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((16, 20, 3), dtype=np.float32)
    rainy, reference = np.clip(truth + 0.3, 0, 1), truth + np.float32(0.05)
    engine = reference.copy()
    engine[0, 0] = 5
    found = judge(rainy, truth, reference, engine)
    assert found.rainy_psnr == metrics.psnr(rainy, truth)
    assert found.reference_psnr == metrics.psnr(np.clip(reference, 0, 1), truth)
    assert found.engine_psnr == metrics.psnr(np.clip(engine, 0, 1), truth) < found.reference_psnr
    assert found.engine_ssim < found.reference_ssim == metrics.ssim(np.clip(reference, 0, 1), truth)


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, None),
        ({"engine_psnr": 29.91}, None),
        ({"engine_psnr": 35.0, "engine_ssim": 0.95}, None),
        ({"engine_psnr": 29.89}, "0.11 dB"),
        ({"engine_ssim": 0.8985}, "0.0015 SSIM"),
        ({"engine_psnr": float("nan")}, "nan dB"),
    ],
)
def test_a_network_that_derains_may_lose_a_little(changed: dict[str, float], missed: str | None) -> None:
    found = cost([GOOD, replace(GOOD, **changed), replace(GOOD, **changed)])
    assert cost([replace(GOOD, **changed)]).derains
    if missed is None:
        assert found.missed() is None and found.margin >= 0
    else:
        assert missed in str(cost([replace(GOOD, **changed)]).missed())


def test_a_gain_on_one_picture_makes_up_for_no_loss_on_another() -> None:
    worse, better = replace(GOOD, engine_psnr=29.7), replace(GOOD, engine_psnr=30.3)
    assert cost([better]).missed() is None
    found = cost([better, worse, better])
    assert "0.30 dB" in str(found.missed())
    # But parts of the network are chosen by the mean.
    assert found.margin == 1


def test_what_the_network_makes_worse_anyway_does_not_count() -> None:
    harmed = replace(GOOD, reference_psnr=19.0, engine_psnr=18.0, engine_ssim=0.5)
    found = cost([GOOD, harmed])
    assert found.derains and (found.psnr_loss, found.ssim_loss) == (0, 0)


@pytest.mark.parametrize(("psnr", "ok"), [(40.1, True), (39.9, False)])
def test_a_network_that_takes_no_rain_out_is_held_to_its_own_output(psnr: float, ok: bool) -> None:
    idle = replace(GOOD, reference_psnr=20.0, engine_psnr=10.0, psnr_to_reference=psnr)
    found = cost([idle, replace(idle, psnr_to_reference=60.0)])
    assert not found.derains and (found.missed() is None) is ok and (found.margin >= 0) is ok
    assert quality.MIN_PSNR == 40

"""Phases and settings that are checked where a run is made, whatever its recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from derain_engine.base.errors import InputError
from derain_engine.models import ssid_kd
from derain_engine.training.options import SMALLEST_SIDE, Phase, SidRun


@pytest.mark.parametrize("numbers", [(0, 32, 1), (1, 31, 1), (1, 32, 0)])
def test_phases_that_cannot_be_trained(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="cannot be trained"):
        Phase(*numbers)


def test_the_smallest_patch_is_the_networks_own() -> None:
    assert SMALLEST_SIDE == ssid_kd.SMALLEST_SIDE


def test_devices_are_known_by_their_form() -> None:
    for device in ("auto", "cpu", "cuda", "cuda:1"):
        assert SidRun(output=Path(), device=device).device == device
    for device in ("tpu", "cuda:", "cuda:first", "cpu:0"):
        with pytest.raises(
            InputError, match=f"device '{device}' is not known; take auto, cpu, cuda or cuda:N"
        ):
            SidRun(output=Path(), device=device)

from __future__ import annotations

import pytest

from derain_engine.bench.kernels.candidates import MOST_SUMS, candidates
from derain_engine.kernels import mffb, pffb, resample
from derain_engine.kernels.gemm import K_PADDING
from derain_engine.kernels.launch import LaunchConfig
from derain_engine.kernels.record import heuristic
from derain_engine.models.ssid_kd import PRESETS, SSIDKD
from derain_engine.plan import lower

CALLS = {
    f"{call.kernel} {call.constants['C']} {call.constants.get('LENGTH', '')}": call
    for call in lower(SSIDKD(PRESETS["sid"])).calls()
}


@pytest.mark.parametrize("name", CALLS)
def test_candidates_are_what_the_kernels_can_be_cut_into(name):
    call = CALLS[name]
    found = candidates([call], 227 << 10)
    assert found[0] == call.config and len(set(found)) == len(found) and 4 <= len(found) <= 80
    for config in found:
        for number in (config.tile_h, config.tile_w, config.block_k, config.warps):
            assert number & (number - 1) == 0
        assert K_PADDING % config.block_k == 0
        if call.kernel == "pffb.pyramid":
            assert config.tile_h == config.tile_w and config.tile_h in (16, 32)
        elif call.kernel != "resample.bilinear":
            assert config.tile_h * config.tile_w >= 16 * config.warps


def test_sums_and_stages_must_fit():
    wide, narrow = (mffb.stage2_call(channels, heuristic("mffb.stage2", channels)) for channels in (48, 16))
    of_wide, of_narrow = (set(candidates([call], 227 << 10)[1:]) for call in (wide, narrow))
    assert of_wide < of_narrow
    # 192 sums a pixel over the threads.
    assert all(c.tile_h * c.tile_w * 192 / (32 * c.warps) <= MOST_SUMS for c in of_wide)
    assert LaunchConfig(16, 16, 64, 8, 4) in of_narrow
    small = set(candidates([narrow], 48 << 10)[1:])
    assert small < of_narrow and LaunchConfig(16, 16, 64, 8, 4) not in small


def test_every_configuration_in_use_comes_first():
    calls = [pffb.pyramid_call(24, LaunchConfig(16, 16, 32, warps, 2)) for warps in (4, 8)]
    found = candidates(calls, 99 << 10)
    assert found[:2] == [call.config for call in calls] and len(set(found)) == len(found)
    assert all(
        c.stages == 1 for c in candidates([resample.bilinear_call(4, 1, LaunchConfig(8, 16, 4, 4, 1))], 0)
    )

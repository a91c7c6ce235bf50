from __future__ import annotations

import dataclasses
import itertools

import pytest

from derain_engine.base.errors import BuildError, InputError, VerificationError
from derain_engine.bench.kernels import candidates, tune
from derain_engine.bench.kernels.alike import alike
from derain_engine.kernels.launch import LaunchConfig
from derain_engine.kernels.record import heuristic

USED = heuristic("mffb.stage2", 16)


@pytest.fixture(autouse=True)
def little(monkeypatch):
    """Few candidates, few runs."""
    monkeypatch.setattr(candidates, "TILES", ((8, 8), (8, 16)))
    monkeypatch.setattr(candidates, "BLOCKS", (32, 64))
    monkeypatch.setattr(candidates, "STAGES", (2, 3))
    monkeypatch.setattr(tune, "RUNS", 2)
    monkeypatch.setattr(tune, "FINAL_RUNS", 4)


@pytest.fixture
def tuned(rig, gpu, memory):
    def run(*kernels, budget=1000.0, progress=lambda stage, done: None):
        return list(
            tune.tune(
                rig,
                [memory],
                kernels=kernels,
                budget=budget,
                compile_each=gpu.compile_each,
                progress=progress,
            )
        )

    return run


def test_the_fastest_candidate_wins_at_every_level(tuned, gpu, memory):
    best = LaunchConfig(8, 8, 64, 4, 2)
    gpu.ticks = lambda call: 4 if call.config == best else 20 if call.config.tile_w == 8 else 10
    results = tuned("mffb.stage2")
    # Level 0 and 1 have 16 channels, level 2 has 24; units have one block a level and net.
    assert {each.key: each.launches for each in results} == {
        ("mffb.stage2", 16, 0): 2,
        ("mffb.stage2", 16, 1): 8,
        ("mffb.stage2", 24, 2): 3,
    }
    for each in results:
        assert each.config == best and each.wrong == () and each.failed == 0 and each.tried > 5
        # Half a millisecond a tick, and one for the event itself.
        assert (each.heuristic_ms, each.tuned_ms) == (5.5, 2.5)


def test_kernels_that_cost_a_frame_most_come_first(tuned, gpu):
    results = tuned("mffb.stage2", "mffb.stage1", "pffb.pyramid")
    cost = [each.heuristic_ms * each.launches for each in results]
    assert cost == sorted(cost, reverse=True) and len(cost) == 9


def test_a_gain_that_is_none_is_not_one(tuned, gpu):
    gpu.ticks = lambda call: 100 if call.config == USED else 99
    (first, *_) = tuned("mffb.stage2")
    assert first.config is None and first.tried > 5 and first.tuned_ms == first.heuristic_ms


def test_a_gain_of_the_first_round_alone_is_not_one(tuned, gpu, monkeypatch):
    count = itertools.count()
    rounds = tune._Bench._milliseconds

    def second_round_differs(self, task, contestants, runs, parts=1):
        found = rounds(self, task, contestants, runs, parts)
        if parts == 2:
            next(count)
            found[1, 1:] = found[1, 0]
        return found

    monkeypatch.setattr(tune._Bench, "_milliseconds", second_round_differs)
    gpu.ticks = lambda call: 10 if call.config == USED else 5
    results = tuned("mffb.stage2")
    assert next(count) == len(results) == 3
    assert next(iter(results)).config is None


def test_what_is_wrong_fails_spills_or_is_too_large_never_wins(tuned, gpu):
    fast = [LaunchConfig(8, 8, block, 4, stages) for block in (64, 32) for stages in (2, 3)]
    gpu.ticks = lambda call: 2 if call.config in fast else 3 if call.config.block_k == 64 else 10
    gpu.wrong = lambda call: call.config == fast[0]
    gpu.refused = lambda call: call.config == fast[1]
    gpu.spilled = lambda call: call.config == fast[2]
    gpu.shared = lambda call: 1 << 20 if call.config == fast[3] else 0
    for each in tuned("mffb.stage2"):
        assert each.wrong == (fast[0],) and each.failed == 3
        assert each.config is not None and each.config not in fast and each.config.block_k == 64
        assert each.tuned_ms == 2.0
    assert not {call.config for call in gpu.launched} & set(fast[1:])


def test_chains_are_tuned_with_scratch_memory_of_their_own(tuned, gpu, memory):
    before = {
        each.key: each.step.call.config for each in alike(memory) if each.step.call.kernel == "chain.chain"
    }
    gpu.ticks = lambda call: 4 if call.config.block_k == 64 else 10
    results = tuned("chain.chain")
    assert {each.key for each in results} == set(before) and len(before) == 9
    assert {call.constants["LENGTH"] for call in gpu.compiled} > {4}
    for each in results:
        assert each.config is not None and each.config.block_k == 64 and each.wrong == ()
        assert each.config != heuristic("chain.chain", each.key[1])


@pytest.mark.parametrize("kernel", ["pffb.pyramid", "dense.dense1x1", "conv.conv3x3", "resample.bilinear"])
def test_all_other_kernels_can_be_tuned(tuned, gpu, memory, kernel):
    results = tuned(kernel)
    expected = {each.key for each in alike(memory) if each.step.call.kernel == kernel}
    assert {each.key for each in results} == expected
    assert all(each.wrong == () and each.tried > 1 and each.config is None for each in results)


def test_without_time_the_rest_is_left_as_it_is(tuned, gpu):
    results = tuned("mffb.stage2", budget=0.0)
    assert [each.tried for each in results] == [1, 1, 1]
    assert all(each.config is None and each.heuristic_ms == each.tuned_ms > 0 for each in results)


def test_stages_are_told_with_fractions(tuned):
    told = []
    tuned("mffb.stage2", progress=lambda *about: told.append(about))
    stages = list(dict.fromkeys(stage for stage, _ in told))
    assert stages[:3] == ["compiling what is in use", "checking what is in use", "compiling candidates"]
    assert stages[3].startswith("timing mffb.stage2 of ") and all(0 <= done <= 1 for _, done in told)


def test_kernels_that_no_network_has_are_refused(tuned):
    with pytest.raises(InputError, match=r"no.* kernel mffb\.stage3|has a kernel mffb\.stage3"):
        tuned("mffb.stage3")


def test_what_is_in_use_must_be_right_and_compile(tuned, gpu):
    gpu.wrong = lambda call: call.constants["C"] == 24
    with pytest.raises(VerificationError, match=r"mffb\.stage2 C=24 .*in use, differs"):
        tuned("mffb.stage2")
    gpu.refused = lambda call: True
    with pytest.raises(BuildError):
        tuned("mffb.stage2")


def test_what_cannot_be_stored_is_not_tried():
    from derain_engine.kernels.chain import chain_call

    small = chain_call(24, 4, "map", "shares", True, dataclasses.replace(LaunchConfig(), tile_h=8, tile_w=8))
    found = candidates.candidates([small], 227 << 10)
    assert found[0] == small.config and heuristic("chain.chain", 24) not in found

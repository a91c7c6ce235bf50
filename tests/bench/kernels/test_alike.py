from __future__ import annotations

import collections

import pytest
import torch

from derain_engine.bench.kernels.alike import Check, alike
from derain_engine.kernels.aot import specialisation
from derain_engine.kernels.launch import LaunchConfig
from derain_engine.kernels.plain import plain, run_plain
from derain_engine.kernels.record import find
from derain_engine.models.registry import create, spec_of
from derain_engine.plan import lower
from derain_engine.plan.memory import Memory
from derain_engine.plan.program import View

from ...plan.networks import strong
from .conftest import SMALL


@pytest.fixture
def kinds(memory):
    return alike(memory)


def test_every_launch_is_counted_once(memory, kinds):
    assert sum(each.launches for each in kinds) == len(memory.plan.steps)
    counted = collections.Counter(
        (specialisation(step.call), step.call.planes, *memory.sizes(step)) for step in memory.plan.steps
    )
    assert len(counted) == len(kinds) < len(memory.plan.steps)
    for each in kinds:
        assert each.launches == counted[(specialisation(each.step.call), each.step.call.planes, *each.sizes)]
        kernel, channels, level = each.key
        assert (kernel, channels) == (each.step.call.kernel, each.step.call.constants["C"])
        assert each.sizes[:2] == [32 >> level, 64 >> level]


def test_another_cut_changes_the_configuration_and_what_follows_from_it(kinds):
    config = LaunchConfig(16, 16, 16, 8, 2)
    for each in kinds:
        call = find(each.step.call.kernel).recut(each.step.call, config)
        assert call.config == config and call.planes == each.step.call.planes
        assert find(call.kernel).recut(call, each.step.call.config) == each.step.call
        same = {name: value for name, value in call.constants.items() if name != "BLOCK_M"}
        assert same.items() <= each.step.call.constants.items()
    (chain, *_) = (each.step.call for each in kinds if each.step.call.constants.get("LENGTH") == 4)
    blocks = [
        find(chain.kernel).recut(chain, LaunchConfig(tile, tile)).constants["BLOCK_M"] for tile in (1, 4, 16)
    ]
    assert blocks == [64, 128, 128]


def test_a_chain_in_another_cut_has_scratch_memory_of_its_own(kinds):
    (each, *_) = (each for each in kinds if each.step.call.constants.get("LENGTH") == 4)
    recut = find("chain.chain").recut(each.step.call, LaunchConfig(16, 16))
    own, other = each.pointers(each.step.call), each.pointers(recut)
    assert [a.data_ptr() == b.data_ptr() for a, b in zip(own, other, strict=True)] == [
        i != 4 for i in range(12)
    ]
    tiles = -(-each.sizes[0] // 16) * -(-each.sizes[1] // 16)
    assert len(other[4]) == tiles * 2 * 22 * 22 * int(each.step.call.constants["C"])


def test_right_results_pass_and_leave_the_memory_as_it_was(kinds):
    for each in kinds:
        check = Check(each)
        pointers = each.pointers(each.step.call)
        before = [tensor.clone() for tensor in pointers]
        assert check.passes(lambda p=pointers, e=each: run_plain(e.step.call, p, e.sizes)), each.step.name
        assert all(torch.equal(a, b) for a, b in zip(before, pointers, strict=True)), each.step.name


@pytest.mark.parametrize("wrong", ["nothing", "nan", "one", "slightly"])
def test_wrong_results_do_not(kinds, wrong):
    for each in kinds:
        check, pointers = Check(each), each.pointers(each.step.call)
        memory = each.memory
        write = next(
            w for w in each.step.writes if memory.plan.buffers[each.step.pointers[w].buffer].tile is None
        )

        def run(each=each, pointers=pointers, write=write):
            if wrong == "nothing":
                return
            run_plain(each.step.call, pointers, each.sizes)
            if wrong == "slightly":
                pointers[write].mul_(1.01)
            else:
                pointers[write][-1 if each.key[0] == "resample.bilinear" else 0] += {"nan": float("nan")}.get(
                    wrong, 1
                )

        assert not check.passes(run), each.step.name


def test_the_plain_form_gives_what_the_plan_gives():
    """Compare in fp32, from noise, for every kind of launch of a network with stacks, additions and parts of pixels."""
    network = strong(SMALL)
    kinds = [
        each
        for side in (32, 2048, 1 << 14)
        for each in alike(Memory(lower(network, "fp32", nominal=(side, side)), 32, 64))
    ]
    chains = {tuple(each.step.call.constants.get(name) for name in ("READ", "WRITE")) for each in kinds}
    assert chains >= {(0, 1), (0, 2), (1, 0), (1, 1), (1, 2)}
    assert_plain_is_the_plan(kinds)


@pytest.mark.parametrize("name", ["prenet", "prenet-x"])
def test_the_plain_form_of_recurrent_networks(name):
    network = create(spec_of(name, {"stages": 3})).eval()
    assert_plain_is_the_plan(alike(Memory(lower(network, "fp32"), 9, 17)))


def test_the_plain_form_of_a_u_net():
    config = {"iterations": 2, "width": 8, "base": 8, "levels": 2}
    network = create(spec_of("semi-derain-gan", config)).eval()
    assert_plain_is_the_plan(alike(Memory(lower(network, "fp32"), 8, 20)))


def assert_plain_is_the_plan(kinds):
    generator = torch.Generator().manual_seed(0)
    for each in kinds:
        for buffer in each.step.touched():
            each.memory.flat(View(buffer)).normal_(generator=generator)
        call, pointers = each.step.call, each.pointers(each.step.call)
        function, arguments = plain(call, pointers, each.sizes)
        assert all(
            tensor.ndim == 1 or tensor.is_contiguous(memory_format=torch.channels_last)
            for tensor in arguments
        ), each.step.name
        found = function(*arguments)
        run_plain(call, pointers, each.sizes)
        outputs = [pointers[w] for w in each.step.writes]
        if call.kernel == "chain.chain":
            outputs = outputs[-1:]
        assert len(found) == len(outputs)
        for image, flat in zip(found, outputs, strict=True):
            count, channels, height, width = image.shape
            assert count == call.planes or call.kernel == "transposed.conv"
            pixel = int(call.constants.get("PIXEL", channels))
            strides = height * width * pixel, width * pixel, pixel, 1
            expected = flat.as_strided((count, height, width, channels), strides)
            assert torch.allclose(image.permute(0, 2, 3, 1), expected, atol=1e-5, rtol=1e-5), each.step.name

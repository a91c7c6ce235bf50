from __future__ import annotations

import pytest

from derain_engine.models.ssid_kd import PRESETS, SSIDKD, SSIDKDConfig
from derain_engine.plan import Plan, lower
from derain_engine.plan.arena import ALIGNMENT, arrange
from derain_engine.plan.program import ITEMSIZE

SIZES = [(32, 32), (96, 160), (1088, 1920)]


@pytest.fixture(scope="module", params=["sid", "small"])
def plan(request: pytest.FixtureRequest) -> Plan:
    config = PRESETS["sid"] if request.param == "sid" else SSIDKDConfig((16, 24, 32), (1, 2, 1))
    return lower(SSIDKD(config), "fp16")


def used(plan: Plan) -> list[tuple[int, int]]:
    """First and last step that touches every buffer; the picture from the start, the rain layer to the end."""
    steps: list[list[int]] = [[] for _ in plan.buffers]
    for i, step in enumerate(plan.steps):
        for buffer in step.touched():
            steps[buffer].append(i)
    spans = [(found[0], found[-1]) for found in steps]
    spans[plan.image] = (0, len(plan.steps))
    spans[plan.rain] = (spans[plan.rain][0], len(plan.steps))
    return spans


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_buffers_that_are_alive_together_share_nothing(plan: Plan, size: tuple[int, int]) -> None:
    arena, spans = arrange(plan, *size), used(plan)
    ends = [
        offset + buffer.elements(*size) * ITEMSIZE[plan.dtype]
        for offset, buffer in zip(arena.offsets, plan.buffers, strict=True)
    ]
    assert max(ends) <= arena.size and not any(offset % ALIGNMENT for offset in arena.offsets)
    for a in range(len(plan.buffers)):
        for b in range(a):
            if spans[a][0] <= spans[b][1] and spans[b][0] <= spans[a][1]:
                assert arena.offsets[a] >= ends[b] or arena.offsets[b] >= ends[a], (a, b)


def test_what_runs_beside_each_other_shares_nothing(plan: Plan) -> None:
    """Branch 1 and the steps of branch 0 that come before anything of it is read have no order between them."""
    arena = arrange(plan, 96, 160)
    aside = {b for step in plan.steps if step.branch == 1 for b in step.touched()} - {plan.image}
    after = max(i for i, step in enumerate(plan.steps) if step.branch == 1)
    joined = next(i for i in range(after + 1, len(plan.steps)) if plan.steps[i].touched() & aside)
    beside = {b for step in plan.steps[after + 1 : joined] for b in step.touched()} - {plan.image}
    assert joined - after > 2 and not aside & beside
    for a in aside:
        for b in beside:
            (low, size), (high, _) = sorted(
                (arena.offsets[i], plan.buffers[i].elements(96, 160) * 2) for i in (a, b)
            )
            assert low + size <= high


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_memory_is_close_to_the_largest_live_set(plan: Plan, size: tuple[int, int]) -> None:
    arena, spans = arrange(plan, *size), used(plan)
    sizes = [buffer.elements(*size) * ITEMSIZE[plan.dtype] for buffer in plan.buffers]
    alive = [
        sum(count for count, (first, last) in zip(sizes, spans, strict=True) if first <= step <= last)
        for step in range(len(plan.steps))
    ]
    assert max(alive) <= arena.live <= max(alive) + ALIGNMENT * len(plan.buffers)
    assert arena.live <= arena.size <= 1.5 * arena.live

"""The places of a plan's buffers in one block of memory: buffers that are never alive together share bytes."""

from __future__ import annotations

from dataclasses import dataclass

from .program import ITEMSIZE, Plan

#: Buffers begin at multiples of this many bytes, which any vector access and copy engine is content with.
ALIGNMENT = 256


@dataclass(frozen=True)
class Arena:
    """The arrangement of a plan's buffers for one size of picture.

    offsets: of every buffer, in bytes. size: of the block, in bytes. live: the most bytes that are alive at one
    step, which no arrangement can go below.
    """

    offsets: tuple[int, ...]
    size: int
    live: int


@dataclass(frozen=True)
class _Life:
    """The time in which a buffer is needed.

    first, last: steps. branches: which of the steps that run beside each other touch the buffer.
    """

    first: int
    last: int
    branches: frozenset[int]

    def meets(self, other: _Life) -> bool:
        in_time = self.first <= other.last and other.first <= self.last
        # What runs beside each other has no order: a buffer of one branch is free only after both.
        return in_time or (bool(self.branches and other.branches) and self.branches != other.branches)


def lives(plan: Plan) -> list[_Life]:
    """Return when every buffer is alive. The picture and the rain layer are so from before the first step to after the
    last: what fills and reads them stands outside the plan."""
    forked = range(*fork_and_join(plan))
    touched: list[list[int]] = [[] for _ in plan.buffers]
    for i, step in enumerate(plan.steps):
        for buffer in step.touched():
            touched[buffer].append(i)
    kept = {plan.image, plan.rain} | ({plan.code.buffer} if plan.code else set())
    found = []
    for buffer, steps in enumerate(touched):
        first, last = (steps[0], steps[-1]) if steps else (0, 0)
        if buffer in kept:
            first, last = (0 if buffer == plan.image else first), len(plan.steps)
        branches = frozenset(plan.steps[i].branch for i in steps if i in forked)
        found.append(_Life(first, last, branches))
    return found


def fork_and_join(plan: Plan) -> tuple[int, int]:
    """Return from which step on branch 1 runs beside branch 0, and the step that waits for all of it: the first one
    that needs what branch 1 made (the number of steps where none does). (0, 0) without a second branch."""
    second = [i for i, step in enumerate(plan.steps) if step.branch == 1]
    if not second:
        return 0, 0
    made = {
        plan.steps[i].pointers[w].buffer  # type: ignore[union-attr]  # only views are written
        for i in second
        for w in plan.steps[i].writes
    }
    after = range(second[-1] + 1, len(plan.steps))
    return second[0], next((i for i in after if plan.steps[i].touched() & made), len(plan.steps))


def arrange(plan: Plan, height: int, width: int) -> Arena:
    """Return the arena for a picture of height x width: buffers from large to small, each at the lowest place that is
    free throughout its life."""
    item = ITEMSIZE[plan.dtype]
    life = lives(plan)
    sizes = [-(-buffer.elements(height, width) * item // ALIGNMENT) * ALIGNMENT for buffer in plan.buffers]
    offsets = [0] * len(sizes)
    placed: list[int] = []
    for buffer in sorted(range(len(sizes)), key=lambda b: (-sizes[b], life[b].first, b)):
        at = 0
        for other in sorted((o for o in placed if life[o].meets(life[buffer])), key=offsets.__getitem__):
            if offsets[other] >= at + sizes[buffer]:
                break
            at = max(at, offsets[other] + sizes[other])
        offsets[buffer] = at
        placed.append(buffer)
    live = max(
        (
            sum(size for size, alive in zip(sizes, life, strict=True) if alive.first <= step <= alive.last)
            for step in range(len(plan.steps))
        ),
        default=0,
    )
    return Arena(tuple(offsets), max(map(sum, zip(offsets, sizes, strict=True)), default=0), live)

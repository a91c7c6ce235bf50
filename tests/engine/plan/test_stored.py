from __future__ import annotations

import json
from typing import Any

import pytest

from derain_engine.engine.errors import BundleError
from derain_engine.engine.models.ssid_kd import SSIDKDConfig
from derain_engine.engine.plan import lower
from derain_engine.engine.plan.describe import describe
from derain_engine.engine.plan.stored import from_json, to_json

from .networks import strong

CONFIG = SSIDKDConfig((16, 24, 32), (2, 1, 1))


def test_a_plan_comes_back_from_its_bytes() -> None:
    plan = lower(strong(CONFIG), "fp16")
    data = to_json(plan)
    assert from_json(data, plan.weights) == plan
    assert to_json(lower(strong(CONFIG), "fp16")) == data


def change(data: bytes, path: list[Any], value: Any) -> bytes:
    stored = json.loads(data)
    at = stored
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(stored).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["format"], 2),
        (["dtype"], "int7"),
        (["rain"], 10_000),
        (["buffers", 0, "level"], -1),
        (["buffers", 0, "slabs"], 0),
        (["steps", 0, "call"], 10_000),
        (["steps", 0, "pointers", 0, "buffer"], -1),
        (["steps", 0, "pointers", 0, "slab"], 99),
        (["steps", 1, "pointers", 1, "offset"], 1 << 40),
        (["steps", 1, "pointers", 1, "size"], 1 << 40),
        (["steps", 0, "other"], 1),
        (["calls", 0, "config"], {}),
        (["calls"], 7),
    ],
    ids=str,
)
def test_plans_that_are_damaged_or_reach_outside_are_refused(path: list[Any], value: Any) -> None:
    plan = lower(strong(CONFIG), "fp16")
    changed = change(to_json(plan), path, value)
    if path == ["calls", 0, "config"]:
        changed = change(changed, path, {"tile": 1})
    with pytest.raises(BundleError, match="plan"):
        from_json(changed, plan.weights)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"null"])
def test_other_data_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="plan is damaged"):
        from_json(data, b"")


def test_the_description_tells_every_launch_and_the_totals() -> None:
    plan = lower(strong(CONFIG), "fp16")
    lines = describe(plan, 64, 96).splitlines()
    assert len(lines) == len(plan.steps) + 2
    assert "GFLOP" in lines[0] and "programs" in lines[0]
    first = next(line for line in lines if "chain.chain" in line)
    assert "pffb.scale8" in first and " in a launch" in first
    assert lines[-1].startswith(f"{len(plan.steps)} launches, ") and "fp16 weights" in lines[-1]
    work = sum(step.flops for step in plan.steps) * 6 / 1e9
    assert f"{work:.1f} GFLOP" in lines[-1]

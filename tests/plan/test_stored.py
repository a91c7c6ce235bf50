from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from derain_engine.base.errors import BundleError
from derain_engine.engine.backends.fused.emulation import FusedEmulation
from derain_engine.models.ssid_kd import PRESETS, SSIDKD, SSIDKDConfig
from derain_engine.plan import Plan, lower
from derain_engine.plan.describe import describe
from derain_engine.plan.stored import from_json, to_json

from .networks import strong

CONFIG = SSIDKDConfig((16, 24, 32), (2, 1, 1))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return lower(strong(CONFIG), "fp16")


def test_a_plan_comes_back_from_its_bytes(plan: Plan) -> None:
    data = to_json(plan)
    assert from_json(data, plan.weights) == plan
    assert to_json(lower(strong(CONFIG), "fp16")) == data


@pytest.mark.parametrize(("preset", "dtype"), [("sid", "fp16"), ("sid-lite", "fp32")])
def test_the_plans_of_presets_pass_every_check(preset: str, dtype: Any) -> None:
    plan = lower(SSIDKD(PRESETS[preset]), dtype)
    assert from_json(to_json(plan), plan.weights) == plan


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
        (["dtype"], ["fp16"]),
        (["rain"], 10_000),
        (["rain"], 1),
        (["image"], True),
        (["buffers"], []),
        (["buffers"], {"name": "image"}),
        (["buffers", 0, "level"], -1),
        (["buffers", 1, "level"], 6),
        (["buffers", 1, "level"], 0.5),
        (["buffers", 0, "slabs"], 0),
        (["buffers", 1, "slabs"], 1 << 60),
        (["buffers", 1, "channels"], 1 << 60),
        (["buffers", 1, "channels"], 1 << 23),
        (["buffers", 1, "channels"], "16"),
        (["buffers", 1, "tile"], [0, 0]),
        (["buffers", 1, "tile"], [8]),
        (["buffers", 1, "tile"], "8x8"),
        (["buffers", 1, "name"], "\x1b[2J"),
        (["buffers", 1, "name"], 7),
        (["steps"], None),
        (["steps", 0, "call"], 10_000),
        (["steps", 0, "call"], -1),
        (["steps", 0, "name"], "n" * 1000),
        (["steps", 0, "pointers"], []),
        (["steps", 0, "pointers", 0], {"offset": 0, "size": 16, "dtype": "fp16"}),
        (["steps", 0, "pointers", 0], [0, 0, 0]),
        (["steps", 0, "pointers", 0, "buffer"], -1),
        (["steps", 0, "pointers", 0, "slab"], 99),
        (["steps", 0, "pointers", 0, "channel"], 1 << 40),
        (["steps", 1, "pointers", 1, "offset"], 1 << 40),
        (["steps", 1, "pointers", 1, "offset"], -2),
        (["steps", 1, "pointers", 1, "offset"], 1),
        (["steps", 1, "pointers", 1, "size"], 1 << 40),
        (["steps", 1, "pointers", 1, "size"], 0),
        (["steps", 1, "pointers", 1, "dtype"], "int7"),
        (["steps", 0, "sizes"], ["h0"]),
        (["steps", 0, "sizes", 0], "w0"),
        (["steps", 0, "sizes", 0], "h9"),
        (["steps", 0, "sizes", 0], 1 << 40),
        (["steps", 0, "sizes", 2], 1 << 40),
        (["steps", 0, "sizes", 2], "h"),
        (["steps", 0, "writes"], [99]),
        (["steps", 1, "writes"], [1]),
        (["steps", 0, "writes"], 3),
        (["steps", 0, "branch"], 2),
        (["steps", 0, "flops"], 10**400),
        (["steps", 0, "flops"], "many"),
        (["steps", 0, "map_bytes"], 0),
        (["steps", 0, "weight_bytes"], -1),
        (["steps", 0, "other"], 1),
        (["calls", 0, "kernel"], "os.system"),
        (["calls", 0, "kernel"], ["conv.conv3x3"]),
        (["calls", 0, "kernel"], "pixels.frame_in"),
        (["calls", 0, "constants"], {}),
        (["calls", 0, "constants"], []),
        (["calls", 0, "constants", "C"], 1 << 70),
        (["calls", 0, "constants", "C"], "16"),
        (["calls", 0, "constants", "C"], float("nan")),
        (["calls", 0, "config"], {}),
        (["calls", 0, "config"], {"tile": 1}),
        (["calls", 0, "config", "tile_h"], 0),
        (["calls", 0, "config", "tile_w"], 8.0),
        (["calls", 0, "config", "block_k"], 24),
        (["calls", 0, "config", "warps"], -4),
        (["calls", 0, "config", "stages"], 1 << 40),
        (["calls", 0, "planes"], 1 << 40),
        (["calls"], 7),
    ],
    ids=lambda value: str(value)[:40],
)
def test_plans_that_are_damaged_or_reach_outside_are_refused(plan: Plan, path: list[Any], value: Any) -> None:
    if value == {}:
        value = {"C": 16} if path[-1] == "constants" else None
    with pytest.raises(BundleError, match="plan") as caught:
        from_json(change(to_json(plan), path, value), plan.weights)
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()


def test_plans_out_of_all_proportion_are_refused_at_once(plan: Plan) -> None:
    stored = json.loads(to_json(plan))
    many = {**stored, "buffers": stored["buffers"] + [stored["buffers"][1]] * 4096}
    long = {**stored, "steps": stored["steps"] * 31}
    for hostile in (many, long):
        with pytest.raises(BundleError, match="too many launches"):
            from_json(json.dumps(hostile).encode(), plan.weights)
    wide = {**stored, "buffers": [{**each, "slabs": each["slabs"] * 1000} for each in stored["buffers"][:-1]]}
    wide["buffers"] = [stored["buffers"][0], *wide["buffers"][1:], stored["buffers"][-1]]
    with pytest.raises(BundleError, match="more memory than any network takes"):
        from_json(json.dumps(wide).encode(), plan.weights)


@pytest.mark.parametrize("weights", [b"", b"\0" * 100])
def test_plans_without_all_their_weights_are_refused(plan: Plan, weights: bytes) -> None:
    with pytest.raises(BundleError, match="weights"):
        from_json(to_json(plan), weights)


_VALUES = [None, True, -1, 0, 1, 3, 16, 1 << 31, 1 << 70, 0.5, 1e308, "", "h0", "\x07", [], [1], {}, {"C": 1}]


@pytest.mark.parametrize("seed", range(2))
def test_any_change_is_refused_or_harmless(seed: int) -> None:
    """Check that a plan that is accepted can be described, and run where its launches fit their memory."""
    rng = random.Random(seed)
    plan = lower(strong(SSIDKDConfig((8, 8, 8), (1, 1, 1))), "fp16")
    data, picture = to_json(plan), np.zeros((1, 32, 32, 3), np.uint8)
    accepted = ran = 0
    for _ in range(100):
        stored = json.loads(data)
        at, key = stored, rng.choice(list(stored))
        while isinstance(at[key], dict | list) and at[key] and rng.random() < 0.9:
            at = at[key]
            key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
        at[key] = rng.choice(_VALUES)
        try:
            changed = from_json(json.dumps(stored).encode(), plan.weights)
            accepted += 1
            assert describe(changed, 64, 96)
            if accepted <= 5:
                FusedEmulation(changed).run(picture)
                ran += 1
        except BundleError:
            pass
    assert 0 < accepted < 100 and ran


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"\xff", b"null", b"[" * 200_000, b'{"format": 1' + b"0" * 5000]
)
def test_other_data_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="plan is damaged"):
        from_json(data, b"")


def test_the_description_tells_every_launch_and_the_totals(plan: Plan) -> None:
    lines = describe(plan, 64, 96).splitlines()
    assert len(lines) == len(plan.steps) + 2
    assert "GFLOP" in lines[0] and "programs" in lines[0]
    first = next(line for line in lines if "chain.chain" in line)
    assert "pffb.scale8" in first and " in a launch" in first
    assert lines[-1].startswith(f"{len(plan.steps)} launches, ") and "fp16 weights" in lines[-1]
    work = sum(step.flops for step in plan.steps) * 6 / 1e9
    assert f"{work:.1f} GFLOP" in lines[-1]

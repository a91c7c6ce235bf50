"""A plan as bytes and back: JSON for its launches, its weights as they are."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ...kernels.config import Config
from ...kernels.launch import Call
from ..errors import BundleError
from .program import ITEMSIZE, Buffer, Plan, Pointer, Step, View, Weight

#: Version of the form below.
FORMAT = 1


def to_json(plan: Plan) -> bytes:
    """Everything but the weights; the same plan gives the same bytes."""
    calls = plan.calls()
    data = {
        "format": FORMAT,
        "dtype": plan.dtype,
        "image": plan.image,
        "rain": plan.rain,
        "buffers": [asdict(buffer) for buffer in plan.buffers],
        "calls": [asdict(call) for call in calls],
        "steps": [
            {
                "name": step.name,
                "call": calls.index(step.call),
                "pointers": [_pointer(pointer) for pointer in step.pointers],
                "sizes": step.sizes,
                "writes": step.writes,
                "flops": step.flops,
                "map_bytes": step.map_bytes,
                "weight_bytes": step.weight_bytes,
                "branch": step.branch,
            }
            for step in plan.steps
        ],
    }
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def from_json(data: bytes, weights: bytes) -> Plan:
    """The plan of :func:`to_json`.

    Raises:
        BundleError: not such data, or a plan that reaches beyond its own buffers and weights.
    """
    try:
        stored = json.loads(data)
        if stored["format"] != FORMAT:
            raise BundleError(
                f"The engine's plan has format {stored['format']}, and this version reads {FORMAT}; build it again."
            )
        calls = [Call(**{**call, "config": Config(**call["config"])}) for call in stored["calls"]]
        plan = Plan(
            stored["dtype"],
            tuple(
                Buffer(**{**buffer, "tile": tuple(buffer["tile"]) if buffer["tile"] else None})
                for buffer in stored["buffers"]
            ),
            tuple(
                Step(
                    **{
                        **step,
                        "call": calls[step["call"]],
                        "pointers": tuple(_read_pointer(pointer) for pointer in step["pointers"]),
                        "sizes": tuple(step["sizes"]),
                        "writes": tuple(step["writes"]),
                    }
                )
                for step in stored["steps"]
            ),
            stored["image"],
            stored["rain"],
            weights=weights,
        )
        _check(plan)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BundleError(f"The engine's plan is damaged ({error}); build it again.") from error
    return plan


def _pointer(pointer: Pointer) -> dict[str, Any]:
    return asdict(pointer)


def _read_pointer(stored: dict[str, Any]) -> Pointer:
    return View(**stored) if "buffer" in stored else Weight(**stored)


def _check(plan: Plan) -> None:
    """Nothing of a plan may point outside: a kernel would read or write there."""
    if plan.dtype not in ITEMSIZE:
        raise ValueError(f"dtype {plan.dtype!r}")
    count = len(plan.buffers)
    if not (0 <= plan.image < count and 0 <= plan.rain < count):
        raise ValueError("no picture or rain layer")
    for buffer in plan.buffers:
        if min(buffer.level, buffer.channels - 1, buffer.slabs - 1) < 0 or buffer.level > 5:
            raise ValueError(f"buffer {buffer.name!r}")
    for step in plan.steps:
        for pointer in step.pointers:
            if isinstance(pointer, Weight):
                inside = 0 <= pointer.offset and 0 <= pointer.size <= len(plan.weights) - pointer.offset
            else:
                inside = (
                    0 <= pointer.buffer < count and 0 <= pointer.slab < plan.buffers[pointer.buffer].slabs
                )
                inside = inside and 0 <= pointer.channel < plan.buffers[pointer.buffer].channels
            if not inside:
                raise ValueError(f"step {step.name!r} points outside")

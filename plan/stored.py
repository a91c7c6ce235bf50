"""A plan as bytes and back: JSON for its launches, its weights as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from ..base.errors import BundleError
from ..kernels.launch import Call, LaunchConfig
from ..kernels.record import forms
from .arena import arrange
from .program import GRANULARITY, ITEMSIZE, Buffer, Plan, Pointer, Step, View, Weight

#: Version of the form below.
FORMAT = 1

# Far from what networks need (the largest here: 859 buffers, 477 steps, 2.8 kB a pixel); they keep a plan
# from costing time or memory before it is known to be good.
_MOST = 4096
_MOST_BYTES_PER_PIXEL = 64 << 10
_MOST_ELEMENTS = 1 << 24
_DEEPEST = 5
_LONGEST_NAME = 200
_MOST_WORK = 1 << 60


def to_json(plan: Plan) -> bytes:
    """Return everything but the weights; the same plan gives the same bytes."""
    calls = plan.calls()
    data = {
        "format": FORMAT,
        "dtype": plan.dtype,
        "image": plan.image,
        "rain": plan.rain,
        "granularity": plan.granularity,
        "buffers": [asdict(buffer) for buffer in plan.buffers],
        "calls": [asdict(call) for call in calls],
        "steps": [
            # What is replaced keeps its place among the fields.
            {**vars(step), "call": calls.index(step.call), "pointers": list(map(asdict, step.pointers))}
            for step in plan.steps
        ],
    }
    # In the order it came: by their constants in order launches and their kernels know each other.
    return json.dumps(data, separators=(",", ":")).encode()


def from_json(data: bytes, weights: bytes) -> Plan:
    """Return the plan of :func:`to_json`.

    Raises:
        BundleError: not such data, a plan that reaches beyond its own buffers and weights, launches what there is no
            kernel for, or would take more memory than any network does.
    """
    try:
        stored = json.loads(data)
        if stored["format"] != FORMAT:
            raise BundleError(
                f"The engine's plan has format {stored['format']}, and this version reads {FORMAT}; build it again."
            )
        calls = [read_call(call) for call in stored["calls"]]
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
                        "call": calls[whole(step["call"], 0, len(calls) - 1, "a call")],
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
            # Plans of earlier versions are all of that.
            granularity=whole(stored.get("granularity", GRANULARITY), 1, GRANULARITY, "the granularity"),
        )
        _check(plan)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"The engine's plan is damaged ({error}); build it again.") from error
    return plan


def read_call(stored: Mapping[str, Any]) -> Call:
    """Return a launch from its fields, of a plan or between frames and maps.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: one is missing, of another type, or nothing that a kernel is
            launched with.
    """
    call = Call(**{**stored, "config": LaunchConfig(**stored["config"])})
    form = forms().get(call.kernel)
    if form is None:
        raise ValueError(f"there is no kernel {_short(call.kernel)}")
    if missing := form.constants - call.constants.keys():
        raise ValueError(f"{call.kernel} has no {min(missing)}")
    for name, value in call.constants.items():
        if not isinstance(value, int | float) or not abs(value) <= _MOST_ELEMENTS:
            raise ValueError(f"{_short(name)} of {call.kernel} is {_short(value)}")
    for each in fields(LaunchConfig):
        value = whole(getattr(call.config, each.name), 1, 1024, each.name)
        if value & (value - 1) and each.name != "stages":
            raise ValueError(f"{each.name} is {value}, no power of two")
    whole(call.planes, 1, _MOST, "planes")
    return call


def _read_pointer(stored: dict[str, Any]) -> Pointer:
    return View(**stored) if "buffer" in stored else Weight(**stored)


def _check(plan: Plan) -> None:
    """Raise ValueError where anything of a plan points outside: a kernel would read or write there. Nothing may be out
    of all proportion either: arranging the memory would take for ever."""
    if plan.dtype not in ITEMSIZE:
        raise ValueError(f"dtype {plan.dtype!r}")
    if not plan.weights or max(len(plan.buffers), len(plan.steps)) > _MOST:
        raise ValueError("no weights, or too many launches")
    for buffer in plan.buffers:
        _check_buffer(buffer)
        if plan.granularity % (1 << buffer.level):
            raise ValueError(f"a level below what multiples of {plan.granularity} pixels are halved to")
    for which, channels in ((plan.image, 4), (plan.rain, 3)):
        picture = plan.buffers[whole(which, 0, len(plan.buffers) - 1, "the picture or rain layer")]
        if (picture.level, picture.channels, picture.slabs, picture.tile) != (0, channels, 1, None):
            raise ValueError(f"the picture or rain layer {picture.name!r}")
    for step in plan.steps:
        try:
            _check_step(step, plan)
        except ValueError as error:
            raise ValueError(f"step {_short(step.name)}: {error}") from error
    if arrange(plan, GRANULARITY, GRANULARITY).size > _MOST_BYTES_PER_PIXEL * GRANULARITY**2:
        raise ValueError("more memory than any network takes")


def _check_buffer(buffer: Buffer) -> None:
    _check_name(buffer.name)
    whole(buffer.level, 0, _DEEPEST, "a level")
    whole(buffer.channels, 1, _MOST_ELEMENTS, "channels")
    whole(buffer.slabs, 1, _MOST, "slabs")
    if buffer.tile is not None:
        height, width = buffer.tile
        whole(height, 1, _MOST, "a tile's height")
        whole(width, 1, _MOST, "a tile's width")


def _check_step(step: Step, plan: Plan) -> None:
    _check_name(step.name)
    form = forms()[step.call.kernel]
    kinds = "".join("W" if isinstance(pointer, Weight) else "V" for pointer in step.pointers)
    # Frames are outside of a plan's memory.
    if form.frames or (kinds, len(step.sizes)) != (form.kinds, len(form.sizes)):
        raise ValueError(f"{len(kinds)} pointers and {len(step.sizes)} sizes for {step.call.kernel}")
    for pointer in step.pointers:
        _check_pointer(pointer, plan)
    for i, size in enumerate(step.sizes):
        if isinstance(size, str):
            if not re.fullmatch(f"[{'hw'[i : i + 1] or 'hw'}][0-{_DEEPEST}]", size):
                raise ValueError(f"a size is {_short(size)}")
        else:
            # The first two are those of the map that the tiles cover.
            whole(size, 1, _MOST if i >= 2 else 0, "a size")
    for index in step.writes:
        if kinds[whole(index, 0, len(kinds) - 1, "what it writes")] != "V":
            raise ValueError("it writes weights")
    whole(step.flops, 0, _MOST_WORK, "flops")
    whole(step.map_bytes, 1, _MOST_WORK, "map_bytes")
    whole(step.weight_bytes, 0, _MOST_WORK, "weight_bytes")
    whole(step.branch, 0, 1, "the branch")


def _check_pointer(pointer: Pointer, plan: Plan) -> None:
    if isinstance(pointer, Weight):
        item = ITEMSIZE[pointer.dtype]
        whole(pointer.size, item, len(plan.weights), "bytes of weights")
        whole(pointer.offset, 0, len(plan.weights) - pointer.size, "an offset of weights")
        if pointer.size % item or pointer.offset % item:
            raise ValueError("weights between elements")
        return
    buffer = plan.buffers[whole(pointer.buffer, 0, len(plan.buffers) - 1, "a buffer")]
    whole(pointer.slab, 0, buffer.slabs - 1, "a slab")
    whole(pointer.channel, 0, buffer.channels - 1, "a channel")


def _check_name(name: object) -> None:
    if not isinstance(name, str) or len(name) > _LONGEST_NAME or not name.isprintable():
        raise ValueError("a name that is no short text")


def whole(value: Any, least: int, most: int, what: str) -> int:
    """Return the value, where it is a whole number of that range; raise ValueError for any other."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{what} is {_short(value)}")
    return value


def _short(value: object) -> str:
    return repr(value)[:80]

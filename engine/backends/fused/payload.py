"""The contents of an engine file of the fused backend: plans, weights and compiled kernels, as bytes and back.

fused/plan.json              the launches with the heuristic's configurations, which any GPU can run
fused/weights.bin            the packed weights of every plan
fused/sm_90/plan.json        the launches tuned for one GPU, where they differ
fused/sm_90/kernels.json     the kernels compiled for it: call, symbol, arguments, and the cubin with its hash
fused/sm_90/NAME.cubin       one for every specialisation
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ....base.errors import BundleError
from ....kernels.aot import specialisation
from ....kernels.launch import Call
from ....plan import Plan, stored

if TYPE_CHECKING:
    from ....kernels.aot import Compiled

PLAN, WEIGHTS, KERNELS = "plan.json", "weights.bin", "kernels.json"
#: Version of ``kernels.json``.
_FORMAT = 1
# Of a block, on any GPU; whether this one has so much shared memory is asked when a kernel is loaded.
_MOST_WARPS, _MOST_SHARED = 32, 1 << 30


@dataclass(frozen=True)
class StoredKernel:
    """A compiled kernel, ready to load.

    symbol: its name in the cubin. arguments: types of all arguments, as the device layer packs them. warps: of a
    block. shared: dynamic shared memory of a block, in bytes.
    """

    call: Call
    symbol: str
    arguments: tuple[str, ...]
    warps: int
    shared: int
    cubin: bytes = field(repr=False)

    @classmethod
    def of(cls, compiled: Compiled) -> StoredKernel:
        return cls(**{each.name: getattr(compiled, each.name) for each in fields(cls)})


def name(target: str | None, file: str) -> str:
    """Return the name of the payload that is a file for a GPU, or for any."""
    return "/".join(["fused", *([] if target is None else [target]), file])


def pack_plans(plan: Plan, tuned: Mapping[str, Plan]) -> dict[str, bytes]:
    """Payloads of the plan for any GPU, and of those for GPUs by name that differ from it.

    All share the weights: how a kernel is cut does not change how its weights are packed.
    """
    payloads = {name(None, PLAN): stored.to_json(plan), name(None, WEIGHTS): plan.weights}
    for target, other in tuned.items():
        assert other.weights == plan.weights
        text = stored.to_json(other)
        if text != payloads[name(None, PLAN)]:
            payloads[name(target, PLAN)] = text
    return payloads


def pack_kernels(target: str, kernels: Iterable[StoredKernel]) -> dict[str, bytes]:
    """Payloads of the kernels compiled for one GPU."""
    payloads, rows = {}, []
    for kernel in kernels:
        key = hashlib.sha256(specialisation(kernel.call).encode()).hexdigest()[:12]
        file = f"{kernel.call.kernel}-{key}.cubin"
        payloads[name(target, file)] = kernel.cubin
        row = asdict(kernel)
        del row["cubin"]
        rows.append({**row, "file": file, "sha256": hashlib.sha256(kernel.cubin).hexdigest()})
    table = {"format": _FORMAT, "kernels": rows}
    # In the order it came, as plans are.
    payloads[name(target, KERNELS)] = json.dumps(table, separators=(",", ":")).encode()
    return payloads


def read_plan(payloads: Mapping[str, bytes | memoryview], target: str | None = None) -> Plan:
    """Return the plan for a GPU; for none, or one that has none of its own, the one for any.

    Raises:
        BundleError: it is missing or damaged.
    """
    own = name(target, PLAN)
    text = _payload(payloads, own if own in payloads else name(None, PLAN))
    return stored.from_json(text, _payload(payloads, name(None, WEIGHTS)))


def targets(payloads: Iterable[str]) -> tuple[str, ...]:
    """Return the GPUs that kernels were compiled for, sorted."""
    parts = [payload.split("/") for payload in payloads]
    return tuple(sorted(part[1] for part in parts if len(part) == 3 and part[2] == KERNELS))


def read_kernels(payloads: Mapping[str, bytes | memoryview], target: str) -> list[StoredKernel]:
    """Return the kernels that were compiled for a GPU of :func:`targets`.

    Raises:
        BundleError: they are damaged.
    """
    table_name = name(target, KERNELS)
    try:
        table = json.loads(_payload(payloads, table_name))
        if table["format"] != _FORMAT:
            raise BundleError(
                f"The engine's {table_name} has format {table['format']}, and this version reads {_FORMAT}; "
                "build it again."
            )
        return [_read_kernel(row, payloads, name(target, row["file"])) for row in table["kernels"]]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BundleError(f"The engine's {table_name} is damaged ({error!r}); build it again.") from error


def _read_kernel(
    row: Mapping[str, Any], payloads: Mapping[str, bytes | memoryview], file: str
) -> StoredKernel:
    cubin = _payload(payloads, file)
    if hashlib.sha256(cubin).hexdigest() != row["sha256"]:
        raise BundleError(f"The engine's {file} is not the kernel that it was built with; build it again.")
    call, symbol = stored.read_call(row["call"]), row["symbol"]
    warps = stored.whole(row["warps"], 1, _MOST_WARPS, "warps")
    shared = stored.whole(row["shared"], 0, _MOST_SHARED, "shared memory")
    if not re.fullmatch(r"\w{1,1000}", symbol, re.ASCII):
        raise ValueError(f"{call.kernel} has the symbol {symbol!r:.40}")
    return StoredKernel(call, symbol, tuple(map(str, row["arguments"])), warps, shared, cubin)


def _payload(payloads: Mapping[str, bytes | memoryview], wanted: str) -> bytes:
    if wanted not in payloads:
        raise BundleError(f"The engine has no {wanted}; it is not a whole fused engine. Build it again.")
    return bytes(payloads[wanted])

"""The verb ``collect-env``: what this machine has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from .terminal import file_size, say_json, show_table

EXAMPLES = """
derain-engine collect-env
derain-engine collect-env --json > environment.json
"""


def collect_env(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show what this machine has.

    Versions, processor, memory, GPUs and backends, to put into a report of a fault.
    """
    from ..engine.environment import collect

    facts = collect()
    if as_json:
        say_json(facts)
    else:
        show_table(_rows(facts))


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    cpu, memory, cache = facts["cpu"], facts["memory"], facts["cache"]
    yield "derain-engine", facts["derain_engine"]
    yield "Python", facts["python"]
    yield "System", facts["platform"]
    yield "CPU", f"{cpu['model']} ({cpu['machine']})"
    yield "  instructions", " ".join(cpu["features"]) or "unknown"
    yield "  cores", f"{cpu['cores'] or 'unknown'}, {cpu['threads']} threads for this process"
    yield "Memory", f"{file_size(memory['total_bytes'])}, {file_size(memory['available_bytes'])} available"
    yield "GPUs", ", ".join(facts["gpus"]) or "none found"
    for name, backend in facts["backends"].items():
        precisions = ", ".join(backend["precisions"])
        yield f"Backend {name}", f"ready ({precisions})" if backend["available"] else backend["reason"]
    yield "Default backend", facts["default_backend"]
    yield "Shipped weights", ", ".join(facts["shipped_weights"]) or "none"
    yield "Cache", cache["folder"] if cache["writable"] else f"{cache['folder']} cannot be written"
    for name, version in facts["packages"].items():
        yield f"Package {name}", version or "not installed"

"""The share of the machine that this process may use: containers and pinning leave it less than there is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

#: Where Linux tells the control groups of this process, and where they lie.
_GROUPS, _MOUNTED = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usable_threads() -> int:
    """Count the threads that run at once: of the CPUs that the process is pinned to, where it is."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Return the bytes that can be had without swapping: of the machine's, and of what control groups (versions 1 and
    2) leave."""
    import psutil

    return min([psutil.virtual_memory().available, *_left_by_groups()])


def _left_by_groups() -> Iterator[int]:
    for folder, limit, usage, reclaimable in _memory_groups():
        with contextlib.suppress(OSError, ValueError):  # no limit ("max"), or none that is told here
            least = int((folder / limit).read_text()) - int((folder / usage).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            # Cached files are given up for whoever asks.
            yield max(least + int(stat.get(reclaimable, 0)), 0)


def _memory_groups() -> Iterator[tuple[Path, str, str, str]]:
    """Yield (folder, names of the files with limit and usage, of the count of cached bytes) of the process's groups and
    all that they lie in."""
    try:
        lines = _GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = _MOUNTED
            limit, usage, cached = "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root = _MOUNTED / "memory"
            limit, usage, cached = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        group = Path(path.lstrip("/"))
        # A container may see its own group as the root of all, under the name that it has outside.
        for folder in (group, *group.parents) if group.parts else (group,):
            yield root / folder, limit, usage, cached

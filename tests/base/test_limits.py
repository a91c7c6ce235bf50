"""The share that a process may use where a container or a pin leaves it less than the machine has."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from derain_engine.base import limits

FREE = 8 << 30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of control groups; ``table`` in it says which are this process's."""
    monkeypatch.setattr(limits, "_GROUPS", tmp_path / "table")
    monkeypatch.setattr(limits, "_MOUNTED", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=FREE))
    return tmp_path


def make(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


def second(limit: object, current: int, cached: int) -> dict[str, object]:
    return {
        "memory.max": limit,
        "memory.current": current,
        "memory.stat": f"anon 5\ninactive_file {cached}",
    }


def test_without_groups_it_is_the_machine_s(groups: Path) -> None:
    assert limits.available_memory() == FREE
    (groups / "table").write_text("0::/\n")
    assert limits.available_memory() == FREE


@pytest.mark.parametrize("name", ["a/b", "seen/from/outside"])
def test_the_tightest_group_counts_and_cached_files_are_free(groups: Path, name: str) -> None:
    (groups / "table").write_text(f"1:cpu:/elsewhere\n0::/{name}\n")
    make(groups, second(4000, 3000, 500))
    assert limits.available_memory() == 1500
    make(groups / "a" / "b", second(900, 300, 0))
    assert limits.available_memory() == (600 if name == "a/b" else 1500)
    make(groups / "a", second("max", 300, 0))
    assert limits.available_memory() == (600 if name == "a/b" else 1500)
    make(groups, second(2000, 3000, 500))
    assert limits.available_memory() == 0


def test_groups_of_the_first_version(groups: Path) -> None:
    (groups / "table").write_text("4:cpu,memory:/job\n")
    files = {
        "memory.limit_in_bytes": 1000,
        "memory.usage_in_bytes": 400,
        "memory.stat": "total_inactive_file 150",
    }
    make(groups / "memory" / "job", files)
    assert limits.available_memory() == 750


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned on this system")
def test_pinned_to_one_cpu_there_is_one_thread() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert limits.usable_threads() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert limits.usable_threads() == len(before)

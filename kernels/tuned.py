"""Configurations that were measured on a GPU (``derain-engine kernels tune``), and where they hold.

Hard: an entry is used for its kernel, channels and level alone, on the GPU (its name and ``sm_xx``) and in the
precision that it was measured in, and nowhere else. Soft: the driver, CUDA, Triton, the picture's size and the date are
kept with an entry and change nothing about its use: a newer compiler may make another choice the best one, not a wrong
one. What has no entry is cut by the heuristic.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from ..base.errors import InputError
from ..base.files import atomic_write
from .launch import Configure, LaunchConfig
from .record import find, forms, heuristic

#: Version of the file's form.
FORMAT = 1
#: The configurations that come with the package.
DATA = Path(__file__).with_name("tuned.json")

#: A kernel's name, its channels, the level of the map that its tiles cover.
Key: TypeAlias = tuple[str, int, int]


@dataclass(frozen=True)
class Entry:
    """A configuration that was measured.

    config: how the kernel is cut. heuristic_ms, tuned_ms: device time of one launch, in milliseconds, as the
    heuristic cuts it and as ``config`` does, from one run in turns; the mean over the launches of a frame.
    """

    kernel: str
    channels: int
    level: int
    config: LaunchConfig
    heuristic_ms: float
    tuned_ms: float

    @property
    def key(self) -> Key:
        return self.kernel, self.channels, self.level


@dataclass(frozen=True)
class TuningRun:
    """Entries that were measured together.

    gpu: the GPU's name. target: such as ``sm_90``. precision: of the maps. driver: its release. cuda: the newest that
    it speaks. triton: the compiler. height, width: of the picture, in pixels. date: UTC, ISO 8601. command: that
    measured.
    """

    gpu: str
    target: str
    precision: str
    driver: str
    cuda: str
    triton: str
    height: int
    width: int
    date: str
    command: str
    entries: tuple[Entry, ...] = ()

    @property
    def place(self) -> tuple[str, str, str]:
        """The place that another's entries are never used for."""
        return self.gpu, self.target, self.precision


def configure_for(
    target: str,
    gpu_name: str | None = None,
    precision: str = "fp16",
    path: str | os.PathLike[str] | None = None,
) -> Configure:
    """Return the configurations for a GPU: those that were measured on it, the heuristic's for all others.

    Args:
        target: such as ``sm_90``.
        gpu_name: as the driver calls it. Without one, which is how kernels are compiled for a GPU that is elsewhere,
            entries are used that all GPUs of this target that were measured agree on.
        precision: of the maps.
        path: the file, by default the package's.

    Returns:
        :func:`.record.heuristic` itself where nothing was measured.

    Raises:
        InputError: the file is damaged.
    """
    found: dict[Key, dict[str, LaunchConfig]] = {}
    for run in load(path):
        if (run.target, run.precision) == (target, precision) and gpu_name in (None, run.gpu):
            for entry in run.entries:
                found.setdefault(entry.key, {})[run.gpu] = entry.config
    measured = {key: next(iter(by.values())) for key, by in found.items() if len(set(by.values())) == 1}
    if not measured:
        return heuristic

    def configure(kernel: str, channels: int, level: int) -> LaunchConfig:
        return measured.get((kernel, channels, level)) or heuristic(kernel, channels, level)

    return configure


def load(path: str | os.PathLike[str] | None = None) -> tuple[TuningRun, ...]:
    """Everything in a file, by default the package's.

    Raises:
        InputError: it cannot be read or is damaged.
    """
    path = Path(path or DATA)
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"its format is {data['format']!r}, and this version reads {FORMAT}")
        return tuple(_run(stored) for stored in data["runs"])
    except OSError as error:
        raise InputError(f"The tuned configurations in {path} cannot be read: {error.strerror}.") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"The tuned configurations in {path} are damaged ({error}). Remove the damage, or replace the file by "
            f'one without entries: {{"format": {FORMAT}, "runs": []}}.'
        ) from error


def merge(runs: Sequence[TuningRun], new: TuningRun, tried: Collection[Key]) -> tuple[TuningRun, ...]:
    """``runs`` with ``new``, whose GPU and precision lose what they had for the keys that were ``tried``: a key that
    was tried and is not among the new entries is cut best by the heuristic. All else stays as it is."""
    kept = [
        replace(run, entries=tuple(entry for entry in run.entries if entry.key not in tried))
        if run.place == new.place
        else run
        for run in runs
    ]
    return tuple(run for run in (*kept, new) if run.entries)


def save(runs: Sequence[TuningRun], path: str | os.PathLike[str]) -> None:
    """Write the file, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    data = {"format": FORMAT, "runs": [asdict(run) for run in runs]}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", "utf-8")


def _run(stored: dict[str, Any]) -> TuningRun:
    run = TuningRun(**{**stored, "entries": tuple(_entry(entry) for entry in stored["entries"])})
    for field in fields(run):
        kind = {"height": int, "width": int, "entries": tuple}.get(field.name, str)
        if not isinstance(getattr(run, field.name), kind):
            raise ValueError(f"{field.name} is {getattr(run, field.name)!r}")
    return run


def _entry(stored: dict[str, Any]) -> Entry:
    from .gemm import K_PADDING

    entry = Entry(**{**stored, "config": LaunchConfig(**stored["config"])})
    config = entry.config
    numbers = [config.tile_h, config.tile_w, config.block_k, config.warps]
    powers = all(isinstance(n, int) and n > 0 and not n & (n - 1) for n in numbers)
    fits = powers and config.warps <= 32 and isinstance(config.stages, int) and 1 <= config.stages <= 8
    fits = fits and config.tile_h * config.tile_w <= 1024 and K_PADDING % config.block_k == 0
    tiles = find(entry.kernel).tiles if entry.kernel in forms() else ()
    if not fits or (tiles and (config.tile_h, config.tile_w) not in tiles):
        raise ValueError(f"{entry.kernel} cannot be cut by {config}")
    if not isinstance(entry.kernel, str) or not all(
        isinstance(n, int) for n in (entry.channels, entry.level)
    ):
        raise ValueError(f"an entry is for {entry.key}")
    if not all(isinstance(ms, int | float) and ms > 0 for ms in (entry.heuristic_ms, entry.tuned_ms)):
        raise ValueError(f"an entry of {entry.kernel} took {entry.heuristic_ms!r} and {entry.tuned_ms!r} ms")
    return entry

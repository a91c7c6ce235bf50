"""What can be timed: a name, the network's reference, and a way of opening it that another process can follow, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from ..base import files
from ..engine import backends
from ..engine.backends.base import Artefact, RunOptions
from ..engine.manifest import Manifest
from ..engine.runtime import Engine, load
from ..models.checkpoint import Checkpoint

Mode = Literal["latency", "throughput"]


class Opener(Protocol):
    """Opens an engine anew; can be pickled."""

    @property
    def on_gpu(self) -> bool: ...

    def __call__(self, mode: Mode, *, cache: bool = False) -> Engine:
        """cache: keep compiled code in the user's cache folder, and take it from there."""
        ...


@dataclass(frozen=True)
class Contestant:
    """reference: the network to compare with, None for none. manifest: what its engines say of themselves."""

    name: str
    manifest: Manifest
    reference: Checkpoint | None
    open: Opener


@dataclass(frozen=True)
class FromFile:
    """An engine file."""

    path: Path
    on_gpu: bool
    threads: int
    trust: str | Sequence[str] = ()

    def __call__(self, mode: Mode, *, cache: bool = False) -> Engine:
        return load(self.path, mode=mode, threads=self.threads, tile=0, cache=cache, trust=self.trust)


@dataclass(frozen=True)
class FromArtefact:
    """What a backend made, without a file around it."""

    artefact: Artefact = field(repr=False)
    manifest: Manifest
    threads: int

    @property
    def on_gpu(self) -> bool:
        return backends.get(self.artefact.backend).on_gpu

    def __call__(self, mode: Mode, *, cache: bool = False) -> Engine:
        folder = files.cache_dir("bench", self.artefact.backend, self.artefact.precision) if cache else None
        options = RunOptions(mode=mode, threads=self.threads, cache_dir=folder)
        session = backends.get(self.artefact.backend).open(self.artefact, options)
        return Engine(session, self.manifest, tile=0)

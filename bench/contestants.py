"""Contestants, which can be timed: a name, the network's reference, and a way of opening it that another process can
follow, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from ..base import files
from ..base.errors import BackendUnavailable
from ..engine import backends
from ..engine.backends.base import Artefact, RunOptions
from ..engine.manifest import Manifest
from ..engine.runtime import Engine, load
from ..models.checkpoint import Checkpoint
from ..models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

Mode = Literal["latency", "throughput"]


class Opener(Protocol):
    """Opens an engine anew; can be pickled."""

    @property
    def on_gpu(self) -> bool: ...

    def __call__(self, mode: Mode, *, cache: bool = False) -> Engine:
        """Open it. cache: keep compiled code in the user's cache folder, and take it from there."""
        ...


@dataclass(frozen=True)
class Contestant:
    """Something that can be timed.

    reference: the network to compare with, None for none. manifest: what its engines say of themselves.
    """

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
    """An artefact of a backend, without a file around it. streams: frames at once when throughput is asked for."""

    artefact: Artefact = field(repr=False)
    manifest: Manifest
    threads: int
    streams: int | None = None

    @property
    def on_gpu(self) -> bool:
        return backends.get(self.artefact.backend).on_gpu

    def __call__(self, mode: Mode, *, cache: bool = False) -> Engine:
        folder = files.cache_dir("bench", self.artefact.backend, self.artefact.precision) if cache else None
        options = RunOptions(mode=mode, threads=self.threads, cache_dir=folder, streams=self.streams)
        session = backends.get(self.artefact.backend).open(self.artefact, options)
        return Engine(session, self.manifest, tile=0)


def find_checkpoint(model: str) -> Checkpoint:
    """Find the network of a preset with random weights, the same each time, or of a file or shipped weights. A preset's
    name means the preset where no file has it.

    Raises:
        InputError, CheckpointError: a name of nothing, or a file that is no model.
        BackendUnavailable: PyTorch is not installed.
    """
    try:
        import torch

        from ..models.checkpoint import load_checkpoint, weights_sha256
        from ..models.loading import find_model
        from ..models.registry import create
    except ImportError as error:
        raise BackendUnavailable(
            f"This needs {error.name}, which is not installed: pip install 'derain-engine[build]'"
        ) from error
    presets = _presets()
    if model not in presets or Path(model).exists():
        return load_checkpoint(find_model(model)[0])
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network = create(presets[model]).eval().requires_grad_(False)
    return Checkpoint(
        spec=presets[model],
        network=network,
        weights_sha256=weights_sha256(dict(network.named_parameters())),
        colour_order="rgb",
        source=Path(model),
        metadata={},
        format="torch",
    )


def find_networks(names: Sequence[str] = ()) -> list[nn.Module]:
    """Find the network of every name as :func:`find_checkpoint` does; with no names, of every preset of SSID-KD."""
    names = names or [name for name, spec in _presets().items() if spec.architecture == "ssid-kd"]
    return [find_checkpoint(name).network for name in names]


def _presets() -> dict[str, ModelSpec]:
    from ..models.registry import architectures, spec_of

    return {
        name: spec_of(architecture.name, config)
        for architecture in architectures().values()
        for name, config in architecture.presets.items()
    }


def manifest_of(
    spec: ModelSpec,
    weights_sha256: str,
    *,
    source: str,
    backend: str = "none",
    version: str = "0",
    precision: str = "fp32",
) -> Manifest:
    """Make a manifest for a contestant that no engine file is of."""
    artefact = Artefact(backend, version, precision, {})
    return Manifest.of(spec, artefact, source=source, weights_sha256=weights_sha256)

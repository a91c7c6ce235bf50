"""The small protocol that every backend speaks; free of torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from ...base.errors import InputError
from ...base.extras import importing
from ...base.progress import Progress, no_progress
from ...base.sizes import ALL_SIZES, FrameSizes
from ...models.spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from ...device.interop import DeviceArray


@dataclass(frozen=True)
class RepairGoal:
    """The closeness to fp32 that an engine in fp16 has to reach, for backends that can keep parts of a network in fp32.

    frames: N x 3 x H x W float32 in [0, 1] to judge on. psnr: least PSNR in dB. max_abs: largest absolute error.
    """

    frames: np.ndarray = field(repr=False)
    psnr: float
    max_abs: float


@dataclass(frozen=True)
class Calibration:
    """The pictures that a network is quantised on, N x 3 x H x W float32 in [0, 1].

    frames: rainy ones, whose ranges its values are measured on. rainy, clean: pairs to judge what it costs on.
    """

    frames: np.ndarray = field(repr=False)
    rainy: np.ndarray = field(repr=False)
    clean: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class CompileOptions:
    """The request to a backend. The last fields are for backends that take them (:attr:`Backend.takes`).

    precision: ``fp32``, ``bf16``, ...; None lets the backend take the fastest that this machine has in hardware.
    sizes: of the frames that the engine has to take, and for which it has to be fastest.
    gpu: the GPUs to build for, as ``--gpu`` takes them (``current``, ``all``, ``sm_80,sm_90``), for backends that run
        on one; None lets the backend choose.
    repair: what to keep parts of the network in fp32 for; None to keep none.
    calibration: what to quantise on, for precisions of 8 bits.
    workspace: most bytes of memory that a layer may take for itself.
    hardware_compatibility: ``none``, ``ampere_plus`` or ``same_compute_capability``.
    version_compatible: whether later versions of the backend's library may run the engine.
    plugins: whether parts of the network are computed by kernels of ours inside the library's engine.
    """

    precision: str | None = None
    sizes: FrameSizes = ALL_SIZES
    gpu: str | None = None
    repair: RepairGoal | None = None
    calibration: Calibration | None = None
    workspace: int | None = None
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    plugins: bool = False


@dataclass(frozen=True)
class RunOptions:
    """The way in which a session is opened.

    mode: ``latency`` for one frame as soon as possible, ``throughput`` for many frames in flight.
    threads: CPU threads, None for all cores.
    cache_dir: where compiled code may be kept between processes, None for nowhere.
    streams: frames at once in throughput mode on a CPU; None lets the backend choose.
    """

    mode: Literal["latency", "throughput"] = "latency"
    threads: int | None = None
    cache_dir: Path | None = None
    streams: int | None = None


@dataclass(frozen=True)
class Artefact:
    """The result of a backend's work on a network: named payloads that go into a bundle as they are.

    The same network and options give the same payload bytes.

    gpus: what they were compiled for, such as ``sm_90``; empty where they are for CPUs, or for any GPU.
    bytes_per_pixel: memory that a session takes for a pixel of a frame; None where the network's own figure stands.
    sizes: the frames that a session takes, and those for which it is fastest.
    notes: what else there is to know of how it was made, as JSON's types.
    """

    backend: str
    backend_version: str
    precision: str
    payloads: Mapping[str, bytes | memoryview] = field(repr=False)
    gpus: tuple[str, ...] = ()
    bytes_per_pixel: int | None = None
    sizes: FrameSizes = ALL_SIZES
    notes: Mapping[str, Any] = field(default_factory=dict)


class Session(Protocol):
    """An artefact that is ready to run.

    parallelism: how many threads may be inside :meth:`run` at once to keep the device busy; ``run`` is
    thread-safe up to that number.
    precision: what it computes in: the artefact's, or a more exact one where the device lacks that.
    available_memory: bytes that its device has free for frames; None where that is the host.

    A session on a GPU is a :class:`RunsOnGpu` as well.
    """

    parallelism: int
    precision: str

    @property
    def available_memory(self) -> int | None: ...

    def run(self, batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Clean a batch.

        Args:
            batch: N x H x W x 3 RGB, C-contiguous, uint8 in [0, 255] or float32 in [0, 1]; H and W of a size that the
                artefact takes.

        Returns:
            The clean batch in the same shape and dtype, in ``out`` if given: float32 as the network gave it (not
            clamped), uint8 as ``floor(255 * clamp(y, 0, 1) + 0.5)``.
        """
        ...

    def close(self) -> None:
        """Free what the session holds. Calling it twice is harmless."""
        ...


@runtime_checkable
class RunsOnGpu(Protocol):
    """A session that cleans frames which lie on its GPU."""

    def run_on_gpu(
        self, image: Any, padded: Callable[[int, int], tuple[int, int]], stream: Any = None
    ) -> DeviceArray:
        """Clean an image or batch that lies on the GPU, as :meth:`GpuSession.run_on_gpu` says."""
        ...


class Backend(Protocol):
    """One way of running a network.

    on_gpu: whether its payloads are programs for a GPU, which are opened only where they are trusted.
    takes: fields of CompileOptions that it heeds beside ``precision``, ``sizes`` and ``gpu``. With ``sizes`` its
        engines take frames of a bounded range of sizes; the others take one size, or all.
    """

    name: str
    precisions: tuple[str, ...]
    on_gpu: bool
    takes: frozenset[str]

    def unavailable(self, artefact: Artefact | None = None) -> str | None:
        """Return one sentence where no session can be opened on this machine, what is missing and how to get it; else
        None.

        Args:
            artefact: what is to be opened, where it is more than the machine that decides. Nothing of it is run.
        """
        ...

    def compile(
        self, network: nn.Module, spec: ModelSpec, options: CompileOptions, progress: Progress = no_progress
    ) -> Artefact:
        """Make what a session runs. Raises BuildError, or BackendUnavailable where a build dependency is missing."""
        ...

    def open(self, artefact: Artefact, options: RunOptions) -> Session:
        """Open a session. Raises BackendUnavailable where the device or library is missing, BundleError for a bad
        payload."""
        ...

    def emulate(self, artefact: Artefact) -> Session | None:
        """Open a session on the CPU that computes what the artefact does, from the same payloads: for the comparison
        with the reference on machines where :meth:`open` finds no device. None where there is no such thing."""
        ...


def require_precision(backend: str, precisions: Sequence[str], precision: str | None) -> None:
    """Raise InputError for a precision that a backend does not have."""
    if precision not in (None, *precisions):
        raise InputError(
            f"The {backend} backend has no precision {precision!r}; it has {', '.join(precisions)}."
        )


def build_extra() -> contextlib.AbstractContextManager[None]:
    """Import within the block what only builds need. Raises BackendUnavailable where it is not installed."""
    return importing(
        "Building an engine needs PyTorch and ONNX ({} is missing); install them with: "
        'pip install "derain-engine[build]"'
    )

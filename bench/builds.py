"""The time that TensorRT takes to build an engine, its size, and the memory that building takes.

Every build is a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..base.errors import InputError
from ..base.progress import Progress, no_progress
from ..base.sizes import FrameSizes, words
from ..export.nvinfer import FLAVOURS
from .contestants import find_checkpoint
from .results import Measurement
from .starts import in_new_process, peak_bytes

if TYPE_CHECKING:
    from torch import nn

    from ..models.spec import ModelSpec

#: Of the engines for one size of frame, in pixels.
_STATIC = (512, 512)


@dataclass(frozen=True)
class EngineBuild:
    """One build of one network's engine.

    name: of the network. parameters: distinct numbers in its weights. nodes: of its ONNX graph.
    frames: sizes that the engine takes, as of FrameSizes. gpus: that it was built for; empty for this machine's.
    export_s, plan_s: seconds from PyTorch to a graph in that precision, and from there to the plan.
    graph_bytes, plan_bytes: sizes of the two. peak_bytes: most memory that the process had, PyTorch included; None
    where the system does not tell.
    """

    name: str
    parameters: int
    nodes: int
    backend: str
    backend_version: str
    precision: str
    frames: dict[str, Any]
    gpus: tuple[str, ...]
    export_s: float
    plan_s: float
    graph_bytes: int
    plan_bytes: int
    peak_bytes: int | None

    @property
    def takes(self) -> str:
        """The frames in words."""
        sizes = FrameSizes.from_json(self.frames)
        return words(sizes.least) if sizes.fixed else f"{words(sizes.least)} to {words(sizes.largest)}"


class Builds(Measurement[EngineBuild]):
    """The outcome of a run of builds: by network, first for one size of frame, then for a range."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def bench_builds(
    names: Sequence[str],
    *,
    backend: str = "tensorrt-rtx",
    precision: str = "fp16",
    command: str = "",
    progress: Progress = no_progress,
) -> Builds:
    """Build every network for 512x512 and for a range of sizes, one after the other.

    Args:
        names: model files, shipped weights or presets, which have random weights.
        backend: ``tensorrt-rtx``, which builds for all GPUs that it can name, or ``tensorrt`` for this machine's.
        precision: ``fp16`` or ``fp32``.

    Raises:
        InputError, CheckpointError: a name of nothing, another backend or precision.
        BackendUnavailable: the library is not installed.
        BuildError: a build fails.
    """
    if backend not in FLAVOURS:
        raise InputError(f"{backend!r} builds no plans; those that do are {', '.join(FLAVOURS)}.")
    if precision not in ("fp16", "fp32"):
        raise InputError(f"Plans are in fp16 or fp32, not in {precision!r}.")
    FLAVOURS[backend].bindings()
    rows = []
    for name in names:
        for fixed in (True, False):
            progress(
                f"{name}, {words(_STATIC) if fixed else 'a range of sizes'}", len(rows) / (2 * len(names))
            )
            rows.append(in_new_process("a build", _build, name, backend, precision, fixed))
    return Builds.here(rows, command)


def _build(name: str, backend: str, precision: str, fixed: bool) -> EngineBuild:
    from ..engine.options import BuildOptions
    from ..export.half import to_half
    from ..export.onnx import export_onnx
    from ..export.tensorrt.build import PlanOptions, build_plan

    flavour = FLAVOURS[backend]
    network, spec = _find(name)
    sizes = BuildOptions(backend=backend, shape=_STATIC if fixed else None).sizes_for(spec)
    started = time.perf_counter()
    graph = exported = export_onnx(network, spec)
    if precision == "fp16":
        graph = to_half(exported).model
    exported_at = time.perf_counter()
    plan = build_plan(graph, flavour, sizes, PlanOptions(flavour.gpus or None, precision))
    return EngineBuild(
        name=name,
        parameters=sum(each.numel() for each in network.parameters()),
        nodes=len(exported.graph.node),
        backend=backend,
        backend_version=flavour.version,
        precision=precision,
        frames=sizes.to_json(),
        gpus=flavour.gpus,
        export_s=round(exported_at - started, 2),
        plan_s=round(plan.seconds, 2),
        graph_bytes=graph.ByteSize(),
        plan_bytes=len(plan.data),
        peak_bytes=peak_bytes(),
    )


def _find(name: str) -> tuple[nn.Module, ModelSpec]:
    from ..models.checkpoint import load_checkpoint
    from ..models.loading import find_model

    try:
        checkpoint = load_checkpoint(find_model(name)[0])
    except InputError:
        checkpoint = find_checkpoint(name)
    return checkpoint.network, checkpoint.spec

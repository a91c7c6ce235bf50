"""Tuning on this machine's GPU, from the names of networks to the data file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from ...base import files
from ...base.errors import InputError
from ...base.progress import Progress, no_progress
from ...kernels import tuned
from ...kernels.aot_pool import compile_each
from ...plan import Dtype
from .networks import find_networks
from .rig import Rig, open_rig
from .tune import Compile, Tuned, tune


@dataclass(frozen=True)
class Request:
    """models: names for :func:`.networks.find_networks`. shape: height and width of the picture in pixels. kernels,
    budget: as for :func:`.tune.tune`. output: the file, the package's where it is None. command: for the record."""

    models: tuple[str, ...]
    precision: Dtype
    shape: tuple[int, int]
    kernels: tuple[str, ...]
    budget: float
    output: Path | None
    command: str


@dataclass(frozen=True)
class Found:
    """results: of every kernel. run: what was written of it. path: where."""

    results: tuple[Tuned, ...]
    run: tuned.Run
    path: Path


def tune_here(
    request: Request,
    progress: Progress = no_progress,
    *,
    rig: Callable[[], AbstractContextManager[Rig]] = open_rig,
    compile_each: Compile = compile_each,
    device: str = "cuda",
) -> Found:
    """Tune, and write what gains as soon as it is found.

    Args:
        rig, compile_each, device: the GPU, the compiler, and where PyTorch's tensors are on that GPU.

    Raises:
        InputError: the file cannot be written or is damaged, or the networks have none of the kernels.
        BackendUnavailable: no GPU.
    """
    from ...plan import lower
    from ...plan.memory import Memory

    path = request.output or tuned.DATA
    try:
        files.require_writable(path)
    except InputError as error:
        if request.output is not None:
            raise
        raise InputError(f"{error} Name a file to write with --out.") from error
    before = tuned.load(path) if path.exists() else ()
    networks = find_networks(request.models)
    with rig() as here:
        # As the heuristic cuts them, whatever was measured before: gains are over that.
        plans = [lower(network, request.precision, nominal=request.shape) for network in networks]
        memories = [Memory(plan, *request.shape, device) for plan in plans]
        facts = here.facts()
        run = tuned.Run(
            gpu=facts["gpu"],
            target=facts["target"],
            precision=request.precision,
            driver=facts["driver"],
            cuda=facts["cuda"],
            triton=facts["triton"],
            height=request.shape[0],
            width=request.shape[1],
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=request.command,
        )
        results: list[Tuned] = []
        for result in tune(
            here,
            memories,
            kernels=request.kernels,
            budget=request.budget,
            compile_each=compile_each,
            progress=progress,
        ):
            results.append(result)
            if result.config is not None:
                entry = tuned.Entry(*result.key, result.config, result.heuristic_ms, result.tuned_ms)
                run = replace(run, entries=(*run.entries, entry))
            tried = {each.key for each in results if each.tried > 1}
            if (after := tuned.merge(before, run, tried)) != before:
                tuned.save(after, path)
    return Found(tuple(results), run, path)

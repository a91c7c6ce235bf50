"""The search for the fastest configuration on this GPU, for every kernel, number of channels and level of networks.

All candidates are compiled first, side by side, in the order of what their kernels cost a frame; those that do not
compile or that spill are left out. Then, kernel by kernel, each is launched as deployed engines launch it, compared
with the plan's PyTorch executor on the same memory, and timed in turns with the others, the cache cold. The fastest
take turns with the heuristic's once more, and the one that is faster throughout wins.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ...base import files
from ...base.errors import DerainError, InputError, VerificationError
from ...base.progress import Progress, no_progress
from ...kernels import tuned
from ...kernels.aot import distinct, specialisation
from ...kernels.aot.pool import compile_each
from ...kernels.record import find
from ...plan import Dtype
from ..contestants import find_networks
from ..results import now
from .alike import Alike, Check, alike
from .candidates import candidates
from .rig import Rig, TimedWork, open_rig

if TYPE_CHECKING:
    from ...kernels.aot import Compiled
    from ...kernels.launch import Call, LaunchConfig
    from ...kernels.tuned import Key
    from ...plan.memory import Memory

#: Timed launches of a candidate, and of the finalists and the heuristic in the second round.
RUNS, FINAL_RUNS = 15, 60
FINALISTS = 3
#: The share that a configuration must be faster by, in both halves of the second round, to be written down.
GAIN = 0.02
#: Of the budget, at most this is spent on compiling.
_COMPILING = 0.6

#: As :func:`derain_engine.kernels.aot.pool.compile_each`.
CompileEach: TypeAlias = Callable[
    [Iterable[tuple["Call", str]], str], Generator[tuple["Call", str, "Compiled | DerainError"], None, None]
]


@dataclass(frozen=True)
class Tuned:
    """The outcome for one key.

    launches: of it, in one frame of every network. config: the fastest; None where that is how it was cut before.
    heuristic_ms, tuned_ms: of one launch, the mean over ``launches``; both of the second round where there was one.
    tried: configurations that were timed; 1 where only the one in use was, for want of time. failed: that were not
    compiled, spilled or did not fit this GPU. wrong: that gave something else than they must.
    """

    key: Key
    launches: int
    config: LaunchConfig | None
    heuristic_ms: float
    tuned_ms: float
    tried: int
    failed: int
    wrong: tuple[LaunchConfig, ...]


@dataclass
class _Task:
    """A key with its launches. weight: their milliseconds in a frame, as they are cut now."""

    key: Key
    launches: list[Alike] = field(default_factory=list)
    weight: float = 0.0

    @property
    def count(self) -> int:
        return sum(each.launches for each in self.launches)

    def untouched(self) -> Tuned:
        ms = self.weight / self.count
        return Tuned(self.key, self.count, None, ms, ms, 1, 0, ())


def tune(
    rig: Rig,
    memories: Sequence[Memory],
    *,
    kernels: Sequence[str] = (),
    budget: float,
    compile_each: CompileEach,
    progress: Progress = no_progress,
) -> Generator[Tuned, None, None]:
    """Yield one result for every key, those that cost a frame most first.

    Args:
        memories: of the networks' plans, on the rig's GPU.
        kernels: only these, by name; all without any.
        budget: seconds after which no other key is begun.
        progress: told what is done.

    Raises:
        InputError: the networks have none of the kernels.
        VerificationError: a kernel is wrong as it is cut now.
        BuildError: a kernel is not compiled as it is cut now.
        BackendUnavailable: a kernel does not fit this GPU as it is cut now.
        DerainError: a launch failed, after which this process can use the GPU no more.
    """
    bench = _Bench(rig, memories[0].plan.dtype, compile_each, progress)
    tasks: dict[Key, _Task] = {}
    for memory in memories:
        for each in alike(memory):
            if not kernels or each.step.call.kernel in kernels:
                tasks.setdefault(each.key, _Task(each.key)).launches.append(each)
    if not tasks:
        raise InputError(f"None of the networks has a kernel {' or '.join(kernels)}.")
    began = time.monotonic()
    bench.weigh(list(tasks.values()))
    order = sorted(tasks.values(), key=lambda task: -task.weight)
    configs = {
        task.key: candidates([each.step.call for each in task.launches], rig.context.gpu.shared_memory)
        for task in order
    }
    bench.compile_candidates(order, configs, began + _COMPILING * budget)
    for done, task in enumerate(order):
        kernel, channels, level = task.key
        progress(f"timing {kernel} of {channels} channels at level {level}", done / len(order))
        if time.monotonic() > began + budget:
            yield task.untouched()
        else:
            yield bench.settle(task, configs[task.key])


class _Bench:
    """The kernels compiled so far, and how they are timed."""

    def __init__(self, rig: Rig, dtype: str, compile_each: CompileEach, progress: Progress) -> None:
        self.rig, self.dtype, self.progress = rig, dtype, progress
        self._compile_each = compile_each
        self._compiled: dict[str, Compiled] = {}
        #: Specialisations that compilers have answered for.
        self._asked: set[str] = set()

    def weigh(self, tasks: Sequence[_Task]) -> None:
        """Compile and check what is in use, and note what every task costs a frame."""
        calls = [each.step.call for task in tasks for each in task.launches]
        for answer in self._compile(calls, "compiling what is in use"):
            if isinstance(answer, DerainError):
                raise answer
            self._compiled[specialisation(answer.call)] = answer
        for done, task in enumerate(tasks):
            self.progress("checking what is in use", done / len(tasks))
            works = []
            for each in task.launches:
                works.append(self._launcher(each, self._kernel(each.step.call)))
                if not Check(each).passes(works[-1]):
                    raise VerificationError(
                        f"{specialisation(each.step.call)}, which is in use, differs from PyTorch on this GPU."
                    )
            task.weight = float(self._milliseconds(task, [works], RUNS)[0, 0])

    def compile_candidates(
        self, order: Sequence[_Task], configs: dict[Key, list[LaunchConfig]], deadline: float
    ) -> None:
        calls = [
            find(each.step.call.kernel).recut(each.step.call, config)
            for task in order
            for config in configs[task.key]
            for each in task.launches
        ]
        most = self.rig.context.gpu.shared_memory
        for answer in self._compile(calls, "compiling candidates", deadline):
            if not isinstance(answer, DerainError) and not answer.spilled and answer.shared <= most:
                self._compiled[specialisation(answer.call)] = answer

    def settle(self, task: _Task, configs: Sequence[LaunchConfig]) -> Tuned:
        """Time what was compiled of a task's candidates, and choose."""
        kernel = find(task.key[0])
        before = [self._launcher(each, self._kernel(each.step.call)) for each in task.launches]
        ready: dict[LaunchConfig, list[TimedWork]] = {}
        failed = 0
        for config in configs:
            calls = [kernel.recut(each.step.call, config) for each in task.launches]
            if all(call == each.step.call for call, each in zip(calls, task.launches, strict=True)):
                continue
            state = self._state(calls)
            failed += state is False
            if state:
                ready[config] = [
                    self._launcher(each, self._kernel(call))
                    for each, call in zip(task.launches, calls, strict=True)
                ]
        wrong = []
        for i, each in enumerate(task.launches):
            check = Check(each)
            wrong += [config for config, works in ready.items() if not check.passes(works[i])]
        right = {config: works for config, works in ready.items() if config not in wrong}
        first = self._milliseconds(task, [before, *right.values()], RUNS)[0]
        ranked = sorted(zip(first[1:], right, strict=True), key=lambda pair: pair[0])
        finalists = [config for ms, config in ranked[:FINALISTS] if ms < first[0]]
        best, now, then = None, first[0], first[0]
        if finalists:
            halves = self._milliseconds(task, [before, *(right[c] for c in finalists)], FINAL_RUNS, 2)
            gains = (halves[:, 1:] < halves[:, :1] * (1 - GAIN)).all(0)
            means = halves.mean(0)
            now = then = float(means[0])
            if gains.any():
                found = int(np.where(gains, means[1:], np.inf).argmin())
                best, then = finalists[found], float(means[1 + found])
        count = task.count
        before_ms, after_ms = float(now) / count, float(then) / count
        wrong_ones = tuple(dict.fromkeys(wrong))
        return Tuned(task.key, count, best, before_ms, after_ms, 1 + len(right), failed, wrong_ones)

    def _milliseconds(
        self, task: _Task, contestants: Sequence[Sequence[TimedWork]], runs: int, parts: int = 1
    ) -> np.ndarray:
        """Return the milliseconds of a frame, parts x contestants: the runs in so many parts."""
        works = [work for works in contestants for work in works]
        times = self.rig.time(works, runs).reshape(len(contestants), len(task.launches), parts, -1)
        counts = np.array([each.launches for each in task.launches])
        return np.einsum("clp,l->pc", np.median(times, axis=3), counts)

    def _compile(
        self, calls: Sequence[Call], stage: str, deadline: float = float("inf")
    ) -> Generator[Compiled | DerainError, None, None]:
        """Yield what became of every specialisation that is not compiled yet, until the deadline."""
        target, began = self.rig.context.gpu.target, time.monotonic()
        wanted = [call for call in distinct(calls) if specialisation(call) not in self._compiled]
        self.progress(stage, 0.0)
        answers = self._compile_each(((call, target) for call in wanted), self.dtype)
        with contextlib.closing(answers):
            for done, (call, _, answer) in enumerate(answers, 1):
                self._asked.add(specialisation(call))
                yield answer
                now = time.monotonic()
                self.progress(stage, min(1.0, max(done / len(wanted), (now - began) / (deadline - began))))
                if now > deadline:
                    return

    def _state(self, calls: Sequence[Call]) -> bool | None:
        """Return True where all are compiled, False where one of them cannot be used, None where there was no time."""
        names = [specialisation(call) for call in calls]
        if any(name in self._asked and name not in self._compiled for name in names):
            return False
        return True if all(name in self._compiled for name in names) else None

    def _kernel(self, call: Call) -> Compiled:
        # A specialisation is compiled once for all its grids.
        return replace(self._compiled[specialisation(call)], call=call)

    def _launcher(self, each: Alike, kernel: Compiled) -> TimedWork:
        pointers = each.pointers(kernel.call)
        work = self.rig.launcher(kernel, pointers, each.sizes)

        def run(_kept: object = pointers) -> None:
            work()

        return run


@dataclass(frozen=True)
class TuningRequest:
    """A wish to tune.

    models: names for :func:`.networks.find_networks`. shape: height and width of the picture in pixels. kernels,
    budget: as for :func:`tune`. output: the file, the package's where it is None. command: for the record.
    """

    models: tuple[str, ...]
    precision: Dtype
    shape: tuple[int, int]
    kernels: tuple[str, ...]
    budget: float
    output: Path | None
    command: str


@dataclass(frozen=True)
class TuningResult:
    """The outcome of tuning.

    results: of every kernel. run: what was written of it. path: where.
    """

    results: tuple[Tuned, ...]
    run: tuned.TuningRun
    path: Path


def tune_here(
    request: TuningRequest,
    progress: Progress = no_progress,
    *,
    rig: Callable[[], AbstractContextManager[Rig]] = open_rig,
    compile_each: CompileEach = compile_each,
    device: str = "cuda",
) -> TuningResult:
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
        run = tuned.TuningRun(
            gpu=facts["gpu"],
            target=facts["target"],
            precision=request.precision,
            driver=facts["driver"],
            cuda=facts["cuda"],
            triton=facts["triton"],
            height=request.shape[0],
            width=request.shape[1],
            date=now(),
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
    return TuningResult(tuple(results), run, path)

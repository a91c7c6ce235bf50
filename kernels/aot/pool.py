"""Many specialisations compiled ahead of time, side by side in processes of their own.

Of their own also because a compiler's crash is then an error of this program and no more, and because kernels can be
compiled so where this process interprets them (TRITON_INTERPRET).
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pickle
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...base.errors import BackendUnavailable, BuildError, DerainError
from ...base.limits import usable_threads
from ...base.progress import Progress, no_progress
from ..launch import Call
from . import Compiled, compile_call, distinct, specialisation, title

if TYPE_CHECKING:
    from typing_extensions import Self


def require_compiler() -> None:
    """Raise BackendUnavailable where Triton or PyTorch, which its kernels are written beside, is not installed."""
    for package in ("triton", "torch"):
        if importlib.util.find_spec(package) is None:
            raise BackendUnavailable(
                f"Compiling kernels needs {package}, which is not installed: pip install "
                "'derain-engine[build,triton]'."
            )


def compile_calls(
    calls: Iterable[Call],
    dtype: str,
    targets: Sequence[str],
    *,
    jobs: int | None = None,
    progress: Progress = no_progress,
) -> list[Compiled]:
    """Compile every specialisation among ``calls`` for every target, side by side in processes of their own.

    Args:
        jobs: processes; by default one for every CPU that this process may use.
        progress: told how much is done.

    Returns:
        Target by target, in the order of the calls.

    Raises:
        InputError, BuildError: as :func:`compile_call`.
        BackendUnavailable: as :func:`require_compiler`.
    """
    wanted = [(call, target) for target in targets for call in distinct(calls)]
    done: dict[tuple[str, str], Compiled] = {}
    progress("compiling kernels", 0.0)
    with contextlib.closing(compile_each(wanted, dtype, jobs=jobs)) as answers:
        for call, target, answer in answers:
            if isinstance(answer, DerainError):
                raise answer
            done[specialisation(call), target] = answer
            progress("compiling kernels", len(done) / len(wanted))
    return [done[specialisation(call), target] for call, target in wanted]


def compile_each(
    wanted: Iterable[tuple[Call, str]], dtype: str, *, jobs: int | None = None
) -> Generator[tuple[Call, str, Compiled | DerainError], None, None]:
    """Calls, each for its target, compiled side by side in processes of their own, in the order in which they are
    done: what became of each, or the error that it ended in, which does not end the others. Closing the generator ends
    the compilers.

    Args:
        jobs: processes; by default one for every CPU that this process may use.

    Raises:
        BackendUnavailable: as :func:`require_compiler`.
    """
    require_compiler()
    ahead = (_Job(call, dtype, target) for call, target in wanted)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="derain-kernels-")))
        selector = stack.enter_context(selectors.DefaultSelector())
        logs = itertools.count()

        def start(job: _Job) -> None:
            worker = stack.enter_context(_Worker(folder, f"{next(logs)}.log"))
            worker.begin(job)
            selector.register(worker.answers, selectors.EVENT_READ, worker)

        for job in itertools.islice(ahead, jobs or usable_threads()):
            start(job)
        while selector.get_map():
            worker = selector.select()[0][0].data
            job, answer = worker.finish()
            following = next(ahead, None)
            if following is None or worker.ended:
                selector.unregister(worker.answers)
                if following is not None:
                    start(following)
            else:
                worker.begin(following)
            yield job.call, job.target, answer


@dataclass(frozen=True, eq=False)
class _Job:
    call: Call
    dtype: str
    target: str


class _Worker:
    """A process that compiles one specialisation after the other. ended: it died of the last one."""

    def __init__(self, folder: Path, log: str) -> None:
        # By its name as a text: a checkout's folder, and so the package, may have one that Python cannot spell.
        program = f"import importlib, sys; sys.path[:] = {sys.path!r}; importlib.import_module({__name__!r})._serve()"
        # What an interrupted compiler leaves is removed with the folder.
        environment = {**os.environ, "TMPDIR": str(folder)}
        environment.pop("TRITON_INTERPRET", None)
        self.ended = False
        self._log = folder / log
        with self._log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                # A session, so that the tools it runs end with it, and not at the terminal's Ctrl-C before that.
                start_new_session=True,
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._jobs, self.answers = self._process.stdin, self._process.stdout

    def begin(self, job: _Job) -> None:
        self._job = job
        # Of a dead process the missing answer tells.
        with contextlib.suppress(BrokenPipeError):
            pickle.dump((job.call, job.dtype, job.target), self._jobs)
            self._jobs.flush()

    def finish(self) -> tuple[_Job, Compiled | DerainError]:
        """Return the job that was begun, and its result or the error that it ended in."""
        job = self._job
        try:
            return job, pickle.load(self.answers)
        except (EOFError, pickle.UnpicklingError):
            self.ended = True
            lines = self._log.read_text("utf-8", "replace").split("\n")
            told = next((line.strip() for line in reversed(lines) if line.strip()), "without a word")
            return job, BuildError(
                f"{title(job.call, job.dtype, job.target)} was not compiled: the compiler ended with exit code "
                f"{self._process.wait()}: {told[:300]}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._jobs.close()
        self.answers.close()


def _serve() -> None:
    """Take jobs from stdin and write results or errors to stdout, as a worker, until there are no more."""
    # Compilers print what they have to say: to stderr, instead of between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with answers:
        while True:
            try:
                job = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            try:
                answer: Compiled | DerainError = compile_call(*job)
            except DerainError as error:
                answer = error
            pickle.dump(answer, answers)
            answers.flush()

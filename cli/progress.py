"""Progress bars with the time that is left, on stderr; silent where stderr is no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich import progress

from ..base.progress import Progress
from .terminal import ERR, printable


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """Yield a ``Progress`` that is drawn as one bar, which is gone when the block ends.

    The bar starts anew where a fraction falls below the last one, which is how a next stage begins; counted work
    calls it with ``done / total``.
    """
    bar = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TaskProgressColumn(markup=False),
        progress.TimeRemainingColumn(),
        console=ERR,
        transient=True,
        disable=not ERR.is_terminal,
    )
    task = bar.add_task("", total=1.0)
    last = 0.0

    def report(stage: str, fraction: float) -> None:
        nonlocal last
        if fraction < last:
            bar.reset(task)
        last = fraction
        bar.update(task, description=printable(stage)[:60], completed=fraction)

    with bar:
        yield report

"""``video`` of cameras and URLs: a status line while it goes on, and an interrupt that ends with a whole file."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from .terminal import ERR, note, printable

if TYPE_CHECKING:
    from ..engine.runtime import Engine
    from ..media.video.live import LiveReport

#: Seconds between two status lines, on a terminal and where they go into a log.
_REFRESH, _LOGGED = 0.5, 10.0


def run_live(
    engine: Engine, source: str, target: str | BinaryIO, shown: str, latency_ms: float, **options: Any
) -> None:
    """Until it ends or is interrupted; leaves with 5 where it ended by itself because something failed."""
    from ..media.video.live import clean_live

    out: Path | BinaryIO = Path(target) if isinstance(target, str) else target
    with _interruptible() as stop, _StatusLine() as status:
        report = clean_live(
            engine, source, out, latency=latency_ms / 1000, stop=stop, status=status, **options
        )
    note(f"{report.line()}: {shown}")
    if report.percentiles()[1] * 1000 > latency_ms:
        note(
            f"More than one frame in twenty was later than {latency_ms:g} ms: the engine is slow for this source; a "
            "smaller network or picture helps."
        )
    if report.failure is not None:
        note(report.failure)
        raise typer.Exit(5)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C and a polite kill set; a second Ctrl-C interrupts as ever."""
    stop = threading.Event()

    def ask(number: int, _: object) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _StatusLine:
    """On a terminal one line that changes; elsewhere a line now and then."""

    def __init__(self) -> None:
        self._status = ERR.status("Waiting for frames") if ERR.is_terminal else None
        self._told = time.monotonic()

    def __enter__(self) -> _StatusLine:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, report: LiveReport) -> None:
        now = time.monotonic()
        if now - self._told < (_LOGGED if self._status is None else _REFRESH):
            return
        self._told = now
        if self._status is None:
            note(report.line())
        else:
            self._status.update(printable(report.line()))

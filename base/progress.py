"""Reports of long work on what it is doing."""

from __future__ import annotations

from collections.abc import Callable

#: Called with what is being done and how much of it is done, 0 to 1.
Progress = Callable[[str, float], None]


def no_progress(stage: str, fraction: float) -> None:
    """Report nowhere."""

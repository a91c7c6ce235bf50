"""Packages that not every installation has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .errors import BackendUnavailable


@contextlib.contextmanager
def importing(needs: str) -> Iterator[None]:
    """Import within the block what only an extra installs.

    Args:
        needs: what it is needed for and how to install it, with ``{}`` for the name of what is missing.

    Raises:
        BackendUnavailable: it is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise BackendUnavailable(needs.format(error.name)) from error

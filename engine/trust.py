"""Trust in programs: engine files whose payloads are code for a GPU.

Such a file is opened when this user built it here, of which a record is kept, or when its SHA-256 is named. Files for
CPUs hold graphs and numbers and are opened whoever made them.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..base.errors import BundleError, InputError
from .bundle import Bundle, open_bundle


def record(path: Path) -> None:
    """Remember an engine file that was built here. Where there is no place to remember it, its SHA-256 has to be
    named."""
    with open_bundle(path) as bundle, contextlib.suppress(OSError):
        folder = _folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / bundle.sha256()).touch(mode=0o600)


def require(bundle: Bundle, trust: str | Sequence[str]) -> None:
    """Refuse an engine file that is neither recorded nor named.

    Args:
        trust: SHA-256 of the files that the caller trusts, one or several.

    Raises:
        BundleError: it is not trusted.
        InputError: ``trust`` has something else than a SHA-256.
    """
    named = [trust] if isinstance(trust, str) else list(trust)
    for each in named:
        if not re.fullmatch("[0-9a-fA-F]{64}", each):
            raise InputError(f"{each!r} is not a SHA-256 of 64 hexadecimal digits, as sha256sum prints it.")
    found = bundle.sha256()
    if found not in map(str.lower, named) and not os.path.isfile(_folder() / found):
        raise BundleError(
            f"{bundle.path} holds programs for a GPU and was not built here by you, so it is not run. If you trust "
            f"who made it, compare its SHA-256 with theirs and say so: --trust {found}"
        )


def _folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("derain-engine", appauthor=False)) / "trusted"

"""Files that are either whole or absent, and the user's cache folder."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from .errors import InputError


@contextlib.contextmanager
def atomic_write(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; rename it to ``target`` when the block ends without error.

    The temporary name keeps the target's suffix, since image writers choose the format by it. On any error,
    ``KeyboardInterrupt`` included, the temporary file is removed and an existing target stays untouched.

    Raises:
        InputError: the target's folder is missing or cannot be written, or the target is a folder.
    """
    target = Path(target)
    require_writable(target)
    # File systems count bytes.
    stem = target.stem.encode(errors="ignore")[:100].decode(errors="ignore")
    temporary = target.with_name(f".{stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        # Made here and exclusively, so that a missing permission shows before any work is done on the content.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}.") from error
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def require_writable(target: str | os.PathLike[str]) -> None:
    """Refuse, before minutes of work, what writing ``target`` would end in.

    Raises:
        InputError: the target's folder is missing or cannot be written, or the target is a folder.
    """
    target = Path(target)
    if target.is_dir():
        raise InputError(f"{target} is a folder; give the name of a file to write.")
    if not target.parent.is_dir():
        raise InputError(
            f"{target} cannot be written: the folder {target.parent} does not exist; create it first."
        )
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(f"{target} cannot be written: no permission to write into {target.parent}.")


def disk_full(error: BaseException | None) -> OSError | None:
    """Return the error, or that of its causes, which says that a disk (or a quota on it) is full; None for none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error
        error = error.__cause__
    return None


def cache_dir(*parts: str) -> Path:
    """Return the user's cache folder for derain-engine (or a folder inside it), created with mode 0700."""
    import platformdirs

    folder = Path(platformdirs.user_cache_dir("derain-engine", appauthor=False)).joinpath(*parts)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder

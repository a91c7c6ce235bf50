"""Files that are whole or absent, and errors that mean a full disk."""

from __future__ import annotations

import errno

import pytest

from derain_engine.base.errors import MediaError
from derain_engine.base.files import disk_full


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_found_among_the_causes(code: int) -> None:
    full = OSError(code, "no room", "x.png")
    assert disk_full(full) is full
    told = MediaError("x.png cannot be written.")
    told.__cause__ = full
    assert disk_full(told) is full


def test_other_errors_are_none() -> None:
    for error in (None, OSError(errno.EACCES, "no"), MediaError("no"), ValueError(errno.ENOSPC)):
        assert disk_full(error) is None

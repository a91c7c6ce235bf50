"""The ways of running a network, one folder each behind the protocol of ``base``; free of torch.

A further backend is one folder (or file) and one line here.
"""

from __future__ import annotations

import pkgutil

from ...base.errors import InputError
from .base import Backend

#: Where each backend is. Its module is imported when it is asked for, its library when that is used.
_PLACES = {
    "openvino": "openvino.backend:backend",
    "fused": "fused.backend:backend",
    "tensorrt": "tensorrt.backend:tensorrt",
    "tensorrt-rtx": "tensorrt.backend:tensorrt_rtx",
    "reference": "reference:backend",
}


def names() -> list[str]:
    """Return the names of all backends, whether or not this machine has what they need (see
    :meth:`Backend.unavailable`)."""
    return list(_PLACES)


def get(name: str) -> Backend:
    """Return the backend of that name. Raises InputError for a name that is not in :func:`names`."""
    if name not in _PLACES:
        raise InputError(f"There is no backend {name!r}; known backends: {', '.join(_PLACES)}.")
    return pkgutil.resolve_name(f"{__name__}.{_PLACES[name]}")


def default_name() -> str:
    """Return the backend for a build that names none: the fastest for a machine without a GPU."""
    return "openvino"

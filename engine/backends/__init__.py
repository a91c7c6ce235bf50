"""The ways of running a network, one file each behind the protocol of ``base``; free of torch.

A further backend is one file with a module-level ``backend`` and one line here.
"""

from __future__ import annotations

import importlib

from ..errors import InputError
from .base import Backend

#: Name to module. A module is imported when its backend is asked for; its library when that is used.
_MODULES = {
    "openvino": ".openvino",
    "fused": ".fused",
    "tensorrt": ".tensorrt",
    "tensorrt-rtx": ".tensorrt_rtx",
    "reference": ".reference",
}


def names() -> list[str]:
    """All backends, whether or not this machine has what they need (see :meth:`Backend.unavailable`)."""
    return list(_MODULES)


def get(name: str) -> Backend:
    """The backend of that name. Raises InputError for a name that is not in :func:`names`."""
    if name not in _MODULES:
        raise InputError(f"There is no backend {name!r}; known backends: {', '.join(_MODULES)}.")
    return importlib.import_module(_MODULES[name], __name__).backend


def default_name() -> str:
    """The backend for a build that names none: the fastest for a machine without a GPU."""
    return "openvino"

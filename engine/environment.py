"""The facts about this machine: those that decide how fast an engine runs, and that a report of a fault needs."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from pathlib import Path
from typing import Any

from ..base import files, limits
from ..base.version import __version__
from ..export.nvinfer import FLAVOURS
from ..models import weights
from . import backends

#: Distributions that are used, in whichever extra.
_PACKAGES = (
    "numpy openvino opencv-python-headless pillow torch onnx onnxruntime safetensors scikit-image triton cuda-python "
    "av nncf"
).split()
#: Of the facts, those that belong with a measurement; where a user's folders lie does not.
_OF_MEASUREMENTS = ("derain_engine", "python", "platform", "packages", "cpu", "memory", "gpus")
#: Of a CPU's instructions, those that networks run faster with (x86-64 and ARM names of /proc/cpuinfo).
_FEATURES = (
    "avx2 fma f16c avx_vnni avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_bf16 amx_int8 amx_fp16 asimd "
    "asimdhp bf16 i8mm sve sve2"
).split()
_CPU_TABLE = Path("/proc/cpuinfo")
_NVIDIA_TABLE = Path("/proc/driver/nvidia/gpus")


def collect() -> dict[str, Any]:
    """Collect all facts, as values that JSON can hold. Loads the libraries of the backends, which may take seconds."""
    import psutil

    return {
        "derain_engine": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: installed_version(name) for name in _PACKAGES}
        | {name: flavour.installed() for name, flavour in FLAVOURS.items()},
        "cpu": cpu() | cores(),
        "memory": {
            "total_bytes": psutil.virtual_memory().total,
            "available_bytes": limits.available_memory(),
        },
        "gpus": gpus(),
        "backends": {name: _backend(name) for name in backends.names()},
        "default_backend": backends.default_name(),
        "shipped_weights": weights.shipped_names(),
        "cache": _cache(),
    }


def of_measurement() -> dict[str, Any]:
    """Return what a measurement on this machine has to name, out of :func:`collect`; nothing that tells of its user."""
    facts = collect()
    return {name: facts[name] for name in _OF_MEASUREMENTS}


def cpu() -> dict[str, Any]:
    """``machine`` (``x86_64``, ``arm64``), ``model``, and those ``features`` out of a list of useful ones that the
    CPU has; none are known where there is no /proc/cpuinfo."""
    table = _CPU_TABLE.read_text("utf-8", "replace") if _CPU_TABLE.is_file() else ""
    flags = set((_field(table, "flags") or _field(table, "Features")).split())
    return {
        "machine": platform.machine(),
        "model": _field(table, "model name") or platform.processor() or platform.machine(),
        "features": [name for name in _FEATURES if name in flags],
    }


def cores() -> dict[str, Any]:
    """``cores`` of the machine (None where nobody knows), and ``threads`` that this process may use."""
    import psutil

    return {"cores": psutil.cpu_count(logical=False), "threads": limits.usable_threads()}


def gpus() -> list[str]:
    """Names of the GPUs: those that PyTorch can use, else those that the NVIDIA driver lists on Linux."""
    try:
        import torch

        if torch.cuda.is_available():
            count = torch.cuda.device_count()
            found = [
                (torch.cuda.get_device_name(i), *torch.cuda.get_device_capability(i)) for i in range(count)
            ]
            return [f"{name} (sm_{major}{minor})" for name, major, minor in found]
    except (ImportError, OSError, RuntimeError):  # not installed, a library missing, a driver that fails
        pass
    tables = sorted(_NVIDIA_TABLE.glob("*/information"))
    return [_field(table.read_text("utf-8", "replace"), "Model") for table in tables]


def _field(table: str, name: str) -> str:
    """Return the value of the first line ``name : value``, or nothing."""
    match = re.search(rf"^{re.escape(name)}[ \t]*:[ \t]*(.*)$", table, re.MULTILINE)
    return match[1].strip() if match else ""


def installed_version(distribution: str) -> str | None:
    """Return the version of a distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _backend(name: str) -> dict[str, Any]:
    backend = backends.get(name)
    reason = backend.unavailable()
    return {"available": reason is None, "reason": reason, "precisions": list(backend.precisions)}


def _cache() -> dict[str, Any]:
    try:
        return {"folder": str(files.cache_dir()), "writable": True}
    except OSError as error:
        return {"folder": str(error.filename), "writable": False}

"""The GPU as its driver's own tool sees it, with or without PyTorch."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class GpuStatus:
    """A GPU's facts of the moment. used_mib: memory in use by all programs, in MiB."""

    name: str
    driver: str
    used_mib: int


def gpu_status() -> GpuStatus | None:
    """Ask nvidia-smi for the GPU that programs get first; None where there is no such tool, or it fails."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.used", "--format=csv,noheader,nounits"]
    if visible:
        command.append(f"--id={visible}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        name, driver, used = done.stdout.splitlines()[0].rsplit(",", 2)
        return GpuStatus(name.strip(), driver.strip(), int(used))
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None

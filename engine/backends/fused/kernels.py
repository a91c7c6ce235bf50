"""The kernels of a plan compiled with Triton: for an engine file, or for this machine when it opens one."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from ....base.errors import BackendUnavailable, BuildError, BundleError, InputError
from ....base.files import atomic_write
from ....base.progress import Progress, no_progress
from ....base.version import __version__
from ....device.driver import Gpu
from ....kernels.aot import distinct, picture_calls, specialisation
from ....kernels.aot.pool import compile_calls, require_compiler
from ....kernels.launch import Call
from ....plan import Plan
from . import payload as fused_payload
from .payload import StoredKernel


def compile_for(plan: Plan, gpu: str, progress: Progress = no_progress) -> list[StoredKernel]:
    """Compile every specialisation of a plan, and the kernels between pictures and maps, for a GPU such as ``sm_90``.

    Raises:
        BackendUnavailable: Triton is not installed.
        BuildError: a kernel cannot be compiled, or not launched on such a GPU.
    """
    require_compiler()
    compiled = compile_calls([*plan.calls(), *_pictures()], plan.dtype, [gpu], progress=progress)
    for kernel in compiled:
        if not kernel.fits:
            raise BuildError(
                f"The kernel {specialisation(kernel.call)} {'; '.join(kernel.faults())} on {gpu}; "
                "build with another backend."
            )
    return [StoredKernel.of(each) for each in compiled]


def compile_here(plan: Plan, gpu: Gpu, built_for: tuple[str, ...], folder: Path | None) -> list[StoredKernel]:
    """Compile the plan's kernels for this machine's GPU, which an engine that is being opened has none for.

    Args:
        built_for: the GPUs that it has kernels for.
        folder: of the user's cache for this engine, where they are kept; None for nowhere.

    Raises:
        BackendUnavailable: Triton, which compiles them, is not installed.
        BuildError: as :func:`compile_for`.
    """
    try:
        require_compiler()
    except BackendUnavailable as error:
        has = f"kernels for {', '.join(built_for)}" if built_for else "no compiled kernels"
        raise BackendUnavailable(
            f"The engine has {has}, and this GPU ({gpu.name}) is {gpu.target}; build it again with "
            f"--gpu {gpu.target}, or install what compiles them here: pip install 'derain-engine[build,triton]'."
        ) from error
    if folder is None:
        return compile_for(plan, gpu.target)
    import triton

    calls = distinct([*plan.calls(), *_pictures()])
    key = "\n".join([__version__, triton.__version__, plan.dtype, *map(specialisation, calls)])
    kept = folder / f"{gpu.target}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if (found := _read(kept, gpu.target)) is not None:
        return found
    kernels = compile_for(plan, gpu.target)
    _write(kept, gpu.target, kernels)
    return kernels


def _pictures() -> list[Call]:
    # Frames come to sessions in RGB.
    return [call for call in picture_calls() if not call.constants["BGR"]]


def _read(folder: Path, target: str) -> list[StoredKernel] | None:
    """Return the kernels in a folder of :func:`_write`; None where not all are there, as a cache only saves time."""
    try:
        return fused_payload.read_kernels(
            {fused_payload.name(target, file.name): file.read_bytes() for file in folder.iterdir()}, target
        )
    except (OSError, BundleError):
        return None


def _write(folder: Path, target: str, kernels: list[StoredKernel]) -> None:
    payloads = fused_payload.pack_kernels(target, kernels)
    with contextlib.suppress(OSError, InputError):
        folder.mkdir(mode=0o700, exist_ok=True)
        # The table of kernels is the last: with it, all are there.
        for name, payload in payloads.items():
            with atomic_write(folder / Path(name).name) as temporary:
                temporary.write_bytes(payload)

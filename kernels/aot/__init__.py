"""Kernels compiled ahead of time: a launch's specialisation for a named GPU, as a cubin and what it says of itself.

A specialisation is a kernel with its constants and its configuration; a network has some dozens (a plan's calls). No
GPU is needed. The same inputs give the same bytes, wherever the package lies: neither paths nor line numbers are in a
cubin. Triton's own cache on disk saves the second compilation.

Types of a kernel's arguments follow from its record. Plans align their pointers to 16 bytes, which the kernels are
told; frames come from outside and may lie anywhere.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ...base.errors import BuildError, InputError
from ...base.files import atomic_write
from ..launch import Call
from ..record import Kernel, find

#: GPU -> most bytes of shared memory of one block (CUDA Programming Guide, "Technical Specifications per Compute
#: Capability").
_SHARED_MEMORY = MappingProxyType(
    {
        "sm_80": 163 << 10,
        "sm_86": 99 << 10,
        "sm_89": 99 << 10,
        "sm_90": 227 << 10,
        "sm_100": 227 << 10,
        "sm_120": 99 << 10,
    }
)
#: What ``all`` means: Ampere, Ada, Hopper and Blackwell.
TARGETS = tuple(_SHARED_MEMORY)
DTYPES = ("fp16", "bf16", "fp32")
_ALIGNMENT = [["tt.divisibility", 16]]
_SIZES = {"*": 8, "i": 4}
_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")
_PARAMETER = re.compile(r"Ordinal\s*:\s*0x([0-9a-f]+)\s+Offset\s*:\s*0x[0-9a-f]+\s+Size\s*:\s*0x([0-9a-f]+)")
_LINE = r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?"
_MATRIX_INSTRUCTION = re.compile(_LINE + r"([A-Z0-9]*MMA)\b", re.MULTILINE)
#: Into local memory.
_STORE = re.compile(_LINE + r"STL\b", re.MULTILINE)


@dataclass(frozen=True)
class Compiled:
    """A kernel compiled for one GPU.

    call, dtype, target: what was compiled. cubin: the file. symbol: the kernel's name in it.

    arguments: types of all arguments, as the device layer packs them; the last ones are scratch memory of Triton's,
        which these kernels do not use: null.
    warps: of a block. shared: dynamic shared memory of a block in bytes. registers: of a thread.
    spilled: bytes of local memory that a thread stores to, which is where values go that registers do not hold.
    matrix: how many instructions of the matrix units there are, by name (HMMA; HGMMA on sm_90, UTCHMMA on sm_100).
    triton: the compiler's version.
    ptx: what the cubin was assembled from.
    """

    call: Call
    dtype: str
    target: str
    cubin: bytes
    symbol: str
    arguments: tuple[str, ...]
    warps: int
    shared: int
    registers: int
    spilled: int
    matrix: Mapping[str, int]
    triton: str
    ptx: str = field(default="", repr=False)

    @property
    def fits(self) -> bool:
        """The answer whether the GPU's blocks have the shared memory that it needs."""
        return self.shared <= _SHARED_MEMORY.get(self.target, self.shared)

    def faults(self) -> list[str]:
        """Return what makes this kernel slow or impossible to launch, in words; none is what is wanted."""
        found = []
        if self.spilled:
            found.append(f"spills {self.spilled} bytes a thread")
        if not self.fits:
            found.append(f"needs {self.shared} bytes of shared memory of {_SHARED_MEMORY[self.target]}")
        if self.dtype != "fp32" and not self.matrix and find(self.call.kernel).multiplies:
            found.append("multiplies matrices without matrix instructions")
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything but the code: of the cubin there are size and SHA-256, as JSON's types."""
        return {
            "kernel": self.call.kernel,
            "constants": self.call.compile_time(),
            "precision": self.dtype,
            "target": self.target,
            "symbol": self.symbol,
            "arguments": list(self.arguments),
            "warps": self.warps,
            "stages": self.call.config.stages,
            "registers": self.registers,
            "shared_bytes": self.shared,
            "spilled_bytes": self.spilled,
            "matrix_instructions": dict(self.matrix),
            "triton": self.triton,
            "cubin_bytes": len(self.cubin),
            "cubin_sha256": hashlib.sha256(self.cubin).hexdigest(),
        }


def parse_targets(text: str, current: str | None = None, known: tuple[str, ...] = TARGETS) -> tuple[str, ...]:
    """Return the GPUs that ``--gpu`` names: ``all``, ``current``, or a list such as ``sm_80,sm_90``.

    Args:
        current: the GPU of this machine, where it has one.
        known: what ``all`` means and a list may name.

    Raises:
        InputError: an unknown GPU, or ``current`` where there is none.
    """
    if text == "all":
        return known
    if text == "current":
        if current is None:
            raise InputError(f"This machine has no GPU that could be meant by current; {_known(known)}.")
        return (current,)
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise InputError(f"{name!r} is not a GPU that can be built for; {_known(known)}.")
    return tuple(dict.fromkeys(names))


def _known(known: tuple[str, ...]) -> str:
    return f"give all, or some of {', '.join(known)}"


def specialisation(call: Call) -> str:
    """Return a name that launches share if and only if they share their code: kernel, constants, configuration."""
    constants = " ".join(f"{name}={value}" for name, value in call.compile_time().items())
    return f"{call.kernel} {constants} warps={call.config.warps} stages={call.config.stages}"


def distinct(calls: Iterable[Call]) -> list[Call]:
    """Return one call of every specialisation, in the order given."""
    found: dict[str, Call] = {}
    for call in calls:
        found.setdefault(specialisation(call), call)
    return list(found.values())


def picture_calls() -> list[Call]:
    """Return the launches between pictures and maps, for every layout of pictures."""
    from .. import pixels

    return [
        builder(planar, bgr, bytes_, pixels.PIXELS_CONFIG)
        for builder in (pixels.frame_in_call, pixels.frame_out_call)
        for planar, bgr, bytes_ in itertools.product((False, True), (False, True), (True, False))
    ]


def video_calls() -> list[Call]:
    """Return the launches between frames of video and maps: BT.709 in 8 bits, and BT.2020 in 10, which differ most in
    code."""
    from ..pixels import PIXELS_CONFIG, nv12

    kinds = [nv12.Nv12(), nv12.Nv12(0.2627, 0.0593, bits=10, down=True)]
    return [
        builder(kind, PIXELS_CONFIG) for builder in (nv12.nv12_in_call, nv12.nv12_out_call) for kind in kinds
    ]


def write_cubins(kernels: Iterable[Compiled], folder: str | os.PathLike[str]) -> None:
    """Write ``TARGET/KERNEL-PRECISION-HASH.cubin`` for every kernel, the hash that of its specialisation, and
    ``kernels.json``: what :meth:`Compiled.to_json` says of each, with its ``file``.

    Raises:
        InputError: the folder cannot be written.
    """
    folder, rows = Path(folder), []
    for kernel in kernels:
        name = hashlib.sha256(specialisation(kernel.call).encode()).hexdigest()[:12]
        file = Path(kernel.target, f"{kernel.call.kernel}-{kernel.dtype}-{name}.cubin")
        make_folder(folder / kernel.target)
        with atomic_write(folder / file) as temporary:
            temporary.write_bytes(kernel.cubin)
        rows.append({"file": file.as_posix(), **kernel.to_json()})
    with atomic_write(folder / "kernels.json") as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def make_folder(folder: Path) -> None:
    """Make a folder for cubins where there is none.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be made: {error.strerror}.") from error


def compile_call(call: Call, dtype: str, target: str) -> Compiled:
    """Compile one specialisation in this process.

    Args:
        dtype: of the plan: ``fp16``, ``bf16`` or ``fp32``.
        target: a GPU such as ``sm_90``.

    Raises:
        InputError: an unknown kernel, dtype or target.
        BuildError: the compiler refuses, or what it gives is not launched as plans launch kernels.
    """
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    arch = re.fullmatch(r"sm_(\d{2,3})", target)
    if arch is None or dtype not in DTYPES:
        raise InputError(
            f"Kernels are compiled in {', '.join(DTYPES)} for GPUs such as {TARGETS[0]}, not in {dtype} for {target}."
        )
    kernel, constants = _compilable(call), call.compile_time()
    names, types = kernel.function.arg_names, kernel.argument_types(call.constants, dtype)
    aligned = set(kernel.form.pointers) - kernel.form.frames
    source = ASTSource(
        fn=kernel.function,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): _ALIGNMENT for i, name in enumerate(names) if name in aligned},
    )
    options = {"num_warps": call.config.warps, "num_stages": call.config.stages, "enable_fp_fusion": True}
    try:
        with knobs.compilation.scope():
            # Paths and line numbers of the source would be in the cubin.
            knobs.compilation.disable_line_info = True
            compiled = triton.compile(source, target=GPUTarget("cuda", int(arch[1]), 32), options=options)
    except Exception as error:  # of Triton's front end, MLIR, LLVM or ptxas
        raise BuildError(f"{title(call, dtype, target)} was not compiled: {_told(error)}.") from error
    cubin, metadata = compiled.asm["cubin"], compiled.metadata
    facts = _read_cubin(cubin)
    expected = tuple(_SIZES[kind[0]] for kind in types.values())
    scratch = facts.parameters[len(expected) :]
    if (
        metadata.global_scratch_size
        or metadata.profile_scratch_size
        or facts.parameters != expected + scratch
    ):
        raise BuildError(
            f"{title(call, dtype, target)} takes arguments of {facts.parameters} bytes and scratch memory of "
            f"{metadata.global_scratch_size} and {metadata.profile_scratch_size}, which Triton {triton.__version__} "
            "was not expected to ask for."
        )
    return Compiled(
        call=call,
        dtype=dtype,
        target=target,
        cubin=cubin,
        symbol=metadata.name,
        arguments=(*types.values(), *["*u8"] * len(scratch)),
        warps=metadata.num_warps,
        shared=metadata.shared,
        registers=facts.registers,
        spilled=facts.spilled,
        matrix=facts.matrix,
        triton=triton.__version__,
        ptx=compiled.asm["ptx"],
    )


def title(call: Call, dtype: str, target: str) -> str:
    """Return what messages call a specialisation."""
    return f"The kernel {specialisation(call)} in {dtype} for {target}"


def _compilable(call: Call) -> Kernel:
    from triton.runtime.jit import JITFunction

    kernel = find(call.kernel)
    if not isinstance(kernel.function, JITFunction):
        raise BuildError(
            "Kernels cannot be compiled where Triton interprets them; start without TRITON_INTERPRET "
            "in the environment."
        )
    return kernel


def _told(error: BaseException) -> str:
    """Return the line of a compiler's message that says what is wrong; the innermost error is the cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    # Lines without letters point at places in the source above them.
    lines = [line.strip() for line in str(error).splitlines() if re.search("[A-Za-z]", line)]
    telling = [line for line in lines if "error" in line.lower()] or lines[-1:] or [type(error).__name__]
    return telling[-1].rstrip(".")[:300]


class _Facts(NamedTuple):
    """Read from a cubin: bytes of every parameter, registers and bytes of local memory of a thread, matrix
    instructions by name."""

    parameters: tuple[int, ...]
    registers: int
    spilled: int
    matrix: dict[str, int]


def _read_cubin(cubin: bytes) -> _Facts:
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", "-elf", "-sass", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = map(int, _RESOURCES.findall(text)[0])
    parameters = {int(ordinal, 16): int(size, 16) for ordinal, size in _PARAMETER.findall(text)}
    return _Facts(
        tuple(parameters[i] for i in range(len(parameters))),
        registers,
        # For sm_100 and sm_120 there are stack frames that nothing is stored to.
        stack + local if _STORE.search(text) else 0,
        dict(sorted(Counter(_MATRIX_INSTRUCTION.findall(text)).items())),
    )

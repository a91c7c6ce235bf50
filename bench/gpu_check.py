"""Everything of the fused backend, proved on this machine's GPU in one go: ``python -m derain_engine.bench.gpu_check``.

First every kernel of some networks against PyTorch on the same memory, then the networks themselves against the fp32
reference, at sizes that need no padding and at such that do, several frames at once and from the GPU's memory. It takes
PyTorch, Triton and cuda-python, and of this package neither the command line nor anything for other backends. Each
network in each precision is checked in a process of its own, which a fault of a kernel ends. Exit code 0 if all passed,
4 if not, 3 without a GPU. ``--network`` and ``--precision`` check less.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..base.errors import DerainError, VerificationError
from ..engine import frames, verify
from ..engine.backends import get
from ..engine.backends.base import CompileOptions, RunOptions
from ..engine.runtime import Engine
from ..kernels.aot import specialisation
from ..kernels.aot.pool import compile_calls
from ..plan import Dtype
from .contestants import Mode, find_checkpoint, manifest_of
from .kernels.alike import Check, alike
from .kernels.rig import Rig, open_rig

if TYPE_CHECKING:
    from ..kernels.aot import Compiled
    from ..models.checkpoint import Checkpoint

NETWORKS = ("sid-lite", "sid", "prenet", "semi-derain-gan-small")
PRECISIONS: tuple[Dtype, ...] = ("fp16", "bf16", "fp32")
#: Height and width of the pictures; two need padding.
SIZES = ((32, 32), (96, 160), (321, 481), (512, 512), (720, 1280))
#: Of the maps that single kernels are tried on: the network's granularity times odd numbers, so that tiles overhang.
_KERNEL_SIZE = (96, 160)


@dataclass(frozen=True)
class GpuCheck:
    """The outcome of one check.

    what: was tried. passed: whether it is right. found: its figures, or what went wrong.
    """

    what: str
    passed: bool
    found: str


def check_kernels(
    model: str,
    precision: Dtype,
    *,
    rig: Callable[[], AbstractContextManager[Rig]] = open_rig,
    compile_calls: Callable[..., list[Compiled]] = compile_calls,
    device: str = "cuda",
) -> Iterator[GpuCheck]:
    """Check every kernel that the network's plan launches, once for each specialisation and size.

    Raises:
        BackendUnavailable: there is no GPU, or no compiler.
    """
    from ..plan import lower
    from ..plan.memory import Memory

    network = find_checkpoint(model).network
    with rig() as here:
        plan = lower(cast(Any, network), precision, nominal=_KERNEL_SIZE)
        memory = Memory(plan, *_KERNEL_SIZE, device)
        launches = alike(memory)
        ready = compile_calls([each.step.call for each in launches], precision, [here.context.gpu.target])
        by_name = {specialisation(kernel.call): kernel for kernel in ready}
        for each in launches:
            call = each.step.call
            kernel = replace(by_name[specialisation(call)], call=call)
            work = here.launcher(kernel, each.pointers(call), each.sizes)
            name = f"{model} {precision}: {call.kernel} of {each.step.name}"
            passed = Check(each).passes(work)
            yield GpuCheck(
                name,
                passed,
                "as near to fp32 as PyTorch" if passed else "farther from fp32 than twice PyTorch",
            )


def check_network(
    model: str, precision: Dtype, sizes: Sequence[tuple[int, int]] = SIZES, *, reference_on: str = "cuda"
) -> Iterator[GpuCheck]:
    """Check the whole network as the fused backend runs it, in float and in 8 bits, against PyTorch in fp32; then
    frames in the GPU's memory and several at once against one by one.

    Raises:
        BackendUnavailable: there is no GPU, or no compiler.
    """
    checkpoint = find_checkpoint(model)
    spec, backend = checkpoint.spec, get("fused")
    artefact = backend.compile(checkpoint.network, spec, CompileOptions(precision, gpu="current"))
    session = backend.open(artefact, RunOptions())
    try:
        for height, width in sizes:
            levels = _picture(height, width)
            padded = frames.pad_to(levels[None], spec.sizes.padded(height, width))
            batch = frames.to_float(padded)
            reference = _reference(checkpoint, batch, reference_on)
            name = f"{model} {precision}: {height}x{width}"
            try:
                compared = verify.compare(name, session.run(batch), session.run(padded), reference)
            except VerificationError as error:
                yield GpuCheck(name, False, str(error))
                continue
            missed = verify.Report(precision, (compared,)).missed()
            figures = (
                f"{compared.psnr:.1f} dB, at most {compared.max_abs:.1e}, {compared.uint8_levels} of 255"
            )
            yield GpuCheck(name, not missed, "; ".join([figures, *missed]))
    finally:
        session.close()
    about = {"backend": "fused", "version": artefact.backend_version, "precision": precision}
    manifest = manifest_of(spec, checkpoint.weights_sha256, source=model, **about)

    def open_engine(mode: Mode) -> Engine:
        return Engine(backend.open(artefact, RunOptions(mode=mode)), manifest, tile=0)

    yield from _check_ways(f"{model} {precision}", open_engine)


def _picture(height: int, width: int) -> np.ndarray:
    """Return smooth waves under noise, H x W x 3 uint8."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = 0.5 + 0.4 * np.sin(y[..., None] / 9 + x[..., None] / 14 + np.arange(3, dtype=np.float32))
    noise = np.random.default_rng(0).normal(0, 0.1, (height, width, 3)).astype(np.float32)
    return frames.quantise(waves + noise, np.uint8)


def _reference(checkpoint: Checkpoint, batch: np.ndarray, device: str) -> np.ndarray:
    """Return the reference in fp32 without TF32: N x H x W x 3."""
    import torch

    from ..models.spec import clean_image

    cudnn: Any = torch.backends.cudnn
    before, cudnn.allow_tf32 = cudnn.allow_tf32, False
    network = checkpoint.network.to(device)
    try:
        image = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))).to(device)
        with torch.inference_mode():
            return clean_image(network(image)).permute(0, 2, 3, 1).float().cpu().contiguous().numpy()
    finally:
        checkpoint.network.to("cpu")
        cudnn.allow_tf32 = before


def _check_ways(name: str, open_engine: Callable[[Mode], Engine]) -> Iterator[GpuCheck]:
    """Check frames that several streams clean at once, and one that lies on the GPU, against the same one by one."""
    import torch

    pictures = [_picture(32 + 8 * (i % 3), 48) for i in range(9)]
    with open_engine("latency") as engine:
        expected = [engine(picture) for picture in pictures]
        there = torch.from_numpy(pictures[0])
        if torch.cuda.is_available():
            there = there.cuda()
        found = torch.as_tensor(engine(there)).cpu().numpy()
    yield _equal(f"{name}: a frame in the GPU's memory", [found], expected[:1])
    with open_engine("throughput") as engine:
        streamed = list(engine.stream(pictures))
    yield _equal(f"{name}: several frames at once", streamed, expected)


def _equal(name: str, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> GpuCheck:
    wrong = sum(not np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    return GpuCheck(name, not wrong, f"{wrong} of {len(expected)} differ" if wrong else "equal")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check all, a line for each, and return the exit code."""
    parser = argparse.ArgumentParser(
        "gpu_check", description="Prove the fused backend on this machine's GPU."
    )
    parser.add_argument("--network", action="append", help=f"some of {', '.join(NETWORKS)}, or a model file")
    parser.add_argument("--precision", action="append", choices=PRECISIONS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    networks, precisions = asked.network or NETWORKS, asked.precision or PRECISIONS
    if asked.here:
        return _check_here(networks[0], precisions[0])
    try:
        with open_rig() as rig:
            print(", ".join(f"{key} {value}" for key, value in rig.facts().items()), flush=True)
    except DerainError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return error.exit_code
    failed = [
        f"{network} {precision}"
        for network in networks
        for precision in precisions
        if not _check_in_process(network, precision)
    ]
    print(f"Failed: {', '.join(failed)}" if failed else "all passed")
    return VerificationError.exit_code if failed else 0


def _check_in_process(network: str, precision: str) -> bool:
    command = [sys.executable, "-m", __spec__.name, "--here", "--network", network, "--precision", precision]
    code = subprocess.run(command, check=False).returncode
    if code not in (0, VerificationError.exit_code):
        print(f"FAIL {network} {precision}: its process ended with {code}", flush=True)
    return code == 0


def _check_here(network: str, precision: Dtype) -> int:
    failed = 0
    for part, check in (("kernels", check_kernels), ("network", check_network)):
        outcomes = check(network, precision)
        while True:
            try:
                outcome = next(outcomes, None)
            except Exception as error:  # a fault of a kernel shows as any library's error
                outcome = GpuCheck(
                    f"{network} {precision}: {part}", False, f"{type(error).__name__}: {error}"
                )
                outcomes = iter(())
            if outcome is None:
                break
            failed += not outcome.passed
            print(f"{'ok  ' if outcome.passed else 'FAIL'} {outcome.what}: {outcome.found}", flush=True)
    return VerificationError.exit_code if failed else 0


if __name__ == "__main__":
    sys.exit(main())

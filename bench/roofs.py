"""The roofs over what a network reaches on a device, and its work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..base.errors import BuildError, InputError
from ..base.progress import Progress
from ..models.checkpoint import Checkpoint
from .contestants import Contestant
from .kernels.ceilings import Ceilings, measure_ceilings

_RUNS = 7
_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class NetworkWork:
    """The work of a network.

    macs_per_pixel: multiply-adds of the convolutions, counted.
    fp16_plan: (operations, bytes of maps, both for a pixel, bytes of weights) of the fused plan in fp16; None where the
    fused kernels do not know the network.
    """

    macs_per_pixel: float
    fp16_plan: tuple[float, float, float] | None

    def flop_per_byte(self, precision: str, height: int, width: int) -> float | None:
        """Divide operations by bytes, with every map that the fused plan keeps in memory, and every weight, moved once
        in this precision."""
        if self.fp16_plan is None or precision not in _BYTES:
            return None
        flops, maps, weights = self.fp16_plan
        pixels = height * width
        return flops * pixels / (maps * pixels + weights) * _BYTES["fp16"] / _BYTES[precision]


@dataclass(frozen=True)
class Roofs:
    """Work and ceilings. work: by the hash of the weights. ceilings: by whether they are of the GPU, and precision."""

    work: dict[str, NetworkWork]
    ceilings: dict[tuple[bool, str], Ceilings]


def measure_roofs(contestants: Sequence[Contestant], threads: int, progress: Progress) -> Roofs:
    """Measure the roofs of the contestants whose network is at hand, and of the devices that PyTorch has here."""
    known = [(each, each.reference) for each in contestants if each.reference is not None]
    if not known:
        return Roofs({}, {})
    import torch

    torch.set_num_threads(threads)
    networks = {each.manifest.weights_sha256: reference for each, reference in known}
    wanted = dict.fromkeys(
        (each.open.on_gpu, precision)
        for each, _ in known
        for precision in (each.manifest.precision, "fp32")  # what a device without the former computes in
        if precision in _BYTES and (torch.cuda.is_available() or not each.open.on_gpu)
    )
    ceilings: dict[tuple[bool, str], Ceilings] = {}
    for on_gpu, precision in wanted:
        progress("Ceilings", len(ceilings) / len(wanted))
        device = "cuda" if on_gpu else "cpu"
        ceilings[on_gpu, precision] = measure_ceilings(device, precision, runs=_RUNS)  # type: ignore[arg-type]
    return Roofs({key: _work(reference) for key, reference in networks.items()}, ceilings)


def _work(checkpoint: Checkpoint) -> NetworkWork:
    from ..models.macs import macs_per_pixel
    from ..plan import lower
    from ..plan.program import GRANULARITY

    macs = macs_per_pixel(checkpoint.network, checkpoint.spec)
    try:
        plan = lower(checkpoint.network, "fp16")
    except (BuildError, InputError):  # another kind of network, or of a width that they cannot tile
        return NetworkWork(macs, None)
    pixels = GRANULARITY**2
    return NetworkWork(
        macs,
        (
            sum(step.flops for step in plan.steps) / pixels,
            sum(step.map_bytes for step in plan.steps) / pixels,
            float(sum(step.weight_bytes for step in plan.steps)),
        ),
    )

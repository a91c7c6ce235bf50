"""The parts that every lowering is made with: buffers, packed weights and steps, and the plan of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from ..kernels.launch import Call, Configure
from .memory import DTYPES
from .program import GRANULARITY, ITEMSIZE, Buffer, Dtype, Plan, Pointer, Size, Step, View, Weight

Network = TypeVar("Network", bound=nn.Module)

_NAMES: dict[torch.dtype, Dtype] = {dtype: name for name, dtype in DTYPES.items()}
# Weights begin at multiples of this many bytes.
_ALIGNMENT = 256


class Assembly(Generic[Network]):
    """A plan in the making.

    configure: the configuration of a kernel for a number of channels at a level. branch: of the steps to come.
    """

    def __init__(self, network: Network, dtype: Dtype, configure: Configure) -> None:
        self.network, self.configure = network, configure
        self.dtype: Dtype = dtype
        self.torch_dtype = DTYPES[dtype]
        self.item = ITEMSIZE[dtype]
        self.names = {module: name for name, module in network.named_modules()}
        self.buffers: list[Buffer] = []
        self.steps: list[Step] = []
        self.blob = bytearray()
        self.packed: dict[str, dict[str, Tensor]] = {}
        self.stored: dict[tuple[str, str, int], Weight] = {}
        self.branch = 0

    def finished(
        self, image: int, rain: int, *, code: View | None = None, granularity: int = GRANULARITY
    ) -> Plan:
        """Return the plan of everything that was put in."""
        return Plan(
            self.dtype,
            tuple(self.buffers),
            tuple(self.steps),
            image,
            rain,
            code,
            bytes(self.blob),
            granularity,
        )

    def buffer(
        self, name: str, level: int, channels: int, slabs: int = 1, tile: tuple[int, int] | None = None
    ) -> View:
        """Put in a buffer, and return all of it."""
        self.buffers.append(Buffer(name, level, channels, slabs, tile))
        return View(len(self.buffers) - 1)

    def channels(self, view: View) -> int:
        """Return the channels of a view's buffer."""
        return self.buffers[view.buffer].channels

    def weight(
        self, owner: nn.Module | str, pack: Callable[[], Mapping[str, Tensor]], name: str, first: int = 0
    ) -> Weight:
        """Return a packed tensor's place, from its row ``first`` on. What a module, or a name of another kind, owns is
        packed and stored once, wherever it is."""
        owner = owner if isinstance(owner, str) else self.names[owner]
        if owner not in self.packed:
            self.packed[owner] = dict(pack())
        tensor = self.packed[owner][name]
        if (owner, name, 0) not in self.stored:
            self.blob += bytes(-len(self.blob) % _ALIGNMENT)
            size = tensor.numel() * tensor.element_size()
            self.stored[owner, name, 0] = Weight(len(self.blob), size, _NAMES[tensor.dtype])
            self.blob += tensor.contiguous().view(torch.uint8).numpy().tobytes()
        whole = self.stored[owner, name, 0]
        skipped = first * whole.size // tensor.shape[0]
        return Weight(whole.offset + skipped, whole.size - skipped, whole.dtype)

    def weights(
        self, owner: nn.Module | str, pack: Callable[[], Mapping[str, Tensor]], *names: str
    ) -> list[Pointer]:
        """Return the places of several packed tensors, as :meth:`weight` does."""
        return [self.weight(owner, pack, name) for name in names]

    def step(
        self,
        name: str,
        call: Call,
        pointers: Sequence[Pointer],
        level: int,
        writes: Sequence[int],
        flops: int,
        elements: float,
        *more: Size,
    ) -> None:
        """Put in a launch over the map of a level. flops; elements: of maps moved; both for a picture of 32x32."""
        seen = {p for p in pointers if isinstance(p, Weight)}
        self.steps.append(
            Step(
                name,
                call,
                tuple(pointers),
                (f"h{level}", f"w{level}", *more),
                tuple(writes),
                flops,
                round(elements * self.item),
                sum(weight.size for weight in seen),
                self.branch,
            )
        )


def parameters_of(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution, alone or before its activation."""
    convolution = module[0] if isinstance(module, nn.Sequential) else module
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    return convolution.weight.detach(), convolution.bias.detach()

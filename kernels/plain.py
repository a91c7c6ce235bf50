"""The means by which a kernel's record says its mathematics in PyTorch: a launch's memory as NCHW maps and weights.

A record's ``plain`` takes a launch's :class:`Operands` and gives a pure function of tensors, and the tensors: what is
unpacked before the function runs is not timed with it. It is written once for both of its uses. The plan's executor
asks for exact operands: the function computes in fp32 and rounds where the kernel rounds. The bench's rival takes the
maps' own precision throughout, as a network in PyTorch does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .launch import Call
from .record import Plain, find

__all__ = ["Operands", "Plain", "concatenated", "plain", "run_plain"]


class Operands:
    """A launch's arguments by name.

    Args:
        pointers: flat memory, from each pointer on. sizes: as the kernel takes them.
        exact: compute in fp32 and round to the maps' type where the kernel does.

    Attributes:
        exact: as it was given. dtype: of the maps. compute: what is computed in. planes: of the grid's second axis.
        layout: the memory format of weights and stacks.
    """

    def __init__(self, call: Call, pointers: Sequence[Tensor], sizes: Sequence[int], *, exact: bool) -> None:
        self._kernel, self.planes = find(call.kernel), call.planes
        self._form = form = self._kernel.form
        self._flat = dict(zip(form.pointers, pointers, strict=True))
        self._numbers = {**call.constants, **dict(zip(form.sizes, sizes, strict=True))}
        maps = [each for each in form.pointers if each not in form.weights | form.biases | form.frames]
        self.dtype = self._flat[maps[-1]].dtype
        self.exact = exact
        self.compute = torch.float32 if exact else self.dtype
        self.layout = torch.contiguous_format if exact else torch.channels_last

    def __getitem__(self, name: str) -> int:
        """Return a size, or a constant that is a whole number or a truth value."""
        return int(self._numbers[name])

    def real(self, name: str) -> float:
        """Return a constant that is a fraction."""
        return float(self._numbers[name])

    def flat(self, name: str) -> Tensor:
        """Return a pointer's memory as it is."""
        return self._flat[name]

    def map(
        self, name: str, channels: int, height: int | None = None, width: int | None = None, count: int = 1
    ) -> Tensor:
        """Return count x C x H x W over NHWC memory (channels_last), by default of the launch's height and width."""
        height, width = self["H"] if height is None else height, self["W"] if width is None else width
        flat = self._flat[name][: count * height * width * channels]
        if name in self._form.writes:
            # Updated in place: what is read has to stay as it was.
            flat = flat.clone()
        return flat.view(count, height, width, channels).permute(0, 3, 1, 2).to(self.compute)

    def stack(self, name: str, channels: int, count: int) -> list[Tensor]:
        """Return maps that lie one after the other, each as 1 x C x H x W."""
        return list(self.laid_out(self.map(name, channels, count=count)).split(1))

    def weight(self, name: str) -> Tensor:
        """Return packed weights or biases, flat."""
        return self._flat[name].to(self.compute)

    def conv_weight(self, rows: Tensor, channels: int, columns: int, side: int) -> Tensor:
        """Return packed rows as a convolution's weight, N x C x side x side, without their padding."""
        unpacked = rows[: side * side * channels, :columns].reshape(side, side, channels, columns)
        return self.laid_out(unpacked.permute(3, 2, 0, 1))

    def laid_out(self, tensor: Tensor) -> Tensor:
        """Return a tensor of four dimensions in the layout that is computed with."""
        return tensor.contiguous(memory_format=self.layout)

    @property
    def round(self) -> Callable[[Tensor], Tensor]:
        """A function that rounds to the maps' type, as a kernel does between two products."""
        dtype, compute = self.dtype, self.compute
        return (lambda x: x) if dtype == compute else lambda x: x.to(dtype).to(compute)

    def plain(self) -> Plain:
        """Return what the launch computes."""
        assert self._kernel.plain is not None
        return self._kernel.plain(self)

    def put(self, results: Sequence[Tensor]) -> None:
        """Write results, n x C x H x W, where the kernel writes them, in pixels of PIXEL elements where it has that."""
        for name, image in zip(self._form.results, results, strict=False):
            count, channels, height, width = image.shape
            pixel = int(self._numbers.get("PIXEL", channels))
            to = self._flat[name].as_strided(
                (count, height, width, channels), (height * width * pixel, width * pixel, pixel, 1)
            )
            to.copy_(image.permute(0, 2, 3, 1))


def plain(call: Call, pointers: Sequence[Tensor], sizes: Sequence[int], *, exact: bool = False) -> Plain:
    """Return what one launch computes, as :class:`Operands` takes it."""
    return Operands(call, pointers, sizes, exact=exact).plain()


def run_plain(call: Call, pointers: Sequence[Tensor], sizes: Sequence[int]) -> None:
    """Compute one launch in fp32 with PyTorch, and write what its kernel does, rounded where the kernel rounds."""
    operands = Operands(call, pointers, sizes, exact=True)
    function, arguments = operands.plain()
    operands.put(function(*arguments))


def concatenated(maps: Sequence[Tensor]) -> Tensor:
    """Return maps as one along their channels."""
    return maps[0] if len(maps) == 1 else torch.cat(list(maps), 1)

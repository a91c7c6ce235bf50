"""Networks in a form that has no operator which ONNX, or a graph for any size, cannot have."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.nledn import NLEDN, NonLocal, RegionNonLocal


def exportable(network: nn.Module) -> nn.Module:
    """Return a network that computes what this one does, at the sizes that engines are fed, with the same parameters
    under the same names: mostly itself."""
    if not isinstance(network, NLEDN):
        return network
    twin = copy.deepcopy(network, {id(each): each for each in network.parameters()})
    twin.__class__ = _PhasedNLEDN
    for module in twin.modules():
        if type(module) is RegionNonLocal:
            module.__class__ = _AlikeCells
        elif type(module) is NonLocal:
            module.__class__ = _WholeNonLocal
    return twin


class _PhasedNLEDN(NLEDN):
    """Pooling that remembers where its maxima were by comparing the four phases of a map with them, as ONNX has no
    unpooling for any size; the first of equal values counts, as in PyTorch's indices. Sides are even."""

    def pool(self, x: Tensor) -> tuple[Tensor, Any]:
        largest = F.max_pool2d(x, 2)
        # Of 1.0 and 0.0, where a phase's value is the largest and no earlier one's is.
        masks, free = [], torch.ones_like(largest[:1, :1, :1, :1])
        for phase in (x[:, :, ::2, ::2], x[:, :, ::2, 1::2], x[:, :, 1::2, ::2], x[:, :, 1::2, 1::2]):
            masks.append((phase >= largest).to(x.dtype) * free)
            free = free - masks[-1]
        return largest, masks

    def unpool(self, x: Tensor, at: Any, like: Tensor) -> Tensor:
        channels = x.shape[1]
        # From phase by phase to the order that pixel_shuffle has: channel by channel.
        order = torch.tensor([k * channels + c for c in range(channels) for k in range(4)])
        return F.pixel_shuffle(torch.cat([x * mask for mask in at], 1).index_select(1, order), 2)


class _WholeNonLocal(NonLocal):
    """All queries at once. What attends is one map, so that the runtime frees one matrix before it makes the next."""

    def forward(self, x: Tensor) -> Tensor:
        return self.W(_attend(self.theta(x), self.phi(x), self.g(x))) + x


class _AlikeCells(RegionNonLocal):
    """Attention in cells that are all alike, of even sides: everything but itself is done to the whole map."""

    def forward(self, x: Tensor) -> Tensor:
        block = self.non_local_block
        maps = [self._cells(each) for each in (block.theta(x), block.phi(x), block.g(x))]
        rows = [
            torch.cat([_attend(*cell) for cell in zip(*row, strict=True)], 3)
            for row in zip(*maps, strict=True)
        ]
        return block.W(torch.cat(rows, 2)) + x

    def _cells(self, x: Tensor) -> list[tuple[Tensor, ...]]:
        return [row.chunk(self.grid, 3) for row in x.chunk(self.grid, 2)]


def _attend(theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
    """Attend, and return N x C x H x W as theta."""
    products = theta.flatten(2).transpose(1, 2) @ phi.flatten(2)
    y = torch.softmax(products, 2) @ g.flatten(2).transpose(1, 2)
    return y.transpose(1, 2).reshape(theta.shape)

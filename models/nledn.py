"""NLEDN, a non-locally enhanced encoder-decoder for deraining, as plain PyTorch.

Li, He, Zhang, Chang, Dai, Lin, "Non-locally Enhanced Encoder-Decoder Network for Single Image De-raining", ACM MM 2018.
The modules' names follow the published checkpoints (122 keys), so that a state dict of the authors loads key for key.
Five blocks attend within the cells of a grid, 8x8 at full scale, 4x4 at half and 2x2 at a quarter, and one over the
whole map at an eighth; a cell has the same number of pixels at every scale. Pooling remembers where its maxima were,
and unpooling puts values back there.

All tensors are NCHW float, images RGB in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, PublishedProtocol, colour_swap, normalised

#: With sides that are multiples of this all cells of a grid are alike, and pools within them leave nothing out.
GRANULARITY = 16
#: Below this side a cell has no pixel left after its pool.
SMALLEST_SIDE = 16
#: In pixels. Attention reaches over the whole picture, so that tiles are an approximation; not measured.
TILE_OVERLAP = 64

_WIDTH, _INNER = 64, 32
_GROWTH, _GROUPS = 32, 4
#: Products of queries and keys that are held at once; attention in blocks of queries is exact whatever the block is.
_MOST_PRODUCTS = 1 << 24


@dataclass(frozen=True)
class NLEDNConfig:
    """There is one NLEDN."""


def _conv(cin: int, cout: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, kernel, padding=kernel // 2)


class NonLocal(nn.Module):
    """Embedded Gaussian attention of every pixel to the maxima of 2x2 pixels: x + W softmax(theta^T phi) g."""

    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Sequential(_conv(_WIDTH, _INNER, 1), nn.MaxPool2d(2))
        self.phi = nn.Sequential(_conv(_WIDTH, _INNER, 1), nn.MaxPool2d(2))
        self.theta = _conv(_WIDTH, _INNER, 1)
        self.W = _conv(_INNER, _WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within a map, N x 64 x H x W, sides of at least 2."""
        theta = self.theta(x)
        queries = theta.flatten(2).transpose(1, 2)
        keys = self.phi(x).flatten(2)
        values = self.g(x).flatten(2).transpose(1, 2)
        block = max(1, _MOST_PRODUCTS // (len(x) * keys.shape[2]))
        parts = [torch.softmax(part @ keys, 2) @ values for part in queries.split(block, 1)]
        y = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        return self.W(y.transpose(1, 2).reshape(theta.shape)) + x


class RegionNonLocal(nn.Module):
    """The same attention within every cell of a grid, as ``torch.chunk`` cuts it: where a side is no multiple of the
    grid, the last cells are smaller or missing."""

    def __init__(self, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.non_local_block = NonLocal()

    def forward(self, x: Tensor) -> Tensor:
        rows = [
            torch.cat([self.non_local_block(cell) for cell in row.chunk(self.grid, 3)], 3)
            for row in x.chunk(self.grid, 2)
        ]
        return torch.cat(rows, 2)


class Block(nn.Module):
    """Attention, four convolutions whose results are kept beside it, and a 1x1 over all, plus the input."""

    def __init__(self, grid: int = 1) -> None:
        super().__init__()
        # Named as published: the block at the bottom has no grid.
        if grid == 1:
            self.non_local = NonLocal()
        else:
            self.region_non_local = RegionNonLocal(grid)
        for i in range(_GROUPS):
            convolution = _conv(_WIDTH + i * _GROWTH, _GROWTH, 3)
            self.add_module(f"group_{i}", nn.Sequential(convolution, nn.ReLU()))
        self.fusion = nn.Sequential(_conv(_WIDTH + _GROUPS * _GROWTH, _WIDTH, 1))

    def forward(self, x: Tensor) -> Tensor:
        attention = self.non_local if hasattr(self, "non_local") else self.region_non_local
        maps = attention(x)
        for i in range(_GROUPS):
            maps = torch.cat([maps, self.get_submodule(f"group_{i}")(maps)], 1)
        return self.fusion(maps) + x


class NLEDN(nn.Module):
    """Image N x 3 x H x W in [0, 1], sides of at least 16, to the clean image, not clamped: image - rain."""

    def __init__(self, config: NLEDNConfig | None = None) -> None:
        super().__init__()
        self.config = config or NLEDNConfig()
        self.conv1 = _conv(3, _WIDTH, 3)
        self.conv2 = _conv(_WIDTH, _WIDTH, 3)
        self.up_1, self.up_2, self.up_3 = Block(8), Block(4), Block(2)
        self.down_3, self.down_2, self.down_1 = Block(), Block(2), Block(4)
        self.down_2_fusion = _conv(2 * _WIDTH, _WIDTH, 1)
        self.down_1_fusion = _conv(2 * _WIDTH, _WIDTH, 1)
        self.fusion = nn.Sequential(_conv(3 * _WIDTH, _WIDTH, 1), _conv(_WIDTH, _WIDTH, 3))
        self.final_conv = nn.Sequential(_conv(_WIDTH, 3, 3))

    def forward(self, rainy: Tensor) -> Tensor:
        shallow = self.conv1(rainy)
        f0 = self.conv2(shallow)
        u1b = self.up_1(f0)
        u1, at1 = self.pool(u1b)
        u2, at2 = self.pool(self.up_2(u1))
        u3, at3 = self.pool(self.up_3(u2))
        d3 = self.unpool(self.down_3(u3), at3, u2)
        d2 = self.unpool(self.down_2(self.down_2_fusion(torch.cat([u2, d3], 1))), at2, u1)
        d1 = self.unpool(self.down_1(self.down_1_fusion(torch.cat([u1, d2], 1))), at1, f0)
        fused = self.fusion(torch.cat([f0, d1, u1b], 1)) + shallow
        return rainy - torch.tanh(self.final_conv(fused))

    def pool(self, x: Tensor) -> tuple[Tensor, Any]:
        """Return the maxima of 2x2 pixels, and where they are."""
        return F.max_pool2d(x, 2, return_indices=True)

    def unpool(self, x: Tensor, at: Any, like: Tensor) -> Tensor:
        """Return zeros of the size of ``like``, with x where the maxima were."""
        return F.max_unpool2d(x, at, [2, 2], output_size=like.shape[-2:])


ARCHITECTURE = Architecture(
    name="nledn",
    presets={"nledn": NLEDNConfig()},
    protocol=PublishedProtocol(colour_order="rgb"),
    normalise=partial(normalised, NLEDNConfig),
    make=lambda config: NLEDN(NLEDNConfig(**config)),
    matches=lambda state: "up_1.region_non_local.non_local_block.theta.weight" in state,
    swap_colours=colour_swap(["conv1"], ["final_conv.0"]),
    # A block's growing concatenation beside its copy, and the four maps that live to the end, at full resolution.
    bytes_per_pixel=lambda config: 4 * (192 + 160 + 4 * _WIDTH),
    granularity=GRANULARITY,
    smallest_side=SMALLEST_SIDE,
    tile_overlap=TILE_OVERLAP,
    picks_maxima=True,
)

"""One launch as data: which kernel, with which constants, cut into which tiles.

Plans hold launches in this form, and so do engine files: a program that runs kernels compiled ahead of time needs
neither Triton nor PyTorch to know a launch's grid and arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ..base.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

#: Compile-time arguments that a configuration gives.
TILE = ("TILE_H", "TILE_W", "BLOCK_K")


@dataclass(frozen=True)
class LaunchConfig:
    """The cut of a launch.

    tile_h, tile_w: output pixels of a program. block_k: taps times channels of one step of the inner loop. All three
    are powers of two. warps: of a program. stages: loads in flight of the software pipeline.
    """

    tile_h: int = 8
    tile_w: int = 16
    block_k: int = 32
    warps: int = 4
    stages: int = 3


#: A kernel's name, its channels and the level of the map that its tiles cover, to a configuration.
Configure: TypeAlias = Callable[[str, int, int], LaunchConfig]


@dataclass(frozen=True)
class Call:
    """A launch of a kernel on any memory.

    kernel: the name of its record. constants: its compile-time arguments but those of the configuration. planes:
    programs along the grid's second axis, for kernels that do one thing to several maps.
    """

    kernel: str
    constants: Mapping[str, int | float | bool]
    config: LaunchConfig
    planes: int = 1

    def grid(self, height: int, width: int) -> tuple[int, int, int]:
        """Return how many programs cover a map of height x width pixels."""
        return -(-height // self.config.tile_h) * -(-width // self.config.tile_w), self.planes, 1

    def compile_time(self) -> dict[str, int | float | bool]:
        """Return every constant by name, the configuration's with the others."""
        config = self.config
        tile = config.tile_h, config.tile_w, config.block_k
        return {**self.constants, **dict(zip(TILE, tile, strict=True))}


def check_maps(
    maps: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None
) -> tuple[int, int, int]:
    """Return (height, width, channels) of the first map, after a check that all are H x W x C, contiguous, of one dtype
    on one device, and that the weights lie there too and are of that dtype or fp32.

    Raises:
        InputError: they are not.
    """
    import torch

    first = next(iter(maps.values()))
    if first.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise InputError(f"The fused kernels compute in fp16, bf16 or fp32, not in {first.dtype}.")
    for name, tensor in maps.items():
        if tensor.ndim != 3 or not tensor.numel() or not tensor.is_contiguous():
            raise InputError(f"{name} must be a contiguous map of height x width x channels, none of them 0.")
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise InputError(
                f"{name} is {tensor.dtype} on {tensor.device}, not {first.dtype} on {first.device}."
            )
    for name, tensor in (weights or {}).items():
        if tensor.dtype not in (first.dtype, torch.float32) or tensor.device != first.device:
            raise InputError(
                f"The weights {name} are {tensor.dtype} on {tensor.device}, not {first.dtype} on {first.device}."
            )
    height, width, channels = first.shape
    return height, width, channels


def check_shapes(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that packed weights are as large as a launch reads them.

    Raises:
        InputError: they are not.
    """
    for name, shape in shapes.items():
        found = tuple(weights[name].shape)
        if found != shape:
            raise InputError(f"The weights {name} are {found}, not {shape}: they were packed for other maps.")

"""Semi-DerainGAN's network as a plan: the mask learner's convolutions with what follows them and its gates as launches
of the recurrent kernels, and a U-Net whose concatenations are two maps that a convolution reads."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from ...base.errors import BuildError, InputError
from ...kernels import pool, recurrent, transposed
from ...kernels.launch import Configure
from ...models.semi_derain_gan import SemiDerainGAN
from ..assembly import parameters_of
from ..program import Dtype, Plan, View
from .recurrent import PIXEL, RecurrentAssembly, area

#: Columns of a launch of a transposed convolution, whose sums a program holds for all its pixels.
_COLUMNS = 64
_FIRST_MASK = 0.5


def lower_semi_derain_gan(
    network: SemiDerainGAN, dtype: Dtype, *, configure: Configure, code: bool = False
) -> Plan:
    """Return the launches of a network for pictures whose sides its U-Net halves evenly. code: keep the innermost map
    (``Plan.code``) to compare it.

    Raises:
        BuildError: a width that the fused kernels do not know.
    """
    try:
        return SemiDerainGANLowering(network, dtype, configure).plan(code)
    except InputError as error:
        raise BuildError(str(error)) from error


class SemiDerainGANLowering(RecurrentAssembly[SemiDerainGAN]):
    """The plan of a Semi-DerainGAN in the making."""

    def plan(self, code: bool) -> Plan:
        generator = self.network.generator
        image, rain = self.buffer("image", 0, PIXEL), self.buffer("rain", 0, 3)
        mask = self._mask(image)
        skips: list[View] = []
        maps, real = [image, mask], [3, 1]
        for level, block in enumerate(generator.down):
            name = f"down.{level}"
            if level:
                channels = self.channels(skips[-1])
                maps, real = [self.buffer("pooled", level, channels)], [channels]
                call = pool.maximum_call(channels, self.configure("pool.maximum", channels, level))
                work = (pool.flops(1, 1, channels) * area(level), 5 * channels * area(level))
                self.step(f"{name}.pool", call, [skips[-1], maps[0]], level, (1,), *work)
            skips.append(self._twice(name, block, maps, real, level))
        inner = x = skips.pop()
        for level in reversed(range(len(skips))):
            up = self._up(f"up.{level}", generator.up.get_submodule(str(level)), x, level)
            both = [skips[level], up]
            real = [self.channels(each) for each in both]
            x = self._twice(f"merge.{level}", generator.merge[level], both, real, level)
        # The rain layer: what a residual network gives, and rainy - clean of the others. As a 3x3 whose other taps are
        # zero it costs less than a launch of its own kind would be worth.
        weight, bias = parameters_of(generator.out)
        residual = generator.residual
        sign = 1 if residual else -1
        head, addend = (sign * F.pad(weight, (1, 1, 1, 1)), sign * bias), None if residual else image
        self.convolve("rain", head, [x], [self.channels(x)], 0, to=rain, addend=addend)
        step = 1 << len(generator.up)
        return self.finished(image.buffer, rain.buffer, code=inner if code else None, granularity=step)

    def _mask(self, image: View) -> View:
        """Put in the mask learner, and return its last mask."""
        learner = self.network.ssrml
        width = learner.width
        cell = self.buffer("cell", 0, width)
        gates = {gate: learner.get_submodule(f"conv_{gate}.0") for gate in recurrent.GATES}
        hidden: View | None = None
        # A mask that is the same everywhere, as a convolution of which nothing but the bias is left.
        even = torch.zeros(1, 3, 3, 3), torch.tensor([_FIRST_MASK])
        mask = self.convolve("mask", even, [image], [3], 0, to=self.buffer("mask", 0, PIXEL))
        for iteration in range(learner.iterations):
            name = f"iteration{iteration}"
            x = self._layer(f"{name}.det_conv0", learner.det_conv0[0], [image, mask], [3, 1], 0)
            for number, unit in enumerate(learner.units(), 1):
                inner, outer = unit.get_submodule("0"), unit.get_submodule("2")
                y = self._layer(f"{name}.det_conv{number}.0", inner, [x], [width], 0)
                x = self._layer(f"{name}.det_conv{number}.2", outer, [y], [width], 0, addend=x)
            hidden = self.lstm(name, gates, x, hidden, cell)
            mask = self.buffer("mask", 0, PIXEL)
            last, place = parameters_of(learner.det_conv_mask[0]), f"{name}.det_conv_mask"
            self.convolve(place, last, [hidden], [width], 0, to=mask, owner="det_conv_mask")
        return mask

    def _twice(self, name: str, block: nn.Module, maps: list[View], real: list[int], level: int) -> View:
        x = self._layer(f"{name}.0", block.get_submodule("0"), maps, real, level)
        return self._layer(f"{name}.2", block.get_submodule("2"), [x], [self.channels(x)], level)

    def _layer(
        self,
        name: str,
        module: nn.Module,
        maps: list[View],
        real: list[int],
        level: int,
        addend: View | None = None,
    ) -> View:
        """Put in a convolution of the network with a ReLU behind it, and with an addend another behind that."""
        return self.convolve(
            name,
            parameters_of(module),
            maps,
            real,
            level,
            owner=self.names[module],
            addend=addend,
            before=True,
            after=addend is not None,
        )

    def _up(self, name: str, module: nn.Module, x: View, level: int) -> View:
        """Put in a transposed convolution to a level from the one below it."""
        assert isinstance(module, nn.ConvTranspose2d) and module.bias is not None
        weight, bias = module.weight.detach(), module.bias.detach()
        channels, columns = weight.shape[:2]
        out = self.buffer("up", level, columns)
        config = self.configure("transposed.conv", channels, level + 1)
        for first in range(0, columns, _COLUMNS):
            last = min(first + _COLUMNS, columns)
            pack = partial(transposed.pack, weight[:, first:last], bias[first:last], self.torch_dtype)
            call = transposed.conv_call(channels, last - first, config, pixel=columns)
            stored = self.weights(f"{name}[{first}:{last}]", pack, "weights", "bias")
            work = transposed.flops(1, 1, channels, last - first) * area(level + 1)
            moved = (channels + 4 * (last - first)) * area(level + 1)
            pointers = [x, *stored, View(out.buffer, 0, first)]
            self.step(f"{name}[{first}:{last}]", call, pointers, level + 1, (3,), work, moved)
        return out

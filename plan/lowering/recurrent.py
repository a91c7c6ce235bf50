"""The launches of recurrent networks: convolutions over one or two maps, and a step of an LSTM as one launch."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from ...kernels import recurrent
from ...kernels.gemm import pack_taps
from ..assembly import Assembly, Network, parameters_of
from ..program import GRANULARITY, View

#: Elements of a pixel of the picture, of estimates of it (three colours and one of zeros, so that a pixel is read at
#: once) and of a mask (one and three of zeros).
PIXEL = 4
#: Columns of a launch, whose sums a program holds for all its pixels.
_COLUMNS = 64


class RecurrentAssembly(Assembly[Network]):
    """A plan in the making whose 3x3 convolutions are launches of the recurrent kernels."""

    def convolve(
        self,
        name: str,
        parameters: tuple[Tensor, Tensor],
        maps: list[View],
        real: list[int],
        level: int,
        *,
        owner: str | None = None,
        to: View | None = None,
        addend: View | None = None,
        before: bool = False,
        after: bool = False,
        moved: int | None = None,
    ) -> View:
        """Put in a 3x3 convolution over one or two maps, in as many launches as its columns take, and return its map.

        Args:
            parameters: weight and bias.
            real: the channels of each map that the weight has.
            owner: of weights that several steps share.
            before, after: ReLU before and after the addition.
            moved: elements of maps that a launch moves for a pixel; by default those that are read, and the columns
                that are written and added.
        """
        weight, bias = parameters
        columns = weight.shape[0]
        out = to or self.buffer("map", level, columns)
        wide, pixel = [self.channels(view) for view in maps], self.channels(out)
        added = 0 if addend is None else self.channels(addend)
        config = self.configure(recurrent.CONV.name, wide[0], level)
        for first in range(0, columns, _COLUMNS):
            last = min(first + _COLUMNS, columns)
            call = recurrent.conv_call(
                wide[0],
                sum(wide[1:]),
                last - first,
                config,
                pixel=pixel,
                added=added,
                before=before,
                after=after,
            )
            parts = list(zip(real, wide, strict=True))
            pack = partial(pack_taps, weight[first:last], bias[first:last], self.torch_dtype, parts)
            stored = self.weights(f"{owner or name}[{first}:{last}]", pack, "weights", "bias")
            part, rest = View(out.buffer, 0, first), addend and View(addend.buffer, 0, first)
            work = recurrent.flops(1, 1, sum(real), last - first) * area(level)
            elements = sum(wide) + (last - first) * (2 if addend else 1) if moved is None else moved
            place = name if columns <= _COLUMNS else f"{name}[{first}:{last}]"
            pointers = [maps[0], maps[-1], *stored, rest or part, part]
            self.step(place, call, pointers, level, (5,), work, elements * area(level))
        return out

    def lstm(self, name: str, gates: dict[str, nn.Module], x: View, hidden: View | None, cell: View) -> View:
        """Put in a step, and return the new hidden state. gates: the convolution of each, by its letter."""
        width, start = self.channels(cell), hidden is None
        pairs = {gate: parameters_of(module) for gate, module in gates.items()}
        weights, biases = ({gate: pair[i] for gate, pair in pairs.items()} for i in (0, 1))
        pack = partial(recurrent.pack_gates, weights, biases, self.torch_dtype)
        out = self.buffer("hidden", 0, width)
        call = recurrent.lstm_call(width, self.configure(recurrent.LSTM.name, width, 0), start)
        stored = self.weights("gates", pack, "weights", "bias")
        read, columns = (width, 3 * width) if start else (2 * width, 4 * width)
        flops = recurrent.flops(GRANULARITY, GRANULARITY, read, columns)
        moved = (3 if start else 5) * width * area(0)
        self.step(f"{name}.lstm", call, [x, hidden or x, *stored, cell, out], 0, (4, 5), flops, moved)
        return out


def area(level: int) -> int:
    """Return the pixels of a level, of the picture that work is counted for."""
    return GRANULARITY**2 >> 2 * level

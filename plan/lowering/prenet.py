"""A network of the PReNet family as a plan: every convolution with what follows it is one launch, and so are the four
gates of the LSTM with the cell's update."""

from __future__ import annotations

from torch import nn

from ...base.errors import BuildError
from ...kernels import recurrent
from ...kernels.launch import Configure
from ...models.prenet import WIDTH, PReNet, VRGNetDerainer
from ..assembly import parameters_of
from ..program import Dtype, Plan, View
from .recurrent import PIXEL, RecurrentAssembly


def lower_prenet(
    network: PReNet | VRGNetDerainer, dtype: Dtype, *, configure: Configure, code: bool = False
) -> Plan:
    """Return the launches of a network for pictures of any size. code: keep the last features (``Plan.code``) to
    compare them.

    Raises:
        BuildError: a network with a GRU, which the fused kernels do not know.
    """
    plain = network.derainet if isinstance(network, VRGNetDerainer) else network
    if plain.variant.recurrence == "gru":
        raise BuildError("The fused kernels have an LSTM and no GRU; build with another backend.")
    return PReNetLowering(plain, dtype, configure).plan(code)


class PReNetLowering(RecurrentAssembly[PReNet]):
    """The plan of a network of this family in the making."""

    def plan(self, code: bool) -> Plan:
        network, variant = self.network, self.network.variant
        image = estimate = self.buffer("image", 0, PIXEL)
        rain = self.buffer("rain", 0, 3)
        recurs = variant.recurrence == "lstm"
        cell = self.buffer("cell", 0, WIDTH) if recurs else image
        gates = {gate: network.get_submodule(f"conv_{gate}") for gate in recurrent.GATES if recurs}
        hidden: View | None = None
        x = image
        for stage in range(network.config.stages):
            name = f"stage{stage}"
            seen = [image, estimate] if variant.sees_rain else [estimate]
            x = self._conv(f"{name}.conv0", network.conv0, seen, before=True)
            if recurs:
                x = hidden = self.lstm(name, gates, x, hidden, cell)
            for number, block in enumerate(network.blocks(), 1):
                inner, outer = block.get_submodule("0"), block.get_submodule("2")
                y = self._conv(f"{name}.block{number}.0", inner, [x], before=True)
                x = self._conv(f"{name}.block{number}.2", outer, [y], addend=x, before=True, after=True)
            if stage + 1 < network.config.stages:
                estimate = self.buffer("estimate", 0, PIXEL)
                addend = image if variant.residual else None
                self._conv(f"{name}.conv", network.conv, [x], addend=addend, to=estimate)
        # The rain layer, rainy - clean: of what is added to the picture, the negative.
        head = network.convfinal if variant.variational else network.conv
        addend = None if variant.residual else image
        self._conv("rain", head, [x], addend=addend, to=rain, negative=True)
        return self.finished(image.buffer, rain.buffer, code=x if code else None, granularity=1)

    def _conv(
        self,
        name: str,
        module: nn.Module,
        maps: list[View],
        *,
        addend: View | None = None,
        to: View | None = None,
        before: bool = False,
        after: bool = False,
        negative: bool = False,
    ) -> View:
        """Put in a convolution over one or two maps; to: of a picture's three colours where it is given."""
        weight, bias = parameters_of(module)
        if to is not None:
            weight, bias = weight[:3], bias[:3]
        sign = -1 if negative else 1
        # Of the head that is both, what adds and what takes away are stored apart.
        owner = f"{self.names.get(module, 'conv')}{' negative' if negative else ''}"
        wide = [self.channels(view) for view in maps]
        moved = sum(wide) + (self.channels(to) if to else weight.shape[0])
        return self.convolve(
            name,
            (sign * weight, sign * bias),
            maps,
            [3 if channels == PIXEL else channels for channels in wide],
            0,
            owner=owner,
            to=to,
            addend=addend,
            before=before,
            after=after,
            moved=moved + (self.channels(addend) if addend else 0),
        )

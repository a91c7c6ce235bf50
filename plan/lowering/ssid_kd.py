"""An SSID-KD network as a plan: every unit block in fused launches, and concatenations and additions nowhere."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from ...base.errors import BuildError
from ...kernels import chain, conv, dense, mffb, pffb, resample
from ...kernels.launch import Configure
from ...models.ssid_kd import MFFB, PFFB, SSIDKD, DenseConnection, UnitBlock
from ..assembly import Assembly, parameters_of
from ..cost import best_cuts
from ..program import GRANULARITY, Dtype, Plan, View, Weight

_SCALES = (1, 2, 4, 8)


def lower_ssid_kd(
    network: SSIDKD, dtype: Dtype, *, nominal: tuple[int, int], code: bool, configure: Configure
) -> Plan:
    """Return the launches of a network, as :func:`..lower` says."""
    for option, known in (("pyramid", "bilinear"), ("pffb_entry", "none")):
        if (given := getattr(network.config, option)) != known:
            raise BuildError(
                f"The fused kernels have no {option}={given!r}, only {known!r}; build with another backend."
            )
    return SSIDKDLowering(network, dtype, nominal, configure).plan(code)


class SSIDKDLowering(Assembly[SSIDKD]):
    """The plan of an SSID-KD network in the making."""

    def __init__(self, network: SSIDKD, dtype: Dtype, nominal: tuple[int, int], configure: Configure) -> None:
        super().__init__(network, dtype, configure)
        self.nominal = nominal

    def plan(self, code: bool) -> Plan:
        config = self.network.config
        c1, c2, c4 = config.channels
        image = self.buffer("image", 0, 4).buffer
        head, ed1, ed2, ed4 = (
            getattr(self.network, name)
            for name in ("head", "encoder_decoder_1", "encoder_decoder_2", "encoder_decoder_4")
        )
        tail = self.buffer("tail.in", 0, c1 + c2 + c4)
        # The small networks first: they run beside the first layer of the large one, which needs nothing of them.
        self.branch = 1
        q1 = self._stack(ed4.enLayer_4, 2)
        self._first(image, head.convLayer_4, 2, q1)
        d4 = self.buffer("d4", 2, c4)
        self._dense(ed4.enLayer_4, q1, 2, last=(q1, d4))
        h1 = self._stack(ed2.enLayer_2, 1)
        self._first(image, head.convLayer_2, 1, h1)
        self._dense(ed2.enLayer_2, h1, 1)
        bottom, begin = self._between(ed2.catLayer_2, h1, (1, 2), ed2.enLayer_4, q1)
        self._dense(ed2.enLayer_4, bottom, 2, begin, added=q1)
        m2, begin = self._between(ed2.catLayer_3, bottom, (2, 1), ed2.deLayer_2, h1)
        d2 = self.buffer("d2", 1, c2)
        self._dense(ed2.deLayer_2, m2, 1, begin, added=h1, last=(h1, d2))
        self.branch = 0
        e1 = self._stack(ed1.enLayer_1, 0)
        self._convolve(head.convLayer_1, View(image), 0, 4, 1, e1)
        self._dense(ed1.enLayer_1, e1, 0)
        e2, begin = self._between(ed1.catLayer_1, e1, (0, 1), ed1.enLayer_2, h1)
        self._dense(ed1.enLayer_2, e2, 1, begin, added=h1)
        e4, begin = self._between(ed1.catLayer_2, e2, (1, 2), ed1.enLayer_4, bottom)
        self._dense(ed1.enLayer_4, e4, 2, begin, added=bottom)
        up, begin = self._between(ed1.catLayer_3, e4, (2, 1), ed1.deLayer_2, m2)
        # The residual sum takes the place of the last unit's map, which nothing reads after it.
        self._dense(ed1.deLayer_2, up, 1, begin, added=m2, last=(e2, _slab(up, config.units[1])))
        top, begin = self._between(ed1.catLayer_4, up, (1, 0), ed1.deLayer_1, e1)
        self._dense(ed1.deLayer_1, top, 0, begin, added=e1, last=(e1, tail))
        for source, level, channel, name in ((d2, 1, c1, "d2"), (d4, 2, c1 + c2, "d4")):
            self._resample(f"tail.{name}", source, level, 0, 1, View(tail.buffer, 0, channel))
        rain = self.buffer("rain", 0, 3)
        self._convolve(self.network.tail.catLayer, tail, 0, c1 + c2 + c4, 1, rain)
        return self.finished(image, rain.buffer, code=_slab(e4, config.units[2]) if code else None)

    def _stack(self, connection: DenseConnection, level: int) -> View:
        """Put in the maps that a dense connection keeps: its input and every unit's output."""
        units = len(connection.units)
        return self.buffer(self.names[connection], level, _width(connection), units + 1)

    def _dense(
        self,
        connection: DenseConnection,
        stack: View,
        level: int,
        begin: View | None = None,
        added: View | None = None,
        last: tuple[View, View] | None = None,
    ) -> None:
        """Put in the units of a dense connection and its 1x1 convolutions.

        stack: slab 0 holds the input. begin: the first unit's input where it is not that. added: the stack whose
        map i + 1 is added to unit i's input. last: what is added to the last 1x1's output, and where the sum goes;
        without it that convolution is left out.
        """
        channels, units = _width(connection), len(connection.units)
        side = _side(level)
        source = begin or stack
        for i, unit in enumerate(connection.units):
            self._unit(
                f"{self.names[connection]}.units.{i}", unit, source, _slab(stack, i + 1), level, channels
            )
            if i + 1 < units:
                addend, to = added and _slab(added, i + 2), self.buffer("dense", level, channels)
            elif last is not None:
                addend, to = last
            else:
                return
            module = connection.conv1x1[i]
            config = self.configure("dense.dense1x1", channels, level)
            call = dense.dense1x1_call(channels, config, addend is not None, self.channels(to))
            pack = partial(dense.pack, *parameters_of(module), self.torch_dtype)
            pointers = [stack, *self.weights(module, pack, "weights", "bias"), addend or to, to]
            flops = dense.flops(side, side, channels, i + 2)
            elements = side * side * channels * (i + 3 + (addend is not None))
            self.step(self.names[module], call, pointers, level, (4,), flops, elements, i + 2)
            source = to

    def _unit(self, name: str, unit: nn.Module, source: View, to: View, level: int, channels: int) -> None:
        # Shared units are one module in many places.
        assert isinstance(unit, UnitBlock)
        blocks = list(unit.unit)
        for i, block in enumerate(blocks):
            out = to if i + 1 == len(blocks) else self.buffer("unit", level, channels)
            if isinstance(block, PFFB):
                self._pffb(f"{name}.pffb", block, source, out, level, channels)
            else:
                assert isinstance(block, MFFB)
                self._mffb(f"{name}.mffb", block, source, out, level, channels)
            source = out

    def _mffb(self, name: str, block: MFFB, x: View, out: View, level: int, channels: int) -> None:
        side = _side(level)
        slope = 0.0 if isinstance(block.active, nn.ReLU) else mffb.SLOPE

        def pack() -> dict[str, Tensor]:
            return mffb.pack(block.state_dict(), self.torch_dtype)

        m = self.buffer("mffb", level, 2 * channels)
        flops = mffb.flops(side, side, channels)
        maps = side * side * channels
        call = mffb.stage1_call(channels, self.configure("mffb.stage1", channels, level), slope)
        pointers = [x, *self.weights(block, pack, "inner1", "outer1", "bias1"), m]
        self.step(f"{name}.1", call, pointers, level, (4,), flops[0], 3 * maps)
        call = mffb.stage2_call(channels, self.configure("mffb.stage2", channels, level), slope)
        weights = self.weights(block, pack, "inner2", "outer2", "bias2", "last", "last_bias")
        pointers = [m, x, *weights, out]
        self.step(f"{name}.2", call, pointers, level, (7,), flops[1], 4 * maps)

    def _pffb(self, name: str, block: PFFB, x: View, out: View, level: int, channels: int) -> None:
        def weight(key: str, first: int = 0) -> Weight:
            return self.weight(block, lambda: pffb.pack(block.state_dict(), self.torch_dtype), key, first)

        flops = pffb.flops(_side(level), _side(level), channels)
        sources = {k: self.buffer(f"pffb.{k}", level + i, channels) for i, k in enumerate(_SCALES)}
        area = {k: _side(level + i) ** 2 * channels for i, k in enumerate(_SCALES)}
        call = pffb.pyramid_call(channels, self.configure("pffb.pyramid", channels, level))
        pointers = [x, weight("pyramid"), weight("pyramid_bias"), *sources.values()]
        moved = area[1] + sum(area.values())
        self.step(f"{name}.pyramid", call, pointers, level, (3, 4, 5, 6), flops["pyramid"], moved)
        cuts = best_cuts(self.nominal[0] >> level, self.nominal[1] >> level, channels, self.item)
        shares: dict[int, View] = {}
        for i, scale in reversed(list(enumerate(_SCALES))):
            at = level + i
            cut = cuts[scale]
            config = self.configure("chain.chain", channels, at)
            if config == chain.CHAIN.config(channels):
                config = cut.config
            source = sources[scale]
            for first, length, reads, writes in chain.parts(scale, cut.lengths):
                call = chain.chain_call(channels, length, reads, writes, at <= 2, config)
                if writes == "sum":
                    to = out
                else:
                    to = self.buffer(f"pffb.{scale}.{first}", at, channels * (1 if writes == "map" else 2))
                tile = (config.tile_h, config.tile_w)
                room = chain.scratch_elements(call, *tile)
                scratch = self.buffer("scratch", at, room, tile=tile) if room else to
                pointers = [source, shares.get(2 * scale, to) if reads == "fusion" else to]
                pointers += [weight(f"chain{scale}", first), weight(f"chain{scale}_bias", first), scratch]
                pointers += [weight(f"ending{scale}"), weight("ending1_bias")]
                pointers += [shares[k] if writes == "sum" else to for k in (2, 4, 8)]
                pointers += [x if writes == "sum" else to, to]
                moved = area[scale] * (2 + (writes == "shares")) + (
                    area[2 * scale] if reads == "fusion" else 0
                )
                moved += sum(area.values()) if writes == "sum" else 0
                extra = 2 * area[scale] * channels * {"map": 0, "shares": 2, "sum": 1}[writes]
                count = 18 * area[scale] * channels * length + extra
                written = (4, 11) if room else (11,)
                part = f"{name}.scale{scale}" + ("" if length == 4 else f".{first}")
                self.step(part, call, pointers, at, written, count, moved)
                source = to
            shares[scale] = source

    def _first(self, image: int, module: nn.Module, level: int, to: View) -> None:
        """Put in a scale's first convolution, on the picture made smaller."""
        small = self.buffer("image", level, 4)
        self._resample(f"{self.names[module]}.image", View(image), 0, level, 1, small)
        self._convolve(module, small, level, 4, 1, to)

    def _between(
        self, module: nn.Module, stack: View, levels: tuple[int, int], to: DenseConnection, added: View
    ) -> tuple[View, View]:
        """Put in the maps of a dense connection ``to``, and before them the units' maps of a stack, resized from the
        first to the second of the levels and convolved into its first slab.

        Returns:
            The new stack, and the sum of its first slab with the first unit's map of the stack ``added``, which its
            own first unit reads.
        """
        level, to_level = levels
        channels, units = self.channels(stack), self.buffers[stack.buffer].slabs - 1
        new = self._stack(to, to_level)
        resized = self.buffer("resized", to_level, channels, units)
        self._resample(f"{self.names[module]}.in", _slab(stack, 1), level, to_level, units, resized)
        summed = self.buffer("begin", to_level, self.channels(new))
        self._convolve(module, resized, to_level, channels, units, new, _slab(added, 1), summed)
        return new, summed

    def _resample(self, name: str, source: View, level: int, to_level: int, slabs: int, to: View) -> None:
        channels, pixel = self.channels(source), self.channels(to)
        config = self.configure("resample.bilinear", channels, to_level)
        call = resample.bilinear_call(channels, slabs, config, pixel)
        here, there = _side(level), _side(to_level)
        flops = resample.flops(there, there, channels, slabs)
        elements = channels * slabs * (here**2 + there**2)
        self.step(name, call, [source, to], to_level, (1,), flops, elements, f"h{level}", f"w{level}")

    def _convolve(
        self,
        module: nn.Module,
        source: View,
        level: int,
        channels: int,
        slabs: int,
        to: View,
        addend: View | None = None,
        summed: View | None = None,
    ) -> None:
        weight, bias = parameters_of(module)
        columns, inputs = weight.shape[:2]
        pack = partial(conv.pack, weight, bias, self.torch_dtype, channels * slabs - inputs)
        config = self.configure("conv.conv3x3", channels, level)
        call = conv.conv3x3_call(channels, slabs, columns, config, addend is not None)
        pointers = [source, *self.weights(module, pack, "weights", "bias"), to, addend or to, summed or to]
        side = _side(level)
        flops = conv.flops(side, side, inputs, 1, columns)
        elements = side * side * (channels * slabs + columns * (3 if addend else 1))
        writes = (3, 5) if summed else (3,)
        self.step(self.names[module], call, pointers, level, writes, flops, elements)


def _slab(stack: View, slab: int) -> View:
    return View(stack.buffer, slab)


def _side(level: int) -> int:
    """Return the side of a picture of 32x32 at a level."""
    return GRANULARITY >> level


def _width(connection: DenseConnection) -> int:
    return parameters_of(connection.conv1x1[0])[0].shape[0]

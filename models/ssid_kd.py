"""The SID / SSID-KD deraining network, as plain PyTorch.

Cui, Wang, Ren, Chen, Zhu, "Semi-supervised Image Deraining Using Knowledge Distillation", IEEE TCSVT 2022.
The modules and their names follow the published checkpoints (class ``ODE_DerainNet``), so that a state dict of
the authors loads key for key. Where the paper's text and the published code disagree the code is the default
and the text is a named option of :class:`SSIDKDConfig`. The paper's PFFB is ``unit.0`` (ISCB in the
code), its MFFB ``unit.1`` (MSFB).

All tensors are NCHW float, images RGB in [0, 1]. C1, C2, C4 are the widths at full, half and quarter scale.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, ConfigValues, PublishedProtocol, StateDict, colour_swap, normalised

#: Both sides must be multiples of this for every pool and resize to have an integer ratio (4 * 8).
GRANULARITY = 32
#: Below this side the 8x pool of the quarter scale has no output.
SMALLEST_SIDE = 32
#: Overlap of tiles in pixels; the receptive field is global, so this is a measured compromise (see the model card).
TILE_OVERLAP = 96

_SLOPE = 0.2


@dataclass(frozen=True)
class SSIDKDConfig:
    """Hyper-parameters of :class:`SSIDKD`.

    channels: widths at full, half and quarter scale.
    units: unit blocks of one dense connection at full, half and quarter scale.
    blocks: what a unit block holds (the paper's Table IX): both, PFFB alone or MFFB alone.
    pyramid: how the half and quarter images are made; ``maxpool`` is the paper's text.
    pffb_entry: ``resblock`` puts eq. 2's convolution and residual block before the pooling (the paper's text).
    activation: of the MFFB; ``relu`` is the paper's text.
    shared_units: one set of unit weights for each dense connection, as in the published networks.
    """

    channels: tuple[int, int, int] = (24, 32, 48)
    units: tuple[int, int, int] = (10, 4, 2)
    blocks: Literal["both", "pffb", "mffb"] = "both"
    pyramid: Literal["bilinear", "maxpool"] = "bilinear"
    pffb_entry: Literal["none", "resblock"] = "none"
    activation: Literal["leaky_relu", "relu"] = "leaky_relu"
    shared_units: bool = True

    def __post_init__(self) -> None:
        for name in ("channels", "units"):
            values = tuple(int(v) for v in getattr(self, name))
            if len(values) != 3 or min(values) < 1:
                raise ValueError(f"{name} needs three positive numbers, got {getattr(self, name)!r}")
            object.__setattr__(self, name, values)
        for name, known in (
            ("blocks", ("both", "pffb", "mffb")),
            ("pyramid", ("bilinear", "maxpool")),
            ("pffb_entry", ("none", "resblock")),
            ("activation", ("leaky_relu", "relu")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")


#: Named configurations. ``sid`` is the published network: 4 433 779 parameters, 64.3 GMACs at 128x128.
PRESETS: dict[str, SSIDKDConfig] = {
    "sid": SSIDKDConfig(),
    "sid-lite": SSIDKDConfig(channels=(16, 16, 16), units=(1, 1, 1)),
}


class Derained(NamedTuple):
    """The network's result: the clean image, the rain layer (both N x 3 x H x W) and the latent code
    (N x C4 x H//4 x W//4)."""

    clean: Tensor
    rain: Tensor
    code: Tensor


def _conv(cin: int, cout: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, kernel, padding=kernel // 2)


class ConvAct(nn.Sequential):
    """Convolution and LeakyReLU; the convolution's keys end in ``.0``, as published."""

    def __init__(self, cin: int, cout: int, kernel: int) -> None:
        super().__init__(_conv(cin, cout, kernel), nn.LeakyReLU(_SLOPE))


def _bilinear(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def _nearest(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


def _half(size: Sequence[int], times: int = 1) -> tuple[int, int]:
    return size[0] // 2**times, size[1] // 2**times


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with an activation between them, and the identity (eq. 2, ResBlock_3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1 = _conv(channels, channels, 3)
        self.conv_2 = _conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_2(F.leaky_relu(self.conv_1(x), _SLOPE))


class PFFB(nn.Module):
    """Pyramid feature fusion block, eq. 2-4: max-pools by 1, 2, 4, 8, four convolutions a scale, fused from
    coarse to fine and once more all together. N x C x H x W to the same; H and W at least 8."""

    def __init__(self, channels: int, entry: str = "none") -> None:
        super().__init__()
        c = channels
        if entry == "resblock":
            self.entry = nn.Sequential(ConvAct(c, c, 3), ResidualBlock(c))
        else:
            self.entry = nn.Identity()
        scales = (nn.Sequential(*(ConvAct(c, c, 3) for _ in range(4))) for _ in range(4))
        self.scale8, self.scale4, self.scale2, self.scale1 = scales
        self.fusion84, self.fusion42, self.fusion21 = (ConvAct(2 * c, c, 1) for _ in range(3))
        self.fusion_all = ConvAct(4 * c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        p1 = self.entry(x)
        p2, p4, p8 = (F.max_pool2d(p1, k, k) for k in (2, 4, 8))
        s8 = self.scale8(p8)
        s4 = self.scale4(self.fusion84(torch.cat([p4, _nearest(s8, p4)], 1)))
        s2 = self.scale2(self.fusion42(torch.cat([p2, _nearest(s4, p2)], 1)))
        s1 = self.scale1(self.fusion21(torch.cat([p1, _nearest(s2, p1)], 1)))
        pyramid = torch.cat([s1, _nearest(s2, p1), _nearest(s4, p1), _nearest(s8, p1)], 1)
        return self.fusion_all(pyramid) + x


class MFFB(nn.Module):
    """Multi-scale feature fusion block, eq. 5: 3x3 and 5x5 branches, twice, exchanged in between, a 1x1 and
    the identity. N x C x H x W to the same."""

    def __init__(self, channels: int, activation: str = "leaky_relu") -> None:
        super().__init__()
        c = channels
        self.conv_3_1 = _conv(c, c, 3)
        self.conv_5_1 = _conv(c, c, 5)
        self.conv_3_2 = _conv(2 * c, 2 * c, 3)
        self.conv_5_2 = _conv(2 * c, 2 * c, 5)
        self.confusion = _conv(4 * c, c, 1)
        self.active = nn.ReLU() if activation == "relu" else nn.LeakyReLU(_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        m = torch.cat([self.active(self.conv_3_1(x)), self.active(self.conv_5_1(x))], 1)
        n = torch.cat([self.active(self.conv_3_2(m)), self.active(self.conv_5_2(m))], 1)
        return self.confusion(n) + x


class UnitBlock(nn.Module):
    """PFFB, then MFFB (or one of them, the paper's Table IX)."""

    def __init__(self, channels: int, config: SSIDKDConfig) -> None:
        super().__init__()
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if config.blocks in ("both", "pffb"):
            parts["0"] = PFFB(channels, config.pffb_entry)
        if config.blocks in ("both", "mffb"):
            parts["1"] = MFFB(channels, config.activation)
        self.unit = nn.Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x)


class DenseConnection(nn.Module):
    """U unit blocks whose outputs are kept; after each a 1x1 convolution over everything kept so far.

    With shared units the one block is registered at every position, so the state dict holds aliases of one
    storage, as the published files do.
    """

    def __init__(self, channels: int, units: int, config: SSIDKDConfig) -> None:
        super().__init__()
        first = UnitBlock(channels, config)
        rest = (first if config.shared_units else UnitBlock(channels, config) for _ in range(units - 1))
        self.units = nn.ModuleList([first, *rest])
        self.conv1x1 = nn.ModuleList(ConvAct((i + 2) * channels, channels, 1) for i in range(units))

    def forward(
        self, x: Tensor, added: Sequence[Tensor] | None = None, fuse_last: bool = True
    ) -> tuple[list[Tensor], Tensor]:
        """Return the U+1 maps (x, then every unit's output) and the last 1x1's output.

        Args:
            x: N x C x H x W.
            added: U+1 maps of x's shape; map i+1 is added to the input of unit i, map 0 is not used.
            fuse_last: False leaves the last 1x1 out, for callers that only want the maps.
        """
        maps, out = [x], x
        for i, unit in enumerate(self.units):
            maps.append(unit(out if added is None else out + added[i + 1]))
            if fuse_last or i + 1 < len(self.units):
                out = self.conv1x1[i](torch.cat(maps, 1))
        return maps, out


class Head(nn.Module):
    """The image at full, half and quarter scale, and the first convolution of each."""

    def __init__(self, config: SSIDKDConfig) -> None:
        super().__init__()
        c1, c2, c4 = config.channels
        self.pyramid = config.pyramid
        self.convLayer_1 = ConvAct(3, c1, 3)
        self.convLayer_2 = ConvAct(3, c2, 3)
        self.convLayer_4 = ConvAct(3, c4, 3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = image.shape[-2:]
        if self.pyramid == "maxpool":
            half = F.max_pool2d(image, 2)
            quarter = F.max_pool2d(half, 2)
        else:
            half = _bilinear(image, _half(size))
            quarter = _bilinear(image, _half(size, 2))
        return self.convLayer_1(image), self.convLayer_2(half), self.convLayer_4(quarter)


class EncoderDecoder4(nn.Module):
    """The quarter-scale network."""

    def __init__(self, config: SSIDKDConfig) -> None:
        super().__init__()
        self.enLayer_4 = DenseConnection(config.channels[2], config.units[2], config)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps, out = self.enLayer_4(x)
        return out + x, maps


class EncoderDecoder2(nn.Module):
    """The half-scale network with its quarter-scale bottom."""

    def __init__(self, config: SSIDKDConfig) -> None:
        super().__init__()
        _, c2, c4 = config.channels
        _, u2, u4 = config.units
        self.enLayer_2 = DenseConnection(c2, u2, config)
        self.enLayer_4 = DenseConnection(c4, u4, config)
        self.deLayer_2 = DenseConnection(c2, u2, config)
        self.catLayer_2 = ConvAct(u2 * c2, c4, 3)
        self.catLayer_3 = ConvAct(u4 * c4, c2, 3)

    def forward(
        self, x: Tensor, quarter_maps: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
        size = x.shape[-2:]
        encoded, _ = self.enLayer_2(x, fuse_last=False)
        down = [_bilinear(m, _half(size)) for m in encoded[1:]]
        bottom, _ = self.enLayer_4(self.catLayer_2(torch.cat(down, 1)), quarter_maps, fuse_last=False)
        up = [_bilinear(m, size) for m in bottom[1:]]
        decoded, out = self.deLayer_2(self.catLayer_3(torch.cat(up, 1)), encoded)
        return out + x, encoded, decoded, bottom


class EncoderDecoder1(nn.Module):
    """The full-scale network with its half- and quarter-scale levels; ``code`` is its innermost map."""

    def __init__(self, config: SSIDKDConfig) -> None:
        super().__init__()
        c1, c2, c4 = config.channels
        u1, u2, u4 = config.units
        self.enLayer_1 = DenseConnection(c1, u1, config)
        self.enLayer_2 = DenseConnection(c2, u2, config)
        self.enLayer_4 = DenseConnection(c4, u4, config)
        self.deLayer_2 = DenseConnection(c2, u2, config)
        self.deLayer_1 = DenseConnection(c1, u1, config)
        self.catLayer_1 = ConvAct(u1 * c1, c2, 3)
        self.catLayer_2 = ConvAct(u2 * c2, c4, 3)
        self.catLayer_3 = ConvAct(u4 * c4, c2, 3)
        self.catLayer_4 = ConvAct(u2 * c2, c1, 3)

    def forward(
        self,
        x: Tensor,
        half_encoded: Sequence[Tensor],
        half_decoded: Sequence[Tensor],
        half_bottom: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        size = x.shape[-2:]
        encoded, _ = self.enLayer_1(x, fuse_last=False)
        down = [_bilinear(m, _half(size)) for m in encoded[1:]]
        half_in = self.catLayer_1(torch.cat(down, 1))
        half, _ = self.enLayer_2(half_in, half_encoded, fuse_last=False)
        down = [_bilinear(m, _half(size, 2)) for m in half[1:]]
        bottom, _ = self.enLayer_4(self.catLayer_2(torch.cat(down, 1)), half_bottom, fuse_last=False)
        code = bottom[-1]
        up = [_bilinear(m, _half(size)) for m in bottom[1:]]
        decoded, out = self.deLayer_2(self.catLayer_3(torch.cat(up, 1)), half_decoded)
        # The residual sum takes the place of the last unit's map in the step up, as published.
        up = [_bilinear(m, size) for m in (*decoded[1:-1], out + half_in)]
        _, out = self.deLayer_1(self.catLayer_4(torch.cat(up, 1)), encoded)
        return out + x, code


class Tail(nn.Module):
    """The rain layer from the three scales' results."""

    def __init__(self, config: SSIDKDConfig) -> None:
        super().__init__()
        self.catLayer = ConvAct(sum(config.channels), 3, 3)

    def forward(self, full: Tensor, half: Tensor, quarter: Tensor) -> Tensor:
        size = full.shape[-2:]
        return self.catLayer(torch.cat([full, _bilinear(half, size), _bilinear(quarter, size)], 1))


class SSIDKD(nn.Module):
    """SID / SSID-KD: image N x 3 x H x W in [0, 1], H and W at least 32, to :class:`Derained`.

    ``clean = image - rain`` (eq. 1) is not clamped.
    """

    def __init__(self, config: SSIDKDConfig | None = None) -> None:
        super().__init__()
        self.config = config or SSIDKDConfig()
        self.head = Head(self.config)
        self.encoder_decoder_4 = EncoderDecoder4(self.config)
        self.encoder_decoder_2 = EncoderDecoder2(self.config)
        self.encoder_decoder_1 = EncoderDecoder1(self.config)
        self.tail = Tail(self.config)

    def forward(self, image: Tensor) -> Derained:
        full, half, quarter = self.head(image)
        d4, quarter_maps = self.encoder_decoder_4(quarter)
        d2, half_encoded, half_decoded, half_bottom = self.encoder_decoder_2(half, quarter_maps)
        d1, code = self.encoder_decoder_1(full, half_encoded, half_decoded, half_bottom)
        rain = self.tail(d1, d2, d4)
        return Derained(image - rain, rain, code)


# The layout of these networks in files. A state is *full* when every unit position of a dense connection is in it (as
# published: 2204 keys for 554 distinct tensors), and *compact* when shared units are there once, as ``units.0``.

_UNITS = "encoder_decoder_1.enLayer_1.units."
_SCALES: tuple[str, ...] = ("1", "2", "4")
_FIRST_UNIT = re.compile(r"(?P<dense>.+\.(?:en|de)Layer_(?P<scale>[124]))\.units\.0\.(?P<rest>.+)")
_UNIT_COPY = re.compile(r"(?P<dense>.+\.(?:en|de)Layer_[124])\.units\.[1-9]\d*\.(?P<rest>.+)")


def _normalise(config: Any) -> dict[str, Any]:
    if not isinstance(config, SSIDKDConfig):
        for name in ("channels", "units"):
            value = config.get(name, [1, 1, 1])
            if not isinstance(value, list | tuple) or not all(type(v) is int for v in value):
                raise ValueError(f"{name} needs three whole numbers, got {value!r}")
        if type(config.get("shared_units", True)) is not bool:
            raise ValueError(f"shared_units must be true or false, got {config['shared_units']!r}")
    return normalised(SSIDKDConfig, config)


def _deduce(state: StateDict, hints: ConfigValues) -> dict[str, Any]:
    """Return the normalised configuration of the network that ``state`` belongs to.

    Widths, unit counts and block kinds follow from the weights; ``hints`` fills in what leaves no trace in them
    (``pyramid``, ``activation``) and ``shared_units``, which is True unless a hint says otherwise.

    Raises:
        ValueError: a key that the deduction needs is missing or has an impossible shape, a hint contradicts the
            weights, or the copies of a shared unit differ.
    """
    channels = [_shape(state, f"head.convLayer_{scale}.0.weight")[0] for scale in _SCALES]
    units = []
    for number, width in enumerate(channels, start=1):
        key = f"encoder_decoder_1.catLayer_{number}.0.weight"
        incoming = _shape(state, key)[1]
        # A dense connection has keys of its own for every unit, so a count beyond the keys is a lie that
        # would only cost time to disprove.
        if incoming == 0 or incoming % width or incoming // width > len(state):
            raise ValueError(
                f"{key} has {incoming} input channels, which no number of units of {width} channels makes"
            )
        units.append(incoming // width)
    kinds = [kind for kind, part in (("pffb", "0"), ("mffb", "1")) if _has_part(state, f"unit.{part}.")]
    if not kinds:
        raise ValueError(f"{_UNITS}0 holds neither a PFFB (unit.0) nor an MFFB (unit.1)")
    known: dict[str, Any] = {
        "channels": channels,
        "units": units,
        "blocks": "both" if len(kinds) == 2 else kinds[0],
        "pffb_entry": "resblock" if _has_part(state, "unit.0.entry.") else "none",
    }
    config = _normalise({**known, **hints})
    for name, value in known.items():
        if config[name] != value:
            raise ValueError(
                f"{name} is {value!r} by the shapes of the weights, not {config[name]!r} as asked"
            )
    if config["shared_units"]:
        _check_copies(state)
    return config


def _compact(state: StateDict, config: ConfigValues) -> dict[str, Tensor]:
    """Return ``state`` with shared units once; unchanged where ``config`` does not share them."""
    shared = config["shared_units"]
    return {key: tensor for key, tensor in state.items() if not (shared and _UNIT_COPY.fullmatch(key))}


def _expand(state: StateDict, config: ConfigValues) -> dict[str, Tensor]:
    """Return a compact ``state`` with every unit position, as aliases of one tensor.

    A state that already holds some copies is returned as it is, so that a copy that it lacks stays missing.
    """
    full = dict(state)
    if not config["shared_units"] or any(_UNIT_COPY.fullmatch(key) for key in state):
        return full
    counts = dict(zip(_SCALES, config["units"], strict=True))
    for key, tensor in state.items():
        if found := _FIRST_UNIT.fullmatch(key):
            for position in range(1, counts[found["scale"]]):
                full[f"{found['dense']}.units.{position}.{found['rest']}"] = tensor
    return full


def _shape(state: StateDict, key: str) -> torch.Size:
    if key not in state:
        raise ValueError(f"{key} is missing")
    shape = state[key].shape
    if len(shape) != 4 or shape[2:] != (3, 3) or shape[0] == 0:
        raise ValueError(f"{key} has shape {tuple(shape)}, which is not a 3x3 convolution's")
    return shape


def _has_part(state: StateDict, part: str) -> bool:
    return any(key.startswith(f"{_UNITS}0.{part}") for key in state)


def _check_copies(state: StateDict) -> None:
    """Raise ValueError where positions that should hold one unit hold different weights.

    Copies of another shape than the first are left to the comparison with the network's own shapes.
    """
    differing = []
    for key, tensor in state.items():
        if found := _UNIT_COPY.fullmatch(key):
            first = state.get(f"{found['dense']}.units.0.{found['rest']}")
            if first is None or first is tensor or first.shape != tensor.shape:
                continue
            if not torch.equal(first, tensor):
                differing.append(key)
    if differing:
        raise ValueError(
            f"the units of a dense connection should be copies of one another, but {differing[0]} differs from "
            f"units.0 ({len(differing)} such tensors); where they were trained apart, say shared_units=false"
        )


def _bytes_per_pixel(config: ConfigValues) -> int:
    """Return the bytes of fp32 for a full-resolution pixel that activations take at once.

    The maps of the encoder layers live until their decoder layers have used them; on top comes what one unit
    works in: the MFFB's 2C and 4C maps or the PFFB's fusion of 4C, with as much again for layout conversion.
    """
    maps = sum(
        2 * (u + 1) * c / area
        for c, u, area in zip(config["channels"], config["units"], (1, 4, 16), strict=True)
    )
    working = 14 * config["channels"][0]
    return math.ceil(4 * (maps + working))


ARCHITECTURE = Architecture(
    name="ssid-kd",
    presets=MappingProxyType(PRESETS),
    protocol=PublishedProtocol(colour_order="bgr"),
    normalise=_normalise,
    make=lambda config: SSIDKD(SSIDKDConfig(**config)),
    # No other network is known to have such keys.
    matches=lambda state: any(key.startswith(_UNITS) for key in state),
    # The image enters through the head's three convolutions and leaves, as rain, through the tail's.
    swap_colours=colour_swap([f"head.convLayer_{scale}.0" for scale in _SCALES], ["tail.catLayer.0"]),
    bytes_per_pixel=_bytes_per_pixel,
    granularity=GRANULARITY,
    smallest_side=SMALLEST_SIDE,
    tile_overlap=TILE_OVERLAP,
    deduce=_deduce,
    compact=_compact,
    expand=_expand,
)

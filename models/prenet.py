"""The PReNet family of deraining networks, as plain PyTorch.

Ren, Zuo, Hu, Zhu, Meng, "Progressive Image Deraining Networks: A Better and Simpler Baseline", CVPR 2019; the derainer
of VRGNet (Wang, Yue, Xie, Zhao, Zheng, Meng, "From Rain Generation to Rain Removal", CVPR 2021) is one of them with a
head of its own. The modules' names follow the published checkpoints, so that a state dict of the authors loads key
for key. Every convolution is 3x3 with a bias and a padding of zeros, 32 maps wide; one stage (eqs. 2 and 3) is run
again and again on its own estimate.

All tensors are NCHW float, images RGB in [0, 1], of any size from 1x1 up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from .architecture import Architecture, PublishedProtocol, StateDict, check_whole, normalised

#: Maps of every layer but the first's input and the last's output.
WIDTH = 32
#: Residual blocks of a stage.
BLOCKS = 5
#: More stages than this are taken for a mistake; published networks have 5 to 7.
MOST_STAGES = 32

_PREFIX = "derainet."
_PROBE_SIDE = 96
#: float32 maps that live at once at full resolution: features, state, cell and their concatenation, the four gates, and
#: as much as the cell again for layout conversion.
_MAPS_ALIVE = 11


@dataclass(frozen=True)
class PReNetConfig:
    """The hyper-parameters of :class:`PReNet`.

    stages: how often the stage is run, which leaves no trace in the weights; published networks have 6 but for the
        ablations whose names say 5 or 7.
    """

    stages: int = 6

    def __post_init__(self) -> None:
        check_whole(self, stages=MOST_STAGES)


@dataclass(frozen=True)
class Variant:
    """A member of the family, by what sets it apart.

    recurrence: what carries features from stage to stage.
    recursive: one residual block run five times, instead of five blocks.
    sees_rain: a stage reads the rainy image beside the estimate.
    residual: a stage's estimate is the rainy image plus what it computes, instead of that alone.
    variational: the last stage's head gives the mean and the logarithm of the variance of the clean image.
    """

    recurrence: Literal["none", "lstm", "gru"] = "none"
    recursive: bool = False
    sees_rain: bool = True
    residual: bool = True
    variational: bool = False


#: By architecture name; ``vrgnet`` is that network's derainer.
VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "prn": Variant(),
        "prn-r": Variant(recursive=True),
        "prenet": Variant("lstm"),
        "prenet-r": Variant("lstm", recursive=True),
        "prenet-lstm": Variant("lstm", residual=False),
        "prenet-gru": Variant("gru", residual=False),
        "prenet-x": Variant("lstm", sees_rain=False, residual=False),
        "vrgnet": Variant("lstm", variational=True),
    }
)


def _conv(cin: int, cout: int = WIDTH, active: nn.Module | None = None) -> nn.Sequential:
    convolution = nn.Conv2d(cin, cout, 3, padding=1)
    return nn.Sequential(convolution) if active is None else nn.Sequential(convolution, active)


class PReNet(nn.Module):
    """Image N x 3 x H x W in [0, 1] to the estimate of the last stage, not clamped."""

    def __init__(self, variant: Variant, config: PReNetConfig | None = None) -> None:
        super().__init__()
        self.variant, self.config = variant, config or PReNetConfig()
        self.conv0 = _conv(6 if variant.sees_rain else 3, WIDTH, nn.ReLU())
        for number in range(1, 1 + (1 if variant.recursive else BLOCKS)):
            block = nn.Sequential(*_conv(WIDTH, WIDTH, nn.ReLU()), *_conv(WIDTH, WIDTH, nn.ReLU()))
            self.add_module(f"res_conv{number}", block)
        if variant.recurrence == "lstm":
            self.conv_i = _conv(2 * WIDTH, WIDTH, nn.Sigmoid())
            self.conv_f = _conv(2 * WIDTH, WIDTH, nn.Sigmoid())
            self.conv_g = _conv(2 * WIDTH, WIDTH, nn.Tanh())
            self.conv_o = _conv(2 * WIDTH, WIDTH, nn.Sigmoid())
        elif variant.recurrence == "gru":
            self.conv_z = _conv(2 * WIDTH, WIDTH, nn.Sigmoid())
            self.conv_b = _conv(2 * WIDTH, WIDTH, nn.Sigmoid())
            self.conv_g = _conv(2 * WIDTH, WIDTH, nn.Tanh())
        self.conv = _conv(WIDTH, 3)
        if variant.variational:
            self.convfinal = _conv(WIDTH, 6)

    def blocks(self) -> list[nn.Module]:
        """Return the residual blocks as a stage runs them; of a recursive network one, again and again."""
        numbers = [1] * BLOCKS if self.variant.recursive else range(1, BLOCKS + 1)
        return [self.get_submodule(f"res_conv{number}") for number in numbers]

    def forward(self, rainy: Tensor) -> Tensor:
        estimate = rainy
        hidden = cell = rainy.new_zeros(len(rainy), WIDTH, *rainy.shape[2:])
        for stage in range(self.config.stages):
            seen = torch.cat([rainy, estimate], 1) if self.variant.sees_rain else estimate
            x = self.conv0(seen)
            if self.variant.recurrence == "lstm":
                x, cell = self._lstm(x, hidden, cell)
                hidden = x
            elif self.variant.recurrence == "gru":
                x = hidden = self._gru(x, hidden)
            for block in self.blocks():
                # The block itself ends in a ReLU, too.
                x = torch.relu(block(x) + x)
            if self.variant.variational and stage + 1 == self.config.stages:
                change = self.convfinal(x)[:, :3]
            else:
                change = self.conv(x)
            estimate = change + rainy if self.variant.residual else change
        return estimate

    def _lstm(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden state and cell of the convolutional LSTM (section 3.2)."""
        both = torch.cat([x, hidden], 1)
        cell = self.conv_f(both) * cell + self.conv_i(both) * self.conv_g(both)
        return self.conv_o(both) * torch.tanh(cell), cell

    def _gru(self, x: Tensor, hidden: Tensor) -> Tensor:
        both = torch.cat([x, hidden], 1)
        update, reset = self.conv_z(both), self.conv_b(both)
        candidate = self.conv_g(torch.cat([reset * hidden, x], 1))
        return (1 - update) * hidden + update * candidate


class VRGNetDerainer(nn.Module):
    """The derainer of VRGNet: a PReNet with a head for mean and variance in its last stage; the mean is the result.

    Image N x 3 x H x W in [0, 1] to the clean image, not clamped.
    """

    def __init__(self, config: PReNetConfig | None = None) -> None:
        super().__init__()
        self.derainet = PReNet(VARIANTS["vrgnet"], config)
        self.config = self.derainet.config

    def forward(self, rainy: Tensor) -> Tensor:
        return self.derainet(rainy)


def reach(variant: Variant, stages: int) -> int:
    """Return the reach of the receptive field in pixels: 12 convolutions a stage, one more with an LSTM, and with a
    GRU, whose reset gate lies before its candidate, two but in the first stage, where there is no state to reset."""
    more = {"none": 0, "lstm": 1, "gru": 2}[variant.recurrence]
    return stages * (2 * BLOCKS + 2 + more) - (variant.recurrence == "gru")


def _matches(variant: Variant, state: StateDict) -> bool:
    """Tell whether the keys are this variant's; ``prenet`` and ``prenet-lstm`` have the same."""
    if variant.variational:
        return f"{_PREFIX}convfinal.0.weight" in state
    if not {"conv0.0.weight", "res_conv1.0.weight", "conv.0.weight"} <= state.keys():
        return False
    if "conv_z.0.weight" in state:
        recurrence = "gru"
    else:
        recurrence = "lstm" if "conv_i.0.weight" in state else "none"
    first = state["conv0.0.weight"]
    sees_rain = first.ndim < 2 or first.shape[1] != 3
    recursive = not any(key.startswith("res_conv2.") for key in state)
    return (recurrence, sees_rain, recursive) == (variant.recurrence, variant.sees_rain, variant.recursive)


def _swap_colours(state: StateDict) -> dict[str, Tensor]:
    """Return the state of the network for images of the opposite channel order. Images lie in threes in the first
    convolution's input and in the last ones' outputs."""
    swapped = dict(state)
    for key, tensor in state.items():
        name = key.removeprefix(_PREFIX)
        if name == "conv0.0.weight":
            swapped[key] = tensor.unflatten(1, (-1, 3)).flip(2).flatten(1, 2)
        elif name.startswith(("conv.0.", "convfinal.0.")):
            swapped[key] = tensor.unflatten(0, (-1, 3)).flip(1).flatten(0, 1)
    return swapped


def _probe(network: nn.Module) -> float:
    """Return the mean absolute change of a smooth grey ramp, which has no rain to take out. Published weights change it
    by 0.0045 to 0.011 in the network that they were trained in, and by 0.023 to 0.91 in the one with the same keys."""
    ramp = torch.linspace(0.2, 0.8, _PROBE_SIDE).expand(1, 3, _PROBE_SIDE, _PROBE_SIDE)
    with torch.inference_mode():
        return float((network(ramp) - ramp).abs().mean())


def _architecture(name: str, variant: Variant) -> Architecture:
    network = VRGNetDerainer if variant.variational else partial(PReNet, variant)
    return Architecture(
        name=name,
        presets={name: PReNetConfig()},
        protocol=PublishedProtocol(colour_order="rgb"),
        normalise=partial(normalised, PReNetConfig),
        make=lambda config: network(PReNetConfig(**config)),
        matches=partial(_matches, variant),
        swap_colours=_swap_colours,
        bytes_per_pixel=lambda config: 4 * _MAPS_ALIVE * WIDTH,
        exact_tiling_halo=lambda config: reach(variant, config["stages"]),
        probe=_probe,
    )


ARCHITECTURES = tuple(_architecture(name, variant) for name, variant in VARIANTS.items())

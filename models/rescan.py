"""RESCAN, a recurrent deraining network with squeeze-and-excitation, as plain PyTorch.

Li, Wu, Lin, Liu, Zha, "Recurrent Squeeze-and-Excitation Context Aggregation Net for Single Image Deraining", ECCV 2018,
in the configuration that its authors' code has as it stands: convolutional GRUs, 24 maps, four stages of which each
estimates the whole rain layer. The modules' names follow that code's state dict (88 keys). No trained weights of it
were at hand: its numbers of parameters and multiplications are the published code's, and that is what is known.

All tensors are NCHW float, images RGB in [0, 1], of any size from 1x1 up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, PublishedProtocol, check_whole, colour_swap, normalised

_WIDTH, _SQUEEZED = 24, 6
_SLOPE = 0.2
#: Of the convolutions that read a unit's input, unit by unit.
_DILATIONS = (1, 1, 2, 4, 8)
_MOST_STAGES = 32
#: Overlap of tiles in pixels, which the mean over the picture makes an approximation; not measured.
_TILE_OVERLAP = 64


@dataclass(frozen=True)
class RESCANConfig:
    """The hyper-parameters of :class:`RESCAN`.

    stages: how often the units are run, which leaves no trace in the weights.
    """

    stages: int = 4

    def __post_init__(self) -> None:
        check_whole(self, stages=_MOST_STAGES)


class SqueezeExcitation(nn.Module):
    """Every map times a number between 0 and 1 that follows from the means of all."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(_WIDTH, _SQUEEZED), nn.ReLU(), nn.Linear(_SQUEEZED, _WIDTH), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class ConvGRU(nn.Module):
    """A unit: convolutions dilated over the input, plain over the state."""

    def __init__(self, cin: int, dilation: int) -> None:
        super().__init__()
        for gate in "zrn":
            convolution = nn.Conv2d(cin, _WIDTH, 3, padding=dilation, dilation=dilation)
            self.add_module(f"conv_x{gate}", convolution)
            self.add_module(f"conv_h{gate}", nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1))
        self.se = SqueezeExcitation()

    def forward(self, x: Tensor, state: Tensor | None) -> Tensor:
        """Return the new state, the output too. Without a state it is the first stage, which resets nothing."""
        of = self.get_submodule
        if state is None:
            state = torch.sigmoid(of("conv_xz")(x)) * torch.tanh(of("conv_xn")(x))
        else:
            update = torch.sigmoid(of("conv_xz")(x) + of("conv_hz")(state))
            reset = torch.sigmoid(of("conv_xr")(x) + of("conv_hr")(state))
            candidate = torch.tanh(of("conv_xn")(x) + of("conv_hn")(reset * state))
            state = (1 - update) * state + update * candidate
        return F.leaky_relu(self.se(state), _SLOPE)


class RESCAN(nn.Module):
    """Image N x 3 x H x W in [0, 1] to the clean image, not clamped: image - the last stage's rain."""

    def __init__(self, config: RESCANConfig | None = None) -> None:
        super().__init__()
        self.config = config or RESCANConfig()
        self.rnns = nn.ModuleList(
            ConvGRU(_WIDTH if i else 3, dilation) for i, dilation in enumerate(_DILATIONS)
        )
        self.dec = nn.Sequential(
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
            SqueezeExcitation(),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(_WIDTH, 3, 1),
        )

    def forward(self, rainy: Tensor) -> Tensor:
        clean = rainy
        states: list[Tensor | None] = [None] * len(self.rnns)
        for _ in range(self.config.stages):
            x = clean
            for i, unit in enumerate(self.rnns):
                x = states[i] = unit(x, states[i])
            clean = rainy - self.dec(x)
        return clean


ARCHITECTURE = Architecture(
    name="rescan",
    presets={"rescan": RESCANConfig()},
    protocol=PublishedProtocol(colour_order="bgr"),
    normalise=partial(normalised, RESCANConfig),
    make=lambda config: RESCAN(RESCANConfig(**config)),
    matches=lambda state: "rnns.0.conv_xz.weight" in state,
    swap_colours=colour_swap([f"rnns.0.conv_x{gate}" for gate in "zrn"], ["dec.3"]),
    # Five states, and the gates and sums of one unit.
    bytes_per_pixel=lambda config: 4 * _WIDTH * 12,
    tile_overlap=_TILE_OVERLAP,
    trained=False,
)

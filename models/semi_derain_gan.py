"""Semi-DerainGAN's deraining networks, as plain PyTorch.

Wei, Zhang, Wang, Zhang, Zhao, Xu, Wang, "Semi-DerainGAN: A New Semi-supervised Single Image Deraining Network". A rain
mask learner that all rain shares (SSRML, eq. 2) and a U-Net for each domain (eq. 3): one for synthetic rain, one for
real rain. The authors published neither code nor weights. What the paper leaves open follows what it cites: the mask
learner is the attentive recurrent network of Qian, Tan, Yang, Su, Liu, "Attentive Generative Adversarial Network for
Raindrop Removal from a Single Image", CVPR 2018, with the names that its authors' code gives to its modules.

All tensors are NCHW float, images RGB in [0, 1]; no layer looks at statistics of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, ConfigValues, PublishedProtocol, StateDict, check_whole, normalised

#: Of the deepest U-Net that is allowed, so that frames of this granularity fit every one.
GRANULARITY = 16
#: A picture is reflected by up to 15 pixels, which has to be less than its side.
SMALLEST_SIDE = 16
DOMAINS = ("real", "synthetic")

_UNITS = 5
#: Every mask starts at this value.
_FIRST_MASK = 0.5
_GATES = "ifgo"
_MOST_ITERATIONS, _MOST_LEVELS = 32, 4
_GENERATOR = {"real": "g_r", "synthetic": "g_s"}
#: float32 maps that live at once at full resolution, in the mask learner (as of PReNet, which is built alike) and in
#: the U-Net: skip, upsampled map, their concatenation, what follows, and the deeper levels.
_MASK_MAPS, _UNET_MAPS = 11, 7


@dataclass(frozen=True)
class SemiDerainGANConfig:
    """The hyper-parameters of :class:`SemiDerainGAN`.

    iterations: of the mask learner, which leave no trace in the weights.
    width: of the mask learner's maps.
    base: maps of the U-Net's first level, twice as many at each of the ``levels`` below it.
    residual: the U-Net's output is the rain, taken away from the picture, instead of the clean picture; no trace.
    domain: which generator is run, ``real`` (G_r) or ``synthetic`` (G_s); files may hold both.
    """

    iterations: int = 4
    width: int = 32
    base: int = 32
    levels: int = 4
    residual: bool = False
    domain: Literal["real", "synthetic"] = "real"

    def __post_init__(self) -> None:
        check_whole(self, iterations=_MOST_ITERATIONS, width=1024, base=1024, levels=_MOST_LEVELS)
        if type(self.residual) is not bool:
            raise ValueError(f"residual must be true or false, got {self.residual!r}")
        if self.domain not in DOMAINS:
            raise ValueError(f"domain must be one of {', '.join(DOMAINS)}, got {self.domain!r}")


PRESETS = {
    "semi-derain-gan": SemiDerainGANConfig(),
    "semi-derain-gan-small": SemiDerainGANConfig(iterations=2, width=16, base=16, levels=3, residual=True),
}


def _conv(cin: int, cout: int, *active: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), *active)


def _twice(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(*_conv(cin, cout, nn.ReLU()), *_conv(cout, cout, nn.ReLU()))


class SSRML(nn.Module):
    """The semi-supervised rain mask learner (eq. 2): one LSTM unit and five Conv-ReLU-Conv-ReLU units, run again and
    again on the picture and its own last mask, with the same weights."""

    def __init__(self, iterations: int = 4, width: int = 32) -> None:
        super().__init__()
        self.iterations, self.width = iterations, width
        self.det_conv0 = _conv(4, width, nn.ReLU())
        for number in range(1, _UNITS + 1):
            self.add_module(f"det_conv{number}", _twice(width, width))
        for gate in _GATES:
            self.add_module(
                f"conv_{gate}", _conv(2 * width, width, nn.Tanh() if gate == "g" else nn.Sigmoid())
            )
        self.det_conv_mask = _conv(width, 1)

    def units(self) -> list[nn.Module]:
        """Return the five residual units in their order."""
        return [self.get_submodule(f"det_conv{number}") for number in range(1, _UNITS + 1)]

    def masks(self, image: Tensor) -> list[Tensor]:
        """Return the mask after every iteration, N x 1 x H x W each, of any range."""
        # A constant map of the picture's size that no exporter takes for one of the traced size.
        mask = 0 * image[:, :1] + _FIRST_MASK
        hidden = cell = image.new_zeros(len(image), self.width, *image.shape[2:])
        masks = []
        for _ in range(self.iterations):
            x = self.det_conv0(torch.cat([image, mask], 1))
            for unit in self.units():
                x = torch.relu(unit(x) + x)
            both = torch.cat([x, hidden], 1)
            i, f, g, o = (self.get_submodule(f"conv_{gate}")(both) for gate in _GATES)
            cell = f * cell + i * g
            hidden = o * torch.tanh(cell)
            mask = self.det_conv_mask(hidden)
            masks.append(mask)
        return masks

    def forward(self, image: Tensor) -> Tensor:
        """Return the last mask."""
        return self.masks(image)[-1]


class UNet(nn.Module):
    """A generator (eq. 3): levels of two convolutions, maxima of 2x2 between them, transposed convolutions back up."""

    def __init__(self, base: int = 32, levels: int = 4, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        widths = [base << level for level in range(levels + 1)]
        self.down = nn.ModuleList(_twice(cin, cout) for cin, cout in zip([4, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, 2) for width in widths[:-1])
        self.merge = nn.ModuleList(_twice(2 * width, width) for width in widths[:-1])
        self.out = nn.Conv2d(base, 3, 1)

    def forward(self, mask: Tensor, image: Tensor) -> Tensor:
        """Return the clean image, not clamped.

        Args:
            mask: N x 1 x H x W.
            image: N x 3 x H x W, sides of at least 16 (8 with three levels ...); sides that are no multiples of
                2**levels are reflected up to one, and the result is cut back.
        """
        height, width = image.shape[2:]
        step = 1 << len(self.up)
        x = torch.cat([image, mask], 1)
        if height % step or width % step:
            x = F.pad(x, (0, -width % step, 0, -height % step), mode="reflect")
        skips = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = self.merge[level](torch.cat([skips[level], self.up[level](x)], 1))
        y = self.out(x)
        if y.shape[2:] != image.shape[2:]:
            y = y[:, :, :height, :width]
        return image - y if self.residual else y


class SemiDerainGAN(nn.Module):
    """Image N x 3 x H x W in [0, 1] to the clean image of its configuration's domain, not clamped."""

    def __init__(self, config: SemiDerainGANConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SemiDerainGANConfig()
        self.ssrml = SSRML(config.iterations, config.width)
        self.add_module(_GENERATOR[config.domain], UNet(config.base, config.levels, config.residual))

    @property
    def generator(self) -> UNet:
        """G_r or G_s."""
        generator = self.get_submodule(_GENERATOR[self.config.domain])
        assert isinstance(generator, UNet)
        return generator

    def forward(self, rainy: Tensor) -> Tensor:
        return self.generator(self.ssrml(rainy), rainy)


def reach(config: SemiDerainGANConfig) -> int:
    """Return the reach of the receptive field in pixels: 13 convolutions an iteration; of the U-Net two at every level
    on the way down and up and at the bottom, and what a pixel's place in the cells of the pooling adds at most."""
    cell = 1 << config.levels
    return config.iterations * (2 * _UNITS + 3) + 4 * (cell - 1) + 2 * cell + cell - 1


def _matches(state: StateDict) -> bool:
    mask = {"ssrml.det_conv0.0.weight", "ssrml.det_conv_mask.0.weight"}
    return mask <= state.keys() and bool(_domains(state))


def _domains(state: StateDict) -> list[str]:
    """Return the domains that a state has a generator for."""
    return [domain for domain in DOMAINS if any(key.startswith(f"{_GENERATOR[domain]}.") for key in state)]


def _deduce(state: StateDict, hints: ConfigValues) -> ConfigValues:
    there = _domains(state)
    domain = hints.get("domain", there[0])
    if domain in DOMAINS and domain not in there:
        raise ValueError(f"it has no generator for {domain} rain, only for {there[0]} rain")
    first = _GENERATOR.get(domain, _GENERATOR[there[0]])
    known = dict(hints) | {"domain": domain}
    for name, key in (("width", "ssrml.det_conv0.0.weight"), ("base", f"{first}.down.0.0.weight")):
        if key in state and state[key].ndim:
            known[name] = state[key].shape[0]
    levels = {key.split(".")[2] for key in state if key.startswith(f"{first}.up.")}
    if levels:
        known["levels"] = len(levels)
    return known


def _of_the_domain(state: StateDict, config: ConfigValues) -> dict[str, Tensor]:
    """Return the state without the other domain's generator."""
    other = next(generator for domain, generator in _GENERATOR.items() if domain != config["domain"])
    return {key: tensor for key, tensor in state.items() if not key.startswith(f"{other}.")}


def _swap_colours(state: StateDict) -> dict[str, Tensor]:
    swapped = dict(state)
    for key, tensor in state.items():
        if key.endswith(("ssrml.det_conv0.0.weight", ".down.0.0.weight")):
            # The mask comes after the colours.
            swapped[key] = torch.cat([tensor[:, :3].flip(1), tensor[:, 3:]], 1)
        elif key.endswith((".out.weight", ".out.bias")):
            swapped[key] = tensor.flip(0)
    return swapped


ARCHITECTURE = Architecture(
    name="semi-derain-gan",
    presets=PRESETS,
    protocol=PublishedProtocol(colour_order="rgb", rounding="nearest"),
    normalise=partial(normalised, SemiDerainGANConfig),
    make=lambda config: SemiDerainGAN(SemiDerainGANConfig(**config)),
    matches=_matches,
    swap_colours=_swap_colours,
    bytes_per_pixel=lambda config: 4 * max(_MASK_MAPS * config["width"], _UNET_MAPS * config["base"]),
    granularity=GRANULARITY,
    smallest_side=SMALLEST_SIDE,
    exact_tiling_halo=lambda config: reach(SemiDerainGANConfig(**config)),
    deduce=_deduce,
    # A file keeps both generators, a network one.
    expand=_of_the_domain,
    trained=False,
)

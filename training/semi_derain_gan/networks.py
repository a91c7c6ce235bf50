"""The networks that Semi-DerainGAN trains: both deraining networks with the mask learner that they share, the generator
that puts the rain back, and the discriminators (section 3.1 of the paper). Images are N x 3 x H x W, RGB in [0, 1]."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ...models.semi_derain_gan import SSRML, SemiDerainGANConfig, UNet
from ..trainer import read_state

_SCALES, _SCALE_LAYERS, _PAIR_LAYERS = 3, 4, 6
_FIRST_DEVIATION = 0.02


class Domains(nn.Module):
    """The mask learner and the generators of synthetic and of real rain (eq. 2 and 3)."""

    def __init__(self, config: SemiDerainGANConfig) -> None:
        super().__init__()
        self.config = config
        self.ssrml = SSRML(config.iterations, config.width)
        self.g_s = UNet(config.base, config.levels, config.residual)
        self.g_r = UNet(config.base, config.levels, config.residual)

    def synthetic(self, rainy: Tensor) -> Tensor:
        """Compute G_s(SSRML(x), x)."""
        return self.g_s(self.ssrml(rainy), rainy)

    def real(self, rainy: Tensor) -> Tensor:
        """Compute G_r(SSRML(x), x)."""
        return self.g_r(self.ssrml(rainy), rainy)


class Rebuilder(nn.Module):
    """The generator G_r': the rainy picture of the derained one, by a mask learner of its own and a U-Net."""

    def __init__(self, config: SemiDerainGANConfig) -> None:
        super().__init__()
        self.ssrml = SSRML(config.iterations, config.width)
        self.unet = UNet(config.base, config.levels, config.residual)

    def forward(self, derained: Tensor) -> Tensor:
        return self.unet(self.ssrml(derained), derained)


class MultiScaleDiscriminator(nn.Module):
    """The discriminators D_s and D_r: networks of five convolutions on the picture and on its halves and quarters.

    Lee, Tseng, Huang, Singh, Yang, "Diverse Image-to-Image Translation via Disentangled Representations", ECCV 2018.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.scales = nn.ModuleList(_judge(3, width, _SCALE_LAYERS, 4) for _ in range(_SCALES))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the logits, N x 1 x h x w, of each scale from the finest on."""
        judged = []
        for scale, judge in enumerate(self.scales):
            if scale:
                image = F.avg_pool2d(image, 3, 2, 1, count_include_pad=False)
            judged.append(judge(image))
        return judged


class PairDiscriminator(nn.Module):
    """The discriminator D_p: seven spectrally normalised convolutions on a rainy picture and a clean or derained one.

    Gu, Wang, Chiu, Tai, Tang, "LADN: Local Adversarial Disentangling Network for Facial Makeup and De-Makeup", ICCV
    2019.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.judge = _judge(6, width, _PAIR_LAYERS, 3, normalised=True)

    def forward(self, rainy: Tensor, other: Tensor) -> list[Tensor]:
        """Return the logits, N x 1 x h x w, of the one scale."""
        return [self.judge(torch.cat([rainy, other], 1))]


def _judge(cin: int, width: int, layers: int, side: int, normalised: bool = False) -> nn.Sequential:
    """Make convolutions of stride 2, each twice as wide as the one before it, and a 1x1 to the logits."""
    parts: list[nn.Module] = []
    for layer in range(layers):
        cout = width << layer
        parts += [_initialised(nn.Conv2d(cin, cout, side, 2, 1, padding_mode="reflect"), normalised)]
        parts += [nn.LeakyReLU(0.01)]
        cin = cout
    return nn.Sequential(*parts, _initialised(nn.Conv2d(cin, 1, 1), normalised))


def _initialised(convolution: nn.Conv2d, normalised: bool) -> nn.Module:
    nn.init.normal_(convolution.weight, 0.0, _FIRST_DEVIATION)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return spectral_norm(convolution) if normalised else convolution


def load_mask_learner(ssrml: SSRML, path: Path) -> None:
    """Begin with the attentive recurrent network of published raindrop-removal weights, whose pictures are BGR.

    Raises:
        CheckpointError: the file cannot be read, or holds no such network of this width.
    """
    found = read_state(path, ssrml.state_dict(), f"mask learner of {ssrml.width} maps")
    first = found["det_conv0.0.weight"]
    found["det_conv0.0.weight"] = torch.cat([first[:, :3].flip(1), first[:, 3:]], 1)
    ssrml.load_state_dict(found)

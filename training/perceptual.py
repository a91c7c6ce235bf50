"""Features that pictures are compared by (eq. 7 and 11 of the Semi-DerainGAN paper): the first layers of VGG-16.

The paper takes them from VGG-16 trained on ImageNet, at a layer ``conv 2,3`` that VGG-16 does not have; the default
here is the output of its second block (relu2_2), as in Johnson, Alahi, Fei-Fei, "Perceptual Losses for Real-Time Style
Transfer and Super-Resolution", ECCV 2016. The trained weights are for the user to give. Without them the same layers
have random weights, always the same ones: such features still compare the structure of patches of 14x14 pixels at all
orientations and edges rather than single pixels (Liu, Chen, Chen, Yin, Shen, "A Generic Perceptual Loss for Modeling
Structured Output Dependencies", CVPR 2021), but know nothing of what pictures show, and their squares have another
scale, so that the weights of the paper do not mean the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .options import Layer
from .trainer import read_state

#: Of VGG-16's ``features``, the layers that are needed for each.
_DEPTH: Mapping[Layer, int] = {"conv2_2": 8, "relu2_2": 9, "relu3_3": 16}
#: Widths of the convolutions, each with a ReLU; 0 is a pooling.
_LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256)
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SEED = 16


class Features(nn.Module):
    """The output of a layer, for RGB pictures in [0, 1]; never trained.

    weights: a PyTorch or safetensors file with torchvision's names (``features.0.weight`` ...); random ones without.

    Raises:
        CheckpointError: the file cannot be read or holds no VGG-16.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, weights: Path | None = None, layer: Layer = "relu2_2") -> None:
        super().__init__()
        parts: list[nn.Module] = []
        cin = 3
        for width in _LAYERS:
            parts += [nn.Conv2d(cin, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2)]
            cin = width or cin
        self.features = nn.Sequential(*parts[: _DEPTH[layer]])
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(3, 1, 1), persistent=False)
        if weights is None:
            generator = torch.Generator().manual_seed(_SEED)
            for name, parameter in self.features.named_parameters():
                if name.endswith("weight"):
                    nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
                else:
                    nn.init.zeros_(parameter)
        else:
            expected = self.features.state_dict()
            self.features.load_state_dict(read_state(weights, expected, "VGG-16", "features."))
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        return self.features((image - self.mean) / self.deviation)


def perceptual_loss(features: nn.Module, target: Tensor, image: Tensor) -> Tensor:
    """Compute the mean squared difference of features (eq. 7 and 11, whose sum over them is a mean here); gradients go
    into ``image`` alone. N x 3 x H x W both."""
    with torch.no_grad():
        wanted = features(target)
    return F.mse_loss(features(image), wanted)

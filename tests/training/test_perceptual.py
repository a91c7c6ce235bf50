"""The perceptual losses of the Semi-DerainGAN paper (eq. 7 and 11) and the features that they compare."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from derain_engine.base.errors import CheckpointError
from derain_engine.training.perceptual import Features, perceptual_loss


def vgg16(path: Path) -> dict[str, torch.Tensor]:
    """Save a file with the names and shapes of torchvision's, scaled-down random weights, and more than the layers."""
    torch.manual_seed(3)
    shapes = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256)}
    shapes |= {14: (256, 256), 17: (512, 256)}
    state = {}
    for number, (cout, cin) in shapes.items():
        state[f"features.{number}.weight"] = torch.randn(cout, cin, 3, 3) / (3 * cin**0.5)
        state[f"features.{number}.bias"] = torch.randn(cout) / 10
    torch.save(state | {"classifier.0.bias": torch.zeros(2)}, path)
    return state


def test_perceptual_loss_eq_7_and_11(tmp_path: Path) -> None:
    state = vgg16(tmp_path / "vgg16.pth")
    x, y = torch.rand(2, 1, 3, 18, 22)

    def conv(number: int, image: torch.Tensor) -> torch.Tensor:
        return F.conv2d(
            image, state[f"features.{number}.weight"], state[f"features.{number}.bias"], padding=1
        )

    def relu2_2(image: torch.Tensor) -> torch.Tensor:
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        image = (image - mean) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        image = F.max_pool2d(conv(2, conv(0, image).relu()).relu(), 2)
        return conv(7, conv(5, image).relu()).relu()

    features = Features(tmp_path / "vgg16.pth")
    torch.testing.assert_close(features(x), relu2_2(x))
    assert features(x).shape == (1, 128, 9, 11)
    x.requires_grad_()
    y.requires_grad_()
    loss = perceptual_loss(features, x, y)
    torch.testing.assert_close(loss, ((relu2_2(x) - relu2_2(y)) ** 2).mean())
    loss.backward()
    assert x.grad is None and y.grad is not None and y.grad.abs().sum() > 0
    before = Features(tmp_path / "vgg16.pth", "conv2_2")(x)
    torch.testing.assert_close(before.relu(), relu2_2(x))
    assert Features(tmp_path / "vgg16.pth", "relu3_3")(x).shape == (1, 256, 4, 5)


def test_features_without_weights_are_always_the_same_and_tell_structure() -> None:
    torch.manual_seed(1)
    one = Features()
    torch.manual_seed(2)
    other = Features()
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(one(x), other(x)) and not any(each.requires_grad for each in one.parameters())
    blurred = F.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
    assert perceptual_loss(one, x, blurred) > 10 * perceptual_loss(one, x, x + 0.01) > 0


def test_files_of_other_networks_hold_no_features(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "less.pt")
    with pytest.raises(CheckpointError, match=r"less\.pt holds no VGG-16: features\.0\.bias"):
        Features(tmp_path / "less.pt")

"""Eq. 2 to 12 of the Semi-DerainGAN paper, but for the perceptual ones: losses and networks against their formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from derain_engine.base.errors import CheckpointError
from derain_engine.models.semi_derain_gan import SSRML, SemiDerainGANConfig, UNet
from derain_engine.training.options import SMALLEST_GAN_PATCH
from derain_engine.training.semi_derain_gan.losses import (
    cycle_loss,
    fooling_loss,
    judging_loss,
    mask_loss,
    smoothness_loss,
)
from derain_engine.training.semi_derain_gan.networks import (
    Domains,
    MultiScaleDiscriminator,
    PairDiscriminator,
    Rebuilder,
    load_mask_learner,
)

CONFIG = SemiDerainGANConfig(iterations=2, width=4, base=4, levels=2)


def count(module: torch.nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def test_masks_and_generators_eq_2_and_3() -> None:
    torch.manual_seed(0)
    domains, rebuilder = Domains(CONFIG), Rebuilder(CONFIG)
    x = torch.rand(2, 3, 20, 24)
    mask = domains.ssrml(x)
    torch.testing.assert_close(domains.synthetic(x), domains.g_s(mask, x))
    torch.testing.assert_close(domains.real(x), domains.g_r(mask, x))
    assert not torch.allclose(domains.real(x), domains.synthetic(x), atol=1e-3)
    torch.testing.assert_close(rebuilder(x), rebuilder.unet(rebuilder.ssrml(x), x))


def test_discriminators_have_the_sizes_of_their_sources() -> None:
    judge, pair = MultiScaleDiscriminator(), PairDiscriminator()
    assert count(judge) == 3 * 2_757_057
    assert count(pair) == 25_150_785
    maps = judge(torch.rand(2, 3, 100, 100))
    assert [tuple(each.shape) for each in maps] == [(2, 1, 6, 6), (2, 1, 3, 3), (2, 1, 1, 1)]
    assert judge.scales[0](torch.rand(1, 3, 100, 100)).std() > 0
    # The scales are networks of their own, on pooled pictures whose padding is not counted.
    x = torch.rand(1, 3, 64, 64)
    half = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    torch.testing.assert_close(judge(x)[1], judge.scales[1](half))


def test_the_smallest_patch() -> None:
    judge, pair = MultiScaleDiscriminator(2), PairDiscriminator(2)
    fits, less = (torch.rand(1, 3, side, side) for side in (SMALLEST_GAN_PATCH, SMALLEST_GAN_PATCH - 1))
    assert all(each.numel() for each in (*judge(fits), *pair(fits, fits)))
    with pytest.raises(RuntimeError):
        judge(less)


def test_the_pair_is_judged_together_with_normalised_weights() -> None:
    torch.manual_seed(0)
    pair = PairDiscriminator(4)
    x, y = torch.rand(2, 1, 3, 64, 64)
    for _ in range(60):
        (first,) = pair(x, y)
    assert not torch.allclose(pair(y, x)[0], first)
    for layer in pair.judge:
        if isinstance(layer, torch.nn.Conv2d):
            assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(
                1, abs=0.05
            )


def test_adversarial_losses_eq_4_and_5() -> None:
    torch.manual_seed(0)
    real, fake = ([torch.randn(2, 1, side, side) for side in (6, 3, 1)] for _ in range(2))
    # E[log D(y)] + E[log(1 - D(G))], which discriminators raise.
    value = sum(
        torch.log(torch.sigmoid(r)).mean() + torch.log(1 - torch.sigmoid(f)).mean()
        for r, f in zip(real, fake, strict=True)
    )
    torch.testing.assert_close(judging_loss(real, fake), -torch.as_tensor(value))
    expected = sum(-torch.log(torch.sigmoid(f)).mean() for f in fake)
    torch.testing.assert_close(fooling_loss(fake), torch.as_tensor(expected))
    extreme = [torch.tensor([[[[-500.0]]]])]
    assert judging_loss(extreme, [-each for each in extreme]).isfinite()


def test_cycle_and_smoothness_eq_10_and_12() -> None:
    torch.manual_seed(0)
    a, b = torch.rand(2, 2, 3, 7, 9)
    torch.testing.assert_close(cycle_loss(a, b), (a - b).abs().mean())
    rows = torch.stack([(a[:, :, y + 1] - a[:, :, y]) ** 2 for y in range(6)]).mean()
    columns = torch.stack([(a[..., x + 1] - a[..., x]) ** 2 for x in range(8)]).mean()
    torch.testing.assert_close(smoothness_loss(a), rows + columns)
    assert smoothness_loss(torch.full((1, 3, 4, 4), 0.3)) == 0


def test_mask_loss_weighs_later_masks_more() -> None:
    clean = torch.zeros(1, 3, 2, 2)
    rainy = clean.clone()
    rainy[:, 1, 0, 0], rainy[:, 2, 1, 1] = 0.2, 0.05
    wrong, right = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    assert float(mask_loss([right, right], rainy, clean, 0.1)) == 0
    assert float(mask_loss([wrong, right], rainy, clean, 0.1)) == pytest.approx(0.8 / 4)
    assert float(mask_loss([right, wrong], rainy, clean, 0.1)) == pytest.approx(1 / 4)


def test_files_of_other_networks_hold_no_mask_learner(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "less.pt")
    with pytest.raises(CheckpointError, match=r"less\.pt holds no mask learner of 4 maps"):
        load_mask_learner(SSRML(2, 4), tmp_path / "less.pt")


def test_published_mask_learners_see_bgr(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = SSRML(2, 4)
    beyond = {f"conv1.{key}": tensor for key, tensor in UNet(4, 1).state_dict().items()}
    torch.save({**theirs.state_dict(), **beyond}, tmp_path / "gen.pkl")
    ours = SSRML(2, 4)
    load_mask_learner(ours, tmp_path / "gen.pkl")
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(ours(x), theirs(x.flip(1)))

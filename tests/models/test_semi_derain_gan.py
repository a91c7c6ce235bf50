"""Semi-DerainGAN's networks: their sizes, what they compute, how their files are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from derain_engine.base.errors import CheckpointError
from derain_engine.models import registry, semi_derain_gan
from derain_engine.models.checkpoint import load_checkpoint, save_checkpoint
from derain_engine.models.macs import macs_per_pixel
from derain_engine.models.semi_derain_gan import (
    PRESETS,
    SSRML,
    SemiDerainGAN,
    SemiDerainGANConfig,
    UNet,
    reach,
)

TINY = SemiDerainGANConfig(iterations=2, width=4, base=4, levels=2)


def strong(module: nn.Module, gain: float = 1.6) -> nn.Module:
    for each in module.modules():
        if isinstance(each, nn.Conv2d | nn.ConvTranspose2d):
            each.weight.data.mul_(gain)
    return module.eval().requires_grad_(False)


def network(config: SemiDerainGANConfig = TINY, **changes: Any) -> SemiDerainGAN:
    torch.manual_seed(0)
    made = SemiDerainGAN(SemiDerainGANConfig(**{**vars(config), **changes}))
    strong(made)
    return made


def test_sizes() -> None:
    """Compare the mask learner's with its source's, and the U-Net's with what was counted by hand."""
    made = SemiDerainGAN()
    assert sum(each.numel() for each in made.ssrml.parameters()) == 167_809
    assert sum(each.numel() for each in made.generator.parameters()) == 7_760_451
    spec = registry.spec_of("semi-derain-gan", {})
    assert macs_per_pixel(made, spec) == 4 * 167_328 + 184_544
    assert {"ssrml.det_conv0.0.weight", "ssrml.det_conv5.2.bias", "ssrml.conv_o.0.bias"} <= set(
        made.state_dict()
    )


def by_formula(state: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """Compute the network of two levels and two iterations once more, from a state's tensors alone."""

    def conv(key: str, *maps: torch.Tensor, padding: int = 1) -> torch.Tensor:
        return F.conv2d(torch.cat(maps, 1), state[f"{key}.weight"], state[f"{key}.bias"], padding=padding)

    def twice(key: str, *maps: torch.Tensor) -> torch.Tensor:
        return conv(f"{key}.2", conv(f"{key}.0", *maps).relu()).relu()

    mask = torch.full_like(image[:, :1], 0.5)
    h = c = torch.zeros(len(image), 4, *image.shape[2:])
    for _ in range(2):
        x = conv("ssrml.det_conv0.0", image, mask).relu()
        for number in range(1, 6):
            x = (twice(f"ssrml.det_conv{number}", x) + x).relu()
        i, f, o = (conv(f"ssrml.conv_{gate}.0", x, h).sigmoid() for gate in "ifo")
        c = f * c + i * conv("ssrml.conv_g.0", x, h).tanh()
        h = o * c.tanh()
        mask = conv("ssrml.det_conv_mask.0", h)
    first = twice("g_r.down.0", image, mask)
    second = twice("g_r.down.1", F.max_pool2d(first, 2))
    x = twice("g_r.down.2", F.max_pool2d(second, 2))
    for level, skip in ((1, second), (0, first)):
        up = torch.zeros(len(x), skip.shape[1], *skip.shape[2:])
        weight, bias = state[f"g_r.up.{level}.weight"], state[f"g_r.up.{level}.bias"]
        for dy in (0, 1):
            for dx in (0, 1):
                up[:, :, dy::2, dx::2] = torch.einsum("nchw,cd->ndhw", x, weight[:, :, dy, dx])
        x = twice(f"g_r.merge.{level}", skip, up + bias[:, None, None])
    return conv("g_r.out", x, padding=0)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (20, 36)])
def test_computes_the_formulas(height: int, width: int) -> None:
    made = network()
    image = torch.rand(2, 3, height, width)
    expected = by_formula(dict(made.state_dict()), image)
    assert expected.std() > 0.01
    torch.testing.assert_close(made(image), expected, rtol=1e-5, atol=1e-6)
    rain = network(residual=True)
    torch.testing.assert_close(rain(image), image - expected, rtol=1e-5, atol=1e-6)


def test_the_mask_matters_and_is_of_every_iteration() -> None:
    made = network()
    image = torch.rand(1, 3, 16, 16)
    masks = made.ssrml.masks(image)
    assert len(masks) == 2 and all(mask.shape == (1, 1, 16, 16) for mask in masks)
    assert torch.equal(masks[-1], made.ssrml(image)) and not torch.allclose(masks[0], masks[1])
    assert not torch.allclose(made.generator(masks[0], image), made.generator(masks[1], image), atol=1e-5)


@pytest.mark.parametrize("size", [(16, 17), (23, 33), (31, 50)])
def test_other_sides_are_reflected_up_and_cut_back(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    generator = strong(UNet(4, 4))
    mask, image = torch.rand(1, 1, *size), torch.rand(1, 3, *size)
    padding = (0, -size[1] % 16, 0, -size[0] % 16)
    whole = generator(*(F.pad(each, padding, mode="reflect") for each in (mask, image)))
    torch.testing.assert_close(generator(mask, image), whole[:, :, : size[0], : size[1]])


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_reach_of_the_receptive_field(levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide no path, by equal weights and means for maxima, and try every place in a cell of the pooling."""
    config = SemiDerainGANConfig(1, 1, 1, levels)
    made = SemiDerainGAN(config).double()
    for each in made.parameters():
        each.data.fill_(0.01)
    monkeypatch.setattr(semi_derain_gan.F, "max_pool2d", lambda x, side: F.avg_pool2d(x, side))
    cell, middle = 1 << levels, 16 << levels
    far = 0
    for place in range(middle, middle + cell):
        image = torch.full((1, 3, 16, 32 * cell), 0.5, dtype=torch.double, requires_grad=True)
        made(image)[0, 0, 0, place].backward()
        assert image.grad is not None
        touched = image.grad.abs().sum((0, 1, 2)).nonzero().flatten()
        far = max(far, place - int(touched[0]), int(touched[-1]) - place)
    assert far == reach(config)
    assert reach(SemiDerainGANConfig()) == 4 * 13 + 107


@pytest.mark.parametrize("residual", [False, True])
def test_swapped_colours_give_the_network_for_the_other_order(residual: bool) -> None:
    made = network(residual=residual)
    swapped = SemiDerainGAN(made.config).eval()
    architecture = registry.architecture_of("semi-derain-gan")
    swapped.load_state_dict(architecture.swap_colours(made.state_dict()))
    image = torch.rand(1, 3, 16, 32)
    torch.testing.assert_close(swapped(image.flip(1)).flip(1), made(image), rtol=1e-4, atol=1e-5)


def both(**changes: Any) -> dict[str, torch.Tensor]:
    """Make a state with both generators."""
    real = network(**changes).state_dict()
    torch.manual_seed(5)
    synthetic = strong(UNet(TINY.base, TINY.levels)).state_dict()
    return {**real, **{f"g_s.{key}": tensor for key, tensor in synthetic.items()}}


def test_a_file_of_both_domains_is_read_for_either(tmp_path: Path) -> None:
    torch.save(both(), tmp_path / "both.pt")
    real = load_checkpoint(tmp_path / "both.pt", options={"iterations": 2})
    assert real.spec.config == vars(TINY) and real.colour_order == "rgb"
    assert (real.spec.granularity, real.spec.smallest_side) == (16, 16)
    assert real.spec.exact_tiling_halo == reach(TINY)
    image = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(real.network(image), network()(image))
    synthetic = load_checkpoint(tmp_path / "both.pt", options={"iterations": 2, "domain": "synthetic"})
    assert not torch.allclose(synthetic.network(image), real.network(image), atol=1e-3)
    assert real.weights_sha256 != synthetic.weights_sha256


def test_own_files_keep_what_leaves_no_trace(tmp_path: Path) -> None:
    made = network(residual=True)
    save_checkpoint(tmp_path / "real.safetensors", made, "semi-derain-gan", metadata={})
    found = load_checkpoint(tmp_path / "real.safetensors")
    assert found.spec.config == vars(made.config)
    with pytest.raises(CheckpointError, match="no generator for synthetic rain"):
        load_checkpoint(tmp_path / "real.safetensors", options={"domain": "synthetic"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations must be"),
        ({"domain": "dense"}, "domain must be one of"),
        ({"residual": 1}, "residual must be"),
        ({"depth": 3}, "unknown option depth"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    torch.save(both(), tmp_path / "both.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "both.pt", options=options)


def test_missing_keys_are_named_and_relatives_not_recognised(tmp_path: Path) -> None:
    state = both()
    del state["ssrml.conv_i.0.bias"]
    torch.save(state, tmp_path / "less.pt")
    with pytest.raises(CheckpointError, match=r"missing: 1 key \(ssrml.conv_i.0.bias\)"):
        load_checkpoint(tmp_path / "less.pt")
    alone = {f"ssrml.{key}": tensor for key, tensor in SSRML(2, 4).state_dict().items()}
    assert registry.recognise(alone) == []


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_made(name: str) -> None:
    spec = registry.spec_of("semi-derain-gan", PRESETS[name])
    assert isinstance(registry.create(spec), SemiDerainGAN) and spec.bytes_per_pixel > 0

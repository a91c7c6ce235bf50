"""RESCAN has its published size, computes its formulas, and reads its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from derain_engine.engine.inspect import describe
from derain_engine.models import registry
from derain_engine.models.checkpoint import load_checkpoint
from derain_engine.models.macs import macs_per_pixel
from derain_engine.models.rescan import RESCAN, RESCANConfig


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    made = RESCAN(RESCANConfig(3)).eval().requires_grad_(False)
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.mul_(1.6)
    return made


def test_size_is_the_published_one() -> None:
    spec = registry.spec_of("rescan", {})
    made = registry.create(spec)
    assert len(made.state_dict()) == 88
    assert sum(each.numel() for each in made.parameters()) == 149_823
    assert macs_per_pixel(made, spec) == 489_528


@pytest.mark.parametrize("size", [(1, 1), (9, 17)])
def test_computes_the_formulas(network: nn.Module, size: tuple[int, int]) -> None:
    state, rainy = network.state_dict(), torch.rand(2, 3, *size)

    def conv(x: torch.Tensor, key: str, by: int = 1) -> torch.Tensor:
        weight = state[f"{key}.weight"]
        return F.conv2d(x, weight, state[f"{key}.bias"], padding=by * (weight.shape[2] // 2), dilation=by)

    def excited(x: torch.Tensor, key: str) -> torch.Tensor:
        factors = x.mean((2, 3))
        for i, act in ((0, torch.relu), (2, torch.sigmoid)):
            factors = act(factors @ state[f"{key}.fc.{i}.weight"].T + state[f"{key}.fc.{i}.bias"])
        return x * factors[..., None, None]

    states: dict[int, torch.Tensor] = {}
    x = rainy
    for _ in range(3):
        for i, by in enumerate((1, 1, 2, 4, 8)):
            h = states.get(i)
            xz, xr, xn = (conv(x, f"rnns.{i}.conv_x{gate}", by) for gate in "zrn")
            if h is None:
                h = xz.sigmoid() * xn.tanh()
            else:
                z = (xz + conv(h, f"rnns.{i}.conv_hz")).sigmoid()
                r = (xr + conv(h, f"rnns.{i}.conv_hr")).sigmoid()
                h = (1 - z) * h + z * (xn + conv(r * h, f"rnns.{i}.conv_hn")).tanh()
            x = states[i] = F.leaky_relu(excited(h, f"rnns.{i}.se"), 0.2)
        rain = conv(F.leaky_relu(excited(conv(x, "dec.0"), "dec.1"), 0.2), "dec.3")
        x = rainy - rain
    assert rain.abs().max() > 0.02
    torch.testing.assert_close(network(rainy), x, rtol=1e-5, atol=1e-6)


def test_published_files_are_for_bgr_and_wrapped(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "latest.pt"
    torch.save({"net": network.state_dict(), "clock": 3, "opt": {}}, path)
    found = load_checkpoint(path, options={"stages": 3})
    assert (found.spec.architecture, found.colour_order) == ("rescan", "bgr")
    image = torch.rand(1, 3, 8, 9)
    torch.testing.assert_close(found.network(image), network(image.flip(1)).flip(1), rtol=1e-5, atol=1e-6)
    facts = describe(path)
    assert facts["tried_with_trained_weights"] is False
    assert facts["published_protocol"]["colour_order"] == "bgr"
    with pytest.raises(ValueError, match="stages must be"):
        registry.spec_of("rescan", {"stages": 0})

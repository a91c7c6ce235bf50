"""NLEDN has its published size, attends in blocks and in cells, and reads its files."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import nn

from derain_engine.models import nledn, registry
from derain_engine.models.checkpoint import load_checkpoint
from derain_engine.models.nledn import NLEDN, NonLocal, RegionNonLocal

Part = TypeVar("Part", bound=nn.Module)


def strong(module: Part, gain: float) -> Part:
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            each.weight.data.mul_(gain)
    return module.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def network() -> NLEDN:
    torch.manual_seed(0)
    return strong(NLEDN(), 1.3)


def test_size_is_the_published_one(network: NLEDN) -> None:
    state = network.state_dict()
    assert len(state) == 122
    assert sum(each.numel() for each in state.values()) == 1_005_379
    assert state["up_1.region_non_local.non_local_block.theta.weight"].shape == (32, 64, 1, 1)
    assert "down_3.non_local.W.weight" in state


def attention(block: NonLocal, x: torch.Tensor) -> torch.Tensor:
    """Attend by PyTorch's own attention."""
    queries, keys, values = (part(x).flatten(2).transpose(1, 2) for part in (block.theta, block.phi, block.g))
    y = nn.functional.scaled_dot_product_attention(queries, keys, values, scale=1.0)
    return block.W(y.transpose(1, 2).reshape(len(x), 32, *x.shape[2:])) + x


@pytest.mark.parametrize("products", [1, 40, 1 << 24])
@pytest.mark.parametrize("size", [(2, 2), (5, 7), (6, 16)])
def test_attention_in_blocks_is_exact(
    products: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    block, x = strong(NonLocal(), 3), torch.randn(2, 64, *size)
    monkeypatch.setattr(nledn, "_MOST_PRODUCTS", products)
    found = block(x)
    assert (found - x).abs().max() > 0.1
    torch.testing.assert_close(found, attention(block, x), rtol=1e-5, atol=1e-5)


def test_cells_attend_within_themselves() -> None:
    """Cut 19 rows into chunks of 5 and a last one of 4, and 9 columns into three chunks of 3, not four."""
    torch.manual_seed(2)
    region, x = strong(RegionNonLocal(4), 2), torch.randn(1, 64, 19, 9)
    found, block = region(x), region.non_local_block
    assert isinstance(block, NonLocal)
    for top, bottom in ((0, 5), (5, 10), (10, 15), (15, 19)):
        for left in (0, 3, 6):
            cell = x[:, :, top:bottom, left : left + 3]
            expected = attention(block, cell)
            torch.testing.assert_close(
                found[:, :, top:bottom, left : left + 3], expected, rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (33, 47)])
def test_sizes_from_16_on(network: NLEDN, size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *size)
    clean = network(image)
    assert clean.shape == image.shape and clean.isfinite().all()
    assert ((image - clean).abs() <= 1).all() and (image - clean).std() > 0.01


def test_sizes_below_16_have_no_cells(network: NLEDN) -> None:
    with pytest.raises(RuntimeError):
        network(torch.rand(1, 3, 15, 15))


def test_maxima_go_back_to_where_they_were(network: NLEDN) -> None:
    x = torch.tensor([[1.0, 2.0, 0.0, 0.0], [4.0, 3.0, 0.0, 0.0]])[None, None]
    pooled, at = network.pool(x)
    back = network.unpool(pooled * 10, at, x)
    # Of equal values the first counts.
    assert back[0, 0].tolist() == [[0, 0, 0, 0], [40, 0, 0, 0]]
    assert pooled[0, 0].tolist() == [[4, 0]]
    assert network.unpool(pooled + 1, at, x)[0, 0].tolist() == [[0, 0, 1, 0], [5, 0, 0, 0]]


def test_swapped_colours_give_the_network_for_the_other_order(network: NLEDN) -> None:
    swapped = NLEDN().eval()
    swapped.load_state_dict(registry.architecture_of("nledn").swap_colours(network.state_dict()))
    image = torch.rand(1, 3, 16, 32)
    torch.testing.assert_close(swapped(image.flip(1)).flip(1), network(image), rtol=1e-4, atol=1e-5)


def test_files_are_recognised(network: NLEDN, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "net_DDN.pth")
    found = load_checkpoint(tmp_path / "net_DDN.pth")
    spec = found.spec
    assert (spec.architecture, spec.config, spec.granularity, spec.smallest_side) == ("nledn", {}, 16, 16)
    assert spec.exact_tiling_halo is None and found.colour_order == "rgb"
    with pytest.raises(ValueError, match="unknown option depth"):
        registry.spec_of("nledn", {"depth": 1})


@pytest.mark.slow
def test_the_published_file_loads_and_leaves_a_ramp_alone(shared_data: Path) -> None:
    found = load_checkpoint(shared_data / "weights" / "nledn" / "Rain100H.pth")
    ramp = torch.linspace(0.2, 0.8, 96).expand(1, 3, 96, 96)
    with torch.inference_mode():
        assert 0.005 < float((found.network(ramp) - ramp).abs().mean()) < 0.007

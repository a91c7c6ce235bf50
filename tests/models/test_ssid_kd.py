"""The SSID-KD reference against its specification: an implementation of its own from formulas, counts, keys."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from derain_engine.models.ssid_kd import PRESETS, SMALLEST_SIDE, SSIDKD, SSIDKDConfig, UnitBlock

SMALL = SSIDKDConfig(channels=(4, 5, 6), units=(3, 2, 2))
DEAD = [
    "encoder_decoder_1.enLayer_1.conv1x1.9",
    "encoder_decoder_1.enLayer_2.conv1x1.3",
    "encoder_decoder_1.enLayer_4.conv1x1.1",
    "encoder_decoder_2.enLayer_2.conv1x1.3",
    "encoder_decoder_2.enLayer_4.conv1x1.1",
]


def loud(module: torch.nn.Module) -> torch.nn.Module:
    """Scale all convolution weights by 1.6, without which deep blocks hardly move the output."""
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.weight.data.mul_(1.6)
    return module


# A second implementation, from the formulas alone: convolution as a matrix product over shifted copies, pooling and
# both resizes by index arithmetic. State dict in, no modules.


def conv(x: Tensor, state: dict[str, Tensor], key: str) -> Tensor:
    weight, bias = state[f"{key}.weight"], state[f"{key}.bias"]
    k = weight.shape[-1]
    n, c, h, w = x.shape
    padded = x.new_zeros(n, c, h + k - 1, w + k - 1)
    padded[..., k // 2 : k // 2 + h, k // 2 : k // 2 + w] = x
    out = bias[None, :, None, None].expand(n, -1, h, w)
    for dy, dx in itertools.product(range(k), range(k)):
        out = out + torch.einsum("oc,nchw->nohw", weight[:, :, dy, dx], padded[..., dy : dy + h, dx : dx + w])
    return out


def leaky(x: Tensor) -> Tensor:
    return torch.where(x >= 0, x, 0.2 * x)


def pool(x: Tensor, k: int) -> Tensor:
    h, w = x.shape[-2] // k, x.shape[-1] // k
    return x[..., : h * k, : w * k].reshape(*x.shape[:2], h, k, w, k).amax((3, 5))


def nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = ([d * i // o for d in range(o)] for o, i in zip(size, x.shape[-2:], strict=True))
    return x[..., rows, :][..., columns]


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    for axis, out in zip((-2, -1), size, strict=True):
        n = x.shape[axis]
        source = ((torch.arange(out, dtype=x.dtype) + 0.5) * n / out - 0.5).clamp(min=0)
        low = source.floor().long()
        high = (low + 1).clamp(max=n - 1)
        share = (source - low).reshape((-1, 1) if axis == -2 else (-1,))
        x = x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share
    return x


def pffb(x: Tensor, s: dict[str, Tensor], p: str) -> Tensor:
    def four(x: Tensor, scale: int) -> Tensor:
        for i in range(4):
            x = leaky(conv(x, s, f"{p}scale{scale}.{i}.0"))
        return x

    def size(x: Tensor) -> tuple[int, int]:
        return x.shape[-2], x.shape[-1]

    e = x
    if f"{p}entry.0.0.weight" in s:
        e = leaky(conv(x, s, f"{p}entry.0.0"))
        e = e + conv(leaky(conv(e, s, f"{p}entry.1.conv_1")), s, f"{p}entry.1.conv_2")
    p2, p4, p8 = pool(e, 2), pool(e, 4), pool(e, 8)
    s8 = four(p8, 8)
    s4 = four(leaky(conv(torch.cat([p4, nearest(s8, size(p4))], 1), s, f"{p}fusion84.0")), 4)
    s2 = four(leaky(conv(torch.cat([p2, nearest(s4, size(p2))], 1), s, f"{p}fusion42.0")), 2)
    s1 = four(leaky(conv(torch.cat([e, nearest(s2, size(x))], 1), s, f"{p}fusion21.0")), 1)
    every = torch.cat([s1, *(nearest(m, size(x)) for m in (s2, s4, s8))], 1)
    return leaky(conv(every, s, f"{p}fusion_all.0")) + x


def mffb(x: Tensor, s: dict[str, Tensor], p: str, slope: float) -> Tensor:
    def act(x: Tensor) -> Tensor:
        return torch.where(x >= 0, x, slope * x)

    m = torch.cat([act(conv(x, s, f"{p}conv_3_1")), act(conv(x, s, f"{p}conv_5_1"))], 1)
    n = torch.cat([act(conv(m, s, f"{p}conv_3_2")), act(conv(m, s, f"{p}conv_5_2"))], 1)
    return conv(n, s, f"{p}confusion") + x


def unit(x: Tensor, s: dict[str, Tensor], p: str, slope: float = 0.2) -> Tensor:
    if f"{p}unit.0.scale8.0.0.weight" in s:
        x = pffb(x, s, f"{p}unit.0.")
    if f"{p}unit.1.confusion.weight" in s:
        x = mffb(x, s, f"{p}unit.1.", slope)
    return x


def network(image: Tensor, s: dict[str, Tensor], config: SSIDKDConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Clean image, rain and code by section 1 of the published graph."""
    slope = 0.0 if config.activation == "relu" else 0.2
    h, w = image.shape[-2:]
    counts = dict(zip("124", config.units, strict=True))

    def dense(x: Tensor, p: str, extra: list[Tensor] | None = None) -> tuple[list[Tensor], Tensor]:
        kept, out = [x], x
        for i in range(counts[p[-1]]):
            kept.append(unit(out if extra is None else out + extra[i + 1], s, f"{p}.units.{i}.", slope))
            out = leaky(conv(torch.cat(kept, 1), s, f"{p}.conv1x1.{i}.0"))
        return kept, out

    def cat(maps: list[Tensor], size: tuple[int, int], key: str) -> Tensor:
        return leaky(conv(torch.cat([bilinear(m, size) for m in maps], 1), s, f"{key}.0"))

    full, half, quarter = (h, w), (h // 2, w // 2), (h // 4, w // 4)
    if config.pyramid == "maxpool":
        images = (image, pool(image, 2), pool(pool(image, 2), 2))
    else:
        images = (image, bilinear(image, half), bilinear(image, quarter))
    fea1, fea2, fea4 = (
        leaky(conv(x, s, f"head.convLayer_{n}.0")) for n, x in zip("124", images, strict=True)
    )

    list4, out = dense(fea4, "encoder_decoder_4.enLayer_4")
    d4 = out + fea4

    e = "encoder_decoder_2"
    list2, _ = dense(fea2, f"{e}.enLayer_2")
    inner = (half[0] // 2, half[1] // 2)
    list42, _ = dense(cat(list2[1:], inner, f"{e}.catLayer_2"), f"{e}.enLayer_4", list4)
    more2, out = dense(cat(list42[1:], half, f"{e}.catLayer_3"), f"{e}.deLayer_2", list2)
    d2 = out + fea2

    e = "encoder_decoder_1"
    enc1, _ = dense(fea1, f"{e}.enLayer_1")
    e2in = cat(enc1[1:], half, f"{e}.catLayer_1")
    enc2, _ = dense(e2in, f"{e}.enLayer_2", list2)
    enc4, _ = dense(cat(enc2[1:], quarter, f"{e}.catLayer_2"), f"{e}.enLayer_4", list42)
    dec2, out2 = dense(cat(enc4[1:], half, f"{e}.catLayer_3"), f"{e}.deLayer_2", more2)
    step_up = cat([*dec2[1:-1], out2 + e2in], full, f"{e}.catLayer_4")
    _, out1 = dense(step_up, f"{e}.deLayer_1", enc1)
    d1 = out1 + fea1

    rain = cat([d1, d2, d4], full, "tail.catLayer")
    return image - rain, rain, enc4[-1]


def check_against_formulas(config: SSIDKDConfig, height: int, width: int) -> None:
    torch.manual_seed(0)
    net = loud(SSIDKD(config)).double().eval()
    image = torch.rand(1, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        found = net(image)
        expected = network(image, net.state_dict(), config)
    for name, a, b in zip(("clean", "rain", "code"), found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("size", [(32, 64), (37, 51)])
def test_network_equals_the_formulas(size: tuple[int, int]) -> None:
    check_against_formulas(SMALL, *size)


@pytest.mark.parametrize("pyramid", ["bilinear", "maxpool"])
@pytest.mark.parametrize(
    "kind",
    [
        {"blocks": "both"},
        {"blocks": "both", "pffb_entry": "resblock", "activation": "relu"},
        {"blocks": "both", "shared_units": False},
        {"blocks": "pffb"},
        {"blocks": "pffb", "pffb_entry": "resblock"},
        {"blocks": "mffb"},
        {"blocks": "mffb", "activation": "relu"},
    ],
    ids=lambda kind: "-".join(str(value) for value in kind.values()),
)
def test_every_option_equals_the_formulas(pyramid: str, kind: dict) -> None:
    check_against_formulas(SSIDKDConfig((2, 3, 2), (2, 1, 1), pyramid=pyramid, **kind), 32, 36)  # pyright: ignore


@pytest.mark.parametrize("size", [(8, 8), (11, 13), (23, 9)])
def test_unit_block_equals_the_formulas(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    block = loud(UnitBlock(5, SSIDKDConfig())).double()
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = unit(x, block.state_dict(), "")
        torch.testing.assert_close(block(x), expected, rtol=1e-11, atol=1e-11)


def test_nearest_rule_of_the_formulas_is_floor() -> None:
    row = torch.arange(3.0).reshape(1, 1, 1, 3)
    assert nearest(row, (1, 7)).flatten().tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_sid_has_the_published_size() -> None:
    with torch.device("meta"):
        net = SSIDKD(PRESETS["sid"])
        unshared = SSIDKD(SSIDKDConfig(shared_units=False))
        block = UnitBlock(7, SSIDKDConfig())
    assert sum(p.numel() for p in net.parameters()) == 4_433_779
    state = net.state_dict(keep_vars=True)
    assert len(state) == 2204
    assert len({id(tensor) for tensor in state.values()}) == 554
    assert sum(tensor.numel() for tensor in state.values()) == 14_158_003
    assert sum(p.numel() for p in unshared.parameters()) == 14_158_003
    assert unshared.state_dict().keys() == state.keys()
    assert sum(p.numel() for p in block.parameters()) == 328 * 7**2 + 27 * 7
    for key, shape in {
        "encoder_decoder_1.enLayer_1.units.9.unit.0.scale8.0.0.weight": (24, 24, 3, 3),
        "encoder_decoder_1.catLayer_1.0.weight": (32, 240, 3, 3),
        "encoder_decoder_1.enLayer_1.conv1x1.9.0.weight": (24, 264, 1, 1),
        "encoder_decoder_2.catLayer_3.0.bias": (32,),
        "tail.catLayer.0.weight": (3, 104, 3, 3),
    }.items():
        assert state[key].shape == shape


@pytest.mark.parametrize(
    ("config", "macs"),
    [(PRESETS["sid"], 3_915_683), (SSIDKDConfig((16, 16, 16), (1, 1, 1)), 193_388)],
    ids=["sid", "small"],
)
def test_multiply_accumulates_without_dead_convolutions(config: SSIDKDConfig, macs: int) -> None:
    with torch.device("meta"):
        net, image = SSIDKD(config), torch.empty(1, 3, 64, 64)
    with FlopCounterMode(display=False) as counter:
        net(image)
    assert counter.get_total_flops() == 2 * macs * 64 * 64


def test_dead_convolutions_of_sid() -> None:
    torch.manual_seed(2)
    net = SSIDKD(PRESETS["sid"])
    image = torch.rand(1, 3, 32, 32)
    out = net(image)
    (out.clean.square().mean() + out.code.square().mean()).backward()
    without = {name: p.numel() for name, p in net.named_parameters() if p.grad is None}
    assert set(without) == {f"{key}.0.{kind}" for key in DEAD for kind in ("weight", "bias")}
    assert sum(without.values()) == 30_584
    for name in without:
        net.get_parameter(name).data.fill_(float("nan"))
    with torch.no_grad():
        again = net(image)
    assert torch.equal(again.clean, out.clean)
    assert torch.equal(again.code, out.code)


def test_smallest_side() -> None:
    net = SSIDKD(SSIDKDConfig((2, 2, 2), (1, 1, 1)))
    out = net(torch.rand(2, 3, SMALLEST_SIDE, SMALLEST_SIDE))
    assert out.clean.shape == out.rain.shape == (2, 3, SMALLEST_SIDE, SMALLEST_SIDE)
    assert out.code.shape == (2, 2, SMALLEST_SIDE // 4, SMALLEST_SIDE // 4)
    with pytest.raises(RuntimeError):
        net(torch.rand(1, 3, SMALLEST_SIDE, SMALLEST_SIDE - 1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": (4, 4)},
        {"channels": (4, 0, 4)},
        {"units": (1, 1, 1, 1)},
        {"blocks": "none"},
        {"pyramid": "nearest"},
        {"pffb_entry": "conv"},
        {"activation": "gelu"},
    ],
)
def test_impossible_configurations_name_their_field(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SSIDKDConfig(**wrong)

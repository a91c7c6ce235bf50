"""The PReNet family: its published sizes, what it computes, how its files are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from derain_engine.base.errors import CheckpointError, InputError
from derain_engine.models import registry
from derain_engine.models.checkpoint import load_checkpoint, save_checkpoint
from derain_engine.models.macs import macs_per_pixel
from derain_engine.models.prenet import VARIANTS, PReNet, PReNetConfig, VRGNetDerainer, reach

#: Keys, parameters and multiply-adds a pixel of every variant with six stages, as of the published files.
PUBLISHED = {
    "prn": (24, 95_107, 568_512),
    "prn-r": (8, 21_123, 568_512),
    "prenet": (32, 168_963, 1_010_880),
    "prenet-lstm": (32, 168_963, 1_010_880),
    "prenet-r": (16, 94_979, 1_010_880),
    "prenet-gru": (30, 150_499, 900_288),
    "prenet-x": (32, 168_099, 1_005_696),
    "vrgnet": (34, 170_697, 1_011_744),
}


def network(name: str, stages: int = 2, scale: float = 1.6) -> nn.Module:
    """Random weights that change the picture visibly."""
    torch.manual_seed(0)
    made = registry.create(registry.spec_of(name, {"stages": stages}))
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.mul_(scale)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("name", VARIANTS)
def test_sizes_are_the_published_ones(name: str) -> None:
    spec = registry.spec_of(name, {})
    made = registry.create(spec)
    keys, parameters, macs = PUBLISHED[name]
    assert len(made.state_dict()) == keys
    assert sum(each.numel() for each in made.parameters()) == parameters
    assert macs_per_pixel(made, spec) == macs


@pytest.mark.parametrize("name", VARIANTS)
def test_keys_and_shapes_tell_the_variant(name: str) -> None:
    state = dict(network(name).state_dict())
    twins = ["prenet", "prenet-lstm"]
    assert [each.name for each in registry.recognise(state)] == (twins if name in twins else [name])
    # A key that is missing is for the comparison with the network to name.
    del state[next(key for key in state if key.endswith("res_conv1.2.bias"))]
    assert len(registry.recognise(state)) == (2 if name in twins else 1)


def test_relatives_are_not_recognised() -> None:
    state = dict(network("prn").state_dict())
    for key in ("conv0.0.weight", "res_conv1.0.weight", "conv.0.weight"):
        assert registry.recognise({each: tensor for each, tensor in state.items() if each != key}) == []


def by_formula(name: str, state: dict[str, torch.Tensor], rainy: torch.Tensor, stages: int) -> torch.Tensor:
    """Compute the networks once more, from the papers' formulas and a state's tensors alone."""
    variant = VARIANTS[name]
    state = {key.removeprefix("derainet."): tensor for key, tensor in state.items()}

    def conv(key: str, *maps: torch.Tensor) -> torch.Tensor:
        image = torch.cat(maps, 1)
        return F.conv2d(image, state[f"{key}.weight"], state[f"{key}.bias"], padding=1)

    height, width = rainy.shape[2:]
    h = c = torch.zeros(len(rainy), 32, height, width)
    estimate = rainy
    for stage in range(stages):
        seen = (rainy, estimate) if variant.sees_rain else (estimate,)
        x = conv("conv0.0", *seen).relu()
        if variant.recurrence == "lstm":
            i, f, o = (conv(f"conv_{gate}.0", x, h).sigmoid() for gate in "ifo")
            c = f * c + i * conv("conv_g.0", x, h).tanh()
            x = h = o * c.tanh()
        elif variant.recurrence == "gru":
            z, b = (conv(f"conv_{gate}.0", x, h).sigmoid() for gate in "zb")
            g = conv("conv_g.0", b * h, x).tanh()
            x = h = (1 - z) * h + z * g
        for number in (1,) * 5 if variant.recursive else range(1, 6):
            inner = conv(f"res_conv{number}.0", x).relu()
            x = (conv(f"res_conv{number}.2", inner).relu() + x).relu()
        last = variant.variational and stage == stages - 1
        estimate = conv("convfinal.0", x)[:, :3] if last else conv("conv.0", x)
        if variant.residual:
            estimate = estimate + rainy
    return estimate


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 13)])
@pytest.mark.parametrize("name", VARIANTS)
def test_computes_the_formulas(name: str, height: int, width: int) -> None:
    made = network(name, stages=3)
    image = torch.rand(2, 3, height, width)
    expected = by_formula(name, dict(made.state_dict()), image, 3)
    assert (expected - image).abs().max() > 0.05
    torch.testing.assert_close(made(image), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["prn", "prenet", "prenet-gru"])
def test_the_reach_of_the_receptive_field(name: str) -> None:
    made = network(name, stages=2, scale=1.0)
    expected = reach(VARIANTS[name], 2)
    assert expected == {"prn": 24, "prenet": 26, "prenet-gru": 27}[name]
    image = torch.full((1, 3, 60, 1), 0.5).expand(-1, -1, -1, 60).double().clone().requires_grad_()
    # Without ReLU's zeros, which may hide a path.
    made = _without_kinks(made.double())
    made(image)[0, 0, 30, 30].backward()
    assert image.grad is not None
    touched = image.grad.abs().sum((0, 1)).nonzero()
    low, high = touched.min(0).values, touched.max(0).values
    assert (30 - low).tolist() == (high - 30).tolist() == [expected, expected]


def _without_kinks(made: nn.Module) -> nn.Module:
    for module in made.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus())
    return made


@pytest.mark.parametrize("name", VARIANTS)
def test_swapped_colours_give_the_network_for_the_other_order(name: str) -> None:
    architecture = registry.architecture_of(name)
    rgb, bgr = network(name), network(name)
    bgr.load_state_dict(architecture.swap_colours(rgb.state_dict()))
    image = torch.rand(1, 3, 9, 8)
    torch.testing.assert_close(bgr(image.flip(1)).flip(1), rgb(image), rtol=1e-5, atol=1e-5)
    assert (rgb(image.flip(1)).flip(1) - rgb(image)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"stages": 0}, "stages must be"),
        ({"stages": 33}, "stages must be"),
        ({"stages": 2.5}, "stages must be"),
        ({"stages": True}, "stages must be"),
        ({"width": 3}, "unknown option width; there is stages"),
    ],
)
def test_configurations_that_cannot_be_are_refused(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.spec_of("prenet", config)


def saved(folder: Path, made: nn.Module) -> Path:
    path = folder / "net_latest.pth"
    torch.save(made.state_dict(), path)
    return path


def test_twins_are_told_apart_by_a_try(tmp_path: Path) -> None:
    # Close to nothing: as PReNet the picture itself, as PReNet_LSTM close to black.
    path = saved(tmp_path, network("prenet", scale=0.01))
    found = load_checkpoint(path)
    assert (found.spec.architecture, found.colour_order, found.spec.config) == (
        "prenet",
        "rgb",
        {"stages": 6},
    )
    told = load_checkpoint(path, arch="prenet-lstm", options={"stages": 3})
    assert (told.spec.architecture, told.spec.config) == ("prenet-lstm", {"stages": 3})
    assert isinstance(told.network, PReNet) and told.network.config == PReNetConfig(3)
    assert told.weights_sha256 == found.weights_sha256


def test_twins_that_a_try_does_not_tell_apart_are_refused(tmp_path: Path) -> None:
    made = network("prenet", scale=0.0)
    # Half the picture's mean: as PReNet it is half too bright, as PReNet_LSTM half too dark.
    made.get_parameter("conv.0.bias").data.fill_(0.25)
    path = saved(tmp_path, made)
    with pytest.raises(CheckpointError, match="--arch prenet or --arch prenet-lstm"):
        load_checkpoint(path)
    assert load_checkpoint(path, arch="prenet").spec.architecture == "prenet"


def test_an_architecture_that_the_keys_are_not_of_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, network("prn"))
    with pytest.raises(CheckpointError, match="of prn by its keys, not of prenet-r"):
        load_checkpoint(path, arch="prenet-r")
    with pytest.raises(InputError, match="no architecture 'PReNet'; there is ssid-kd, prn"):
        load_checkpoint(path, arch="PReNet")
    with pytest.raises(CheckpointError, match="does not fit prn: unknown option width"):
        load_checkpoint(path, options={"width": 1})


def test_our_own_files_say_which_twin_they_are(tmp_path: Path) -> None:
    made = network("prenet-lstm", stages=4)
    save_checkpoint(tmp_path / "net.safetensors", made, "prenet-lstm", metadata={})
    found = load_checkpoint(tmp_path / "net.safetensors")
    assert (found.spec.architecture, found.spec.config) == ("prenet-lstm", {"stages": 4})
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(found.network(image), made(image))


def test_vrgnets_derainer_has_a_class_of_its_own() -> None:
    made = network("vrgnet", stages=3)
    assert isinstance(made, VRGNetDerainer) and made.config.stages == 3


@pytest.mark.slow
def test_published_files_load_as_what_they_are_and_leave_a_ramp_alone(shared_data: Path) -> None:
    expected = {
        "prenet/Rain100H_PRN6.pth": "prn",
        "prenet/Rain100H_PReNet6.pth": "prenet",
        "prenet/Rain100L_PReNet6.pth": "prenet",
        "prenet/Rain100H_PReNet6_r.pth": "prenet-r",
        "prenet/Ablation_PReNet6_LSTM.pth": "prenet-lstm",
        "prenet/Ablation_PReNet6_GRU.pth": "prenet-gru",
        "vrgnet/syn100h_DerainNet_700.pt": "vrgnet",
    }
    for name, architecture in expected.items():
        found = load_checkpoint(_there(shared_data / "weights" / name))
        assert found.spec.architecture == architecture
        probe = registry.architecture_of(architecture).probe
        assert probe is not None and probe(found.network) < 0.011


def _there(path: Path) -> Path:
    """Find the file, under whatever suffix it was published."""
    return next(path.parent.glob(f"{path.stem}.*"))

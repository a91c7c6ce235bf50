"""Recognising SSID-KD networks by their keys and deducing their configuration from shapes."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch

from derain_engine.models import registry
from derain_engine.models.spec import ModelSpec
from derain_engine.models.ssid_kd import GRANULARITY, PRESETS, SMALLEST_SIDE, SSIDKD, SSIDKDConfig

ARCHITECTURE = registry.architectures()["ssid-kd"]
COPY = "encoder_decoder_2.deLayer_2.units.1.unit.1.confusion.weight"


def config(**changes: Any) -> SSIDKDConfig:
    return SSIDKDConfig(**{"channels": (2, 3, 4), "units": (3, 2, 1), **changes})


def state_of(config: SSIDKDConfig) -> dict[str, torch.Tensor]:
    return dict(SSIDKD(config).state_dict())


def test_recognises_by_keys_full_and_compact() -> None:
    for blocks in ("both", "pffb", "mffb"):
        full = state_of(config(blocks=blocks))
        compact = ARCHITECTURE.compact(full, ARCHITECTURE.normalise(config(blocks=blocks)))
        assert len(compact) < len(full)
        assert registry.recognise(full) == registry.recognise(compact) == [ARCHITECTURE]


def test_relatives_are_not_recognised() -> None:
    weight = torch.zeros(24, 24, 3, 3)
    assert registry.recognise({"encoder_scale1.units.0.unit.0.scale8.0.0.weight": weight}) == []
    assert registry.recognise({"encoder_decoder_1.weight": weight, "head.convLayer_1.0.weight": weight}) == []
    assert registry.recognise({}) == []


@pytest.mark.parametrize("compacted", [False, True])
def test_configuration_follows_from_shapes(compacted: bool) -> None:
    for blocks, entry, widths, units in itertools.product(
        ("both", "pffb", "mffb"), ("none", "resblock"), ((2, 3, 4), (3, 3, 3)), ((3, 2, 1), (1, 1, 2))
    ):
        if blocks == "mffb" and entry == "resblock":
            continue  # the entry is a part of the PFFB
        made = config(blocks=blocks, pffb_entry=entry, channels=widths, units=units)
        expected = ARCHITECTURE.normalise(made)
        state = state_of(made)
        if compacted:
            state = ARCHITECTURE.compact(state, expected)
        assert ARCHITECTURE.deduce(state, {}) == expected


def test_hints_fill_in_what_shapes_do_not_tell() -> None:
    found = ARCHITECTURE.deduce(state_of(config()), {"pyramid": "maxpool", "activation": "relu"})
    assert found == ARCHITECTURE.normalise(config(pyramid="maxpool", activation="relu"))


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ({"channels": [2, 3, 5]}, r"channels is \[2, 3, 4\] by the shapes"),
        ({"units": [9, 2, 1]}, "units is"),
        ({"blocks": "pffb"}, "blocks is 'both'"),
        ({"pffb_entry": "resblock"}, "pffb_entry is 'none'"),
        ({"pyramid": "cubic"}, "pyramid must be one of"),
        ({"channels": 5}, "three whole numbers"),
        ({"units": [1.5, 1, 1]}, "three whole numbers"),
        ({"shared_units": "false"}, "shared_units must be true or false"),
        ({"depth": 3}, "unknown option depth; there are channels, units"),
    ],
)
def test_hints_that_cannot_be_are_refused(hints: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ARCHITECTURE.deduce(state_of(config()), hints)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("head.convLayer_2.0.weight", None, "head.convLayer_2.0.weight is missing"),
        ("head.convLayer_2.0.weight", (3,), "not a 3x3 convolution"),
        ("head.convLayer_1.0.weight", (0, 3, 3, 3), "not a 3x3 convolution"),
        ("encoder_decoder_1.catLayer_1.0.weight", (3, 7, 3, 3), "7 input channels"),
        ("encoder_decoder_1.catLayer_1.0.weight", (3, 0, 3, 3), "0 input channels"),
        # More units than the file has keys: refused before a network of that depth is made.
        ("encoder_decoder_1.catLayer_1.0.weight", (1, 2_000_000, 3, 3), "2000000 input channels"),
    ],
)
def test_impossible_shapes_are_refused(key: str, shape: tuple | None, message: str) -> None:
    state = state_of(config())
    if shape is None:
        del state[key]
    else:
        state[key] = torch.zeros(1).expand(shape)
    with pytest.raises(ValueError, match=message):
        ARCHITECTURE.deduce(state, {})


def test_unit_copies_that_differ() -> None:
    state = state_of(config())
    assert state[COPY] is not None
    state[COPY] = state[COPY].clone()
    assert ARCHITECTURE.deduce(state, {})["shared_units"] is True
    state[COPY][0, 0, 0, 0] += 1e-7
    with pytest.raises(
        ValueError, match=rf"{COPY} differs from units.0 \(1 such tensors\).*shared_units=false"
    ):
        ARCHITECTURE.deduce(state, {})
    assert ARCHITECTURE.deduce(state, {"shared_units": False})["shared_units"] is False


def test_compact_and_expand_are_inverse() -> None:
    named = ARCHITECTURE.normalise(PRESETS["sid"])
    with torch.device("meta"):
        full = SSIDKD(PRESETS["sid"]).state_dict()
    compact = ARCHITECTURE.compact(full, named)
    assert (len(full), len(compact)) == (2204, 554)
    again = ARCHITECTURE.expand(compact, named)
    assert again.keys() == full.keys()
    first, last = (f"encoder_decoder_1.deLayer_1.units.{i}.unit.0.fusion42.0.bias" for i in (0, 9))
    assert again[first] is again[last] is compact[first]
    unshared = {**named, "shared_units": False}
    assert ARCHITECTURE.compact(full, unshared).keys() == full.keys()
    assert ARCHITECTURE.expand(compact, unshared).keys() == compact.keys()


def test_expand_does_not_make_up_a_copy_that_a_full_state_lacks() -> None:
    state = state_of(config())
    del state[COPY]
    assert COPY not in ARCHITECTURE.expand(state, ARCHITECTURE.normalise(config()))


def test_swapped_colours_give_the_network_for_the_other_order() -> None:
    torch.manual_seed(0)
    rgb, bgr = SSIDKD(config()).double(), SSIDKD(config()).double()
    bgr.load_state_dict(ARCHITECTURE.swap_colours(rgb.state_dict()))
    image = torch.rand(1, 3, 32, 64, dtype=torch.float64)
    with torch.no_grad():
        a, b, unswapped = rgb(image), bgr(image.flip(1)), rgb(image.flip(1))
    torch.testing.assert_close(b.clean.flip(1), a.clean)
    torch.testing.assert_close(b.rain.flip(1), a.rain)
    torch.testing.assert_close(b.code, a.code)
    assert (unswapped.clean.flip(1) - a.clean).abs().max() > 1e-3
    twice = ARCHITECTURE.swap_colours(ARCHITECTURE.swap_colours(rgb.state_dict()))
    assert all(torch.equal(twice[key], tensor) for key, tensor in rgb.state_dict().items())


def test_spec_and_network_of_a_configuration() -> None:
    for given in (
        config(activation="relu"),
        {"channels": [2, 3, 4], "units": (3, 2, 1), "activation": "relu"},
    ):
        spec = registry.spec_of("ssid-kd", given)
        assert (spec.granularity, spec.smallest_side, spec.exact_tiling_halo) == (
            GRANULARITY,
            SMALLEST_SIDE,
            None,
        )
        assert spec.config == json.loads(json.dumps(spec.config))
        network = registry.create(spec)
        assert isinstance(network, SSIDKD)
        assert network.config == config(activation="relu")
    assert registry.create(registry.spec_of("ssid-kd", {})).config == PRESETS["sid"]
    assert ARCHITECTURE.presets.keys() >= {"sid", "sid-lite"}


def test_unknown_architectures_are_named() -> None:
    with pytest.raises(ValueError, match="unknown architecture 'sid'; there are ssid-kd"):
        registry.spec_of("sid", {})
    with pytest.raises(ValueError, match="unknown architecture 'sid'"):
        registry.create(ModelSpec("sid"))
    with pytest.raises(ValueError, match="unknown option width"):
        registry.create(ModelSpec("ssid-kd", {"width": 3}))

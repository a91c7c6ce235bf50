"""Model files of any writer load to exactly the network they hold, and are written as others read them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from derain_engine.base.errors import CheckpointError, InputError
from derain_engine.models import registry
from derain_engine.models.checkpoint import load_checkpoint, save_checkpoint, weights_sha256
from derain_engine.models.ssid_kd import SSIDKDConfig
from derain_engine.models.weights import shipped, shipped_names

from .checkpoints import COPY, HEAD, TINY, loud, refused, save_as_published, saved

ARCHITECTURE = registry.architectures()["ssid-kd"]


def picture(side: int = 32) -> torch.Tensor:
    return torch.rand(1, 3, side, 2 * side, generator=torch.Generator().manual_seed(5))


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)


# What loads


def test_published_file_of_the_full_size_network_becomes_its_rgb_twin(tmp_path: Path) -> None:
    bgr = loud(SSIDKDConfig())
    wrapped = torch.nn.DataParallel(bgr)
    adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(3))])
    path = saved(
        tmp_path / "net_latest", {"net": wrapped.state_dict(), "clock_net": 7, "opt_net": adam.state_dict()}
    )
    loaded = load_checkpoint(path)
    assert loaded.spec == registry.spec_of("ssid-kd", SSIDKDConfig())
    assert (loaded.colour_order, loaded.format, loaded.source) == ("bgr", "torch", path)
    assert not loaded.network.training
    assert sum(p.numel() for p in loaded.network.parameters()) == 4_433_779
    assert not any(p.requires_grad for p in loaded.network.parameters())

    image = picture()
    swapped = [2, 1, 0]
    ours, theirs = loaded.network(image), bgr(image[:, swapped])
    torch.testing.assert_close(ours.clean, theirs.clean[:, swapped], rtol=0, atol=2e-6)
    torch.testing.assert_close(ours.rain, theirs.rain[:, swapped], rtol=0, atol=2e-6)
    torch.testing.assert_close(ours.code, theirs.code, rtol=0, atol=2e-5)
    assert (bgr(image).clean - ours.clean).abs().max() > 1e-2


@pytest.mark.parametrize("wrapper", ["net", "state_dict", "model", "params", None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_prefixes(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    network = loud(TINY)
    state = {prefix + key: tensor for key, tensor in network.state_dict().items()}
    path = saved(tmp_path / "model.bin", {"epoch": 3, wrapper: state} if wrapper else state)
    assert same_weights(load_checkpoint(path, colour_order="rgb").network, network)


def test_format_is_recognised_by_content_not_by_name(tmp_path: Path) -> None:
    network = loud(TINY)
    state = dict(network.state_dict())
    legacy = saved(tmp_path / "a.onnx", state, _use_new_zipfile_serialization=False)
    zipped = saved(tmp_path / "b.safetensors", state)
    plain = tmp_path / "c.pt"
    plain.write_bytes(
        safetensors_bytes({key: tensor.clone() for key, tensor in state.items()}, {"by": "someone"})
    )
    ours = tmp_path / "d.derain"
    save_checkpoint(ours, network, "ssid-kd", metadata={"trained": "here"})
    published = tmp_path / "e.txt"
    save_as_published(published, network, prefix="")
    found = [load_checkpoint(path) for path in (legacy, zipped, plain, ours, published)]
    assert [c.format for c in found] == ["torch-legacy", "torch", "safetensors", "safetensors", "torch"]
    assert [c.colour_order for c in found] == ["bgr", "bgr", "bgr", "rgb", "bgr"]
    assert [c.metadata for c in found] == [{}, {}, {"by": "someone"}, {"trained": "here"}, {}]
    assert len({c.weights_sha256 for c in found[:3]}) == 1
    assert found[3].weights_sha256 == found[4].weights_sha256 != found[0].weights_sha256
    assert same_weights(found[3].network, network)
    assert same_weights(found[4].network, network)
    assert [load_checkpoint(p, colour_order="rgb").weights_sha256 for p in (legacy, zipped, plain)] == [
        found[3].weights_sha256
    ] * 3


def test_colour_order_switch_overrules_the_file(tmp_path: Path) -> None:
    network, path = loud(), tmp_path / "m"
    save_checkpoint(path, network, "ssid-kd", metadata={})
    told = load_checkpoint(path, colour_order="bgr")
    assert told.colour_order == "bgr"
    image = picture()
    theirs = network(image.flip(1)).clean.flip(1)
    torch.testing.assert_close(told.network(image).clean, theirs, rtol=0, atol=2e-6)
    with pytest.raises(InputError, match="colour_order must be auto, rgb or bgr"):
        load_checkpoint(path, colour_order="grb")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "config",
    [
        SSIDKDConfig((2, 3, 2), (2, 1, 1), "pffb", "maxpool", "resblock"),
        SSIDKDConfig((2, 3, 2), (1, 2, 1), "mffb", activation="relu"),
        SSIDKDConfig((2, 3, 2), (1, 2, 2), shared_units=False),
    ],
)
def test_our_file_keeps_the_whole_configuration(tmp_path: Path, config: SSIDKDConfig) -> None:
    network, path = loud(config), tmp_path / "m.safetensors"
    save_checkpoint(path, network, "ssid-kd", metadata={})
    loaded = load_checkpoint(path)
    assert loaded.network.config == config
    assert same_weights(loaded.network, network)
    assert torch.equal(loaded.network(picture()).clean, network(picture()).clean)


def test_options_fill_in_and_go_before_the_file(tmp_path: Path) -> None:
    network = loud(SSIDKDConfig((2, 2, 2), (1, 1, 1), pyramid="maxpool"))
    bare, ours = saved(tmp_path / "bare", network.state_dict()), tmp_path / "ours"
    save_checkpoint(ours, network, "ssid-kd", metadata={})
    assert load_checkpoint(bare).spec.config["pyramid"] == "bilinear"
    assert load_checkpoint(bare, options={"pyramid": "maxpool"}).network.config == network.config
    assert load_checkpoint(ours, options={"pyramid": "bilinear"}).spec.config["pyramid"] == "bilinear"
    assert "unknown option pyramids" in refused(bare, options={"pyramids": "maxpool"})
    assert "channels is [2, 2, 2] by the shapes" in refused(bare, options={"channels": [4, 4, 4]})


def test_unit_copies_that_differ_need_the_option(tmp_path: Path) -> None:
    network = loud(SSIDKDConfig((2, 2, 2), (2, 2, 2), shared_units=False))
    path = saved(tmp_path / "m", network.state_dict())
    message = refused(path)
    assert "differs from units.0" in message
    assert "shared_units=false" in message
    loaded = load_checkpoint(path, options={"shared_units": False}, colour_order="rgb")
    assert same_weights(loaded.network, network)


def test_weights_loaded_as_unshared_have_memory_of_their_own(tmp_path: Path) -> None:
    path = saved(tmp_path / "m", loud().state_dict())
    network = load_checkpoint(path, options={"shared_units": False}).network
    first = network.get_parameter(COPY)
    second = network.get_parameter(COPY.replace(".units.1.", ".units.0."))
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_fp32(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {key: tensor.to(dtype) for key, tensor in loud().state_dict().items()}
    loaded = load_checkpoint(saved(tmp_path / "m", state), colour_order="rgb").network.state_dict()
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    assert all(torch.equal(loaded[key], tensor.float()) for key, tensor in state.items())


# What is written


def test_our_file_is_deterministic_compact_and_readable_by_others(tmp_path: Path) -> None:
    network = loud()
    metadata = {f"note {i}": "é" * i for i in range(8)}
    files = [tmp_path / f"{i}.safetensors" for i in range(4)]
    for path in files:
        save_checkpoint(path, network, "ssid-kd", metadata=metadata)
        metadata = dict(reversed(metadata.items()))
    assert len({path.read_bytes() for path in files}) == 1
    tensors = load_file(files[0])
    assert tensors.keys() == {key for key in network.state_dict() if ".units.1." not in key}
    assert load_checkpoint(files[0]).metadata == metadata


def test_half_precision_file_and_the_hash_of_what_it_holds(tmp_path: Path) -> None:
    network = loud()
    full, half = tmp_path / "full", tmp_path / "half"
    save_checkpoint(full, network, "ssid-kd", metadata={})
    save_checkpoint(half, network, "ssid-kd", metadata={}, dtype="fp16")
    assert half.stat().st_size < 0.8 * full.stat().st_size
    loaded = load_checkpoint(half)
    rounded = {key: tensor.half().float() for key, tensor in network.state_dict().items()}
    assert all(torch.equal(tensor, rounded[key]) for key, tensor in loaded.network.state_dict().items())
    assert loaded.weights_sha256 == weights_sha256(ARCHITECTURE.compact(rounded, loaded.spec.config))
    assert loaded.weights_sha256 != load_checkpoint(full).weights_sha256


def test_hash_tells_name_shape_and_value_apart() -> None:
    a = torch.arange(6.0)
    hashes = {
        weights_sha256(state)
        for state in ({"a": a}, {"b": a}, {"a": a.reshape(2, 3)}, {"a": -a}, {"a": a[:3], "b": a[3:]})
    }
    assert len(hashes) == 5
    assert weights_sha256({"a": a, "b": -a}) == weights_sha256({"b": -a, "a": a})


def test_numbers_that_a_file_must_not_hold_leave_the_old_file(tmp_path: Path) -> None:
    network, path = loud(), tmp_path / "m"
    path.write_text("before")
    network.get_parameter(HEAD).data[0, 0, 0, 0] = 7e4
    with pytest.raises(CheckpointError, match=HEAD):
        save_checkpoint(path, network, "ssid-kd", metadata={}, dtype="fp16")
    network.get_parameter(HEAD).data[0, 0, 0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=HEAD):
        save_checkpoint(path, network, "ssid-kd", metadata={})
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


# What comes with the package


def test_shipped_weights_load_and_have_their_card() -> None:
    assert shipped("no-such-network") is None
    assert shipped("../weights/sid-lite") is None
    for name in shipped_names():
        path = shipped(name)
        assert path is not None
        assert path.with_suffix(".md").is_file()
        assert load_checkpoint(path).colour_order == "rgb"

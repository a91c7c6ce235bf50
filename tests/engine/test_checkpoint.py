"""Model files from outside: what loads, to exactly which network, and what is refused with which words."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from derain_engine.engine import model_file
from derain_engine.engine.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_official,
    weights_sha256,
)
from derain_engine.engine.errors import CheckpointError, InputError
from derain_engine.engine.models import registry
from derain_engine.engine.models.ssid_kd import SSIDKD, SSIDKDConfig
from derain_engine.engine.weights import shipped, shipped_names

SMALL = SSIDKDConfig(channels=(3, 4, 5), units=(2, 2, 1))
TINY = SSIDKDConfig(channels=(1, 1, 1), units=(2, 1, 1))
HEAD = "head.convLayer_1.0.weight"
COPY = "encoder_decoder_1.enLayer_1.units.1.unit.1.confusion.bias"
ARCHITECTURE = registry.architectures()["ssid-kd"]


def loud(config: SSIDKDConfig = SMALL, seed: int = 0) -> SSIDKD:
    """A random network that does something: all convolution weights times 1.6."""
    torch.manual_seed(seed)
    network = SSIDKD(config)
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.weight.data.mul_(1.6)
    return network.requires_grad_(False)


def picture(side: int = 32) -> torch.Tensor:
    return torch.rand(1, 3, side, 2 * side, generator=torch.Generator().manual_seed(5))


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def refused(path: Path, **arguments: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, **arguments)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


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

    again = tmp_path / "again"
    save_official(again, loaded.network, step=8)
    assert again.stat().st_size < 4 * 4_433_779 + 700_000  # every weight once, 2204 keys
    content = torch.load(again, weights_only=True)
    assert content["clock_net"] == 8
    assert len(content["net"]) == 2204
    fresh = torch.nn.DataParallel(SSIDKD())
    fresh.load_state_dict(content["net"], strict=True)
    assert same_weights(fresh, wrapped)


@pytest.mark.parametrize("wrapper", ["net", "state_dict", "model", "params", None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_prefixes(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    network = loud(TINY)
    state = {prefix + key: tensor for key, tensor in network.state_dict().items()}
    path = saved(tmp_path / "model.bin", {"epoch": 3, wrapper: state} if wrapper else state)
    assert same_weights(load_checkpoint(path, colour_order="rgb").network, network)


def test_format_is_recognised_by_content_not_by_name(tmp_path: Path) -> None:
    network = loud()
    state = dict(network.state_dict())
    legacy = saved(tmp_path / "a.onnx", state, _use_new_zipfile_serialization=False)
    zipped = saved(tmp_path / "b.safetensors", state)
    plain = tmp_path / "c.pt"
    plain.write_bytes(
        safetensors_bytes({key: tensor.clone() for key, tensor in state.items()}, {"by": "someone"})
    )
    ours = tmp_path / "d.derain"
    save_checkpoint(ours, network, "ssid-kd", metadata={"trained": "here"})
    official = tmp_path / "e.txt"
    save_official(official, network, module_prefix=False)
    found = [load_checkpoint(path) for path in (legacy, zipped, plain, ours, official)]
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
    with pytest.raises(CheckpointError, match=HEAD):
        save_official(path, network)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


# What is refused: keys and tensors


def test_keys_that_do_not_fit_are_named_and_counted(tmp_path: Path) -> None:
    state = dict(loud().state_dict())
    for key in [key for key in state if key.startswith("encoder_decoder_2.enLayer_2.conv1x1")]:
        del state[key]
    del state[COPY]
    state["extra.weight"] = torch.zeros(2)
    state["tail.catLayer.0.bias"] = torch.zeros(4)
    message = refused(saved(tmp_path / "m", state))
    assert "missing: 5 keys (" in message
    assert "encoder_decoder_2.enLayer_2.conv1x1.0.0.weight" in message
    assert "and 2 more" in message
    assert "unexpected: 1 key (extra.weight)" in message
    assert "of another shape: 1 key (tail.catLayer.0.bias (4,) instead of (3,))" in message


def nan(state: dict[str, Any]) -> None:
    state[COPY] = torch.full_like(state[COPY], float("nan"))


def overflow(state: dict[str, Any]) -> None:
    state[HEAD] = state[HEAD].double() * 1e300


def put(value: Callable[[], Any], key: Any = HEAD) -> Callable[[dict[Any, Any]], None]:
    return lambda state: state.update({key: value()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nan, f"NaN or infinity in 1 key ({COPY})"),
        (overflow, f"NaN or infinity in 1 key ({HEAD})"),
        (put(lambda: torch.zeros(3, 3, 3, 3, dtype=torch.int32)), f"{HEAD} is int32, not a plain tensor"),
        (put(lambda: torch.zeros(3, 3, 3, 3, dtype=torch.complex64)), f"{HEAD} is complex64"),
        (put(lambda: torch.zeros(3, 3, 3, 3, dtype=torch.float8_e4m3fn)), f"{HEAD} is float8_e4m3fn"),
        (put(lambda: torch.eye(3).to_sparse()), f"{HEAD} is sparse"),
        (put(lambda: torch.zeros(3, device="meta")), f"{HEAD} is meta"),
        (put(lambda: torch.zeros(1).expand(1 << 40)), f"{HEAD} is larger than what the file stores"),
        (put(lambda: [1, 2]), f"list under '{HEAD}'"),
        (put(lambda: torch.zeros(1), 3), "Tensor under 3"),
        (put(lambda: torch.zeros(1), "a\x1b[2J"), r"whose name is not one: 'a\x1b[2J'"),
    ],
)
def test_tensors_that_are_no_weights_are_named(tmp_path: Path, change: Callable, message: str) -> None:
    state: dict[Any, Any] = dict(loud().state_dict())
    change(state)
    assert message in refused(saved(tmp_path / "m", state))


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    state = dict(loud().state_dict())
    state[HEAD] = torch.quantize_per_tensor(state[HEAD], 0.1, 0, torch.qint8)
    assert HEAD in refused(saved(tmp_path / "m", state))


@pytest.mark.parametrize(
    "content", [{}, [], 3, {"net": 3}, {"net": {}}, {"epoch": 3}, [torch.zeros(2)], torch.zeros(2)]
)
def test_files_without_a_state_dict(tmp_path: Path, content: Any) -> None:
    assert "holds no state dict" in refused(saved(tmp_path / "m", content))


def test_other_networks_are_described(tmp_path: Path) -> None:
    message = refused(saved(tmp_path / "m", torch.nn.Linear(2, 3).state_dict()))
    assert "2 keys (weight, bias)" in message
    assert "it knows ssid-kd" in message


# What is refused: files


class Payload:
    """Unpickling this would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "protocol 2"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, kind: str) -> None:
    path, mark = tmp_path / "m.pt", tmp_path / "mark"
    content = {"net": dict(loud(TINY).state_dict()), "opt_net": Payload(mark)}
    if kind in ("zip", "legacy"):
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    else:
        path.write_bytes(pickle.dumps(content, protocol=2 if kind == "protocol 2" else None))
    assert "could run code" in refused(path)
    assert not mark.exists()
    # The same file does run it where the loader does not hold it back, so the line above can fail.
    torch.load(path, weights_only=False) if kind in ("zip", "legacy") else pickle.loads(path.read_bytes())
    assert mark.is_dir()


def test_a_pickle_that_cannot_be_read_as_data_says_what_to_do(tmp_path: Path) -> None:
    path = saved(tmp_path / "m", loud(TINY).state_dict(), pickle_protocol=4)
    assert "save the network's state_dict() again" in refused(path)


def zip_of(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return buffer.getvalue()


def repacked(path: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello", "is a text file"),
        ("déjà vu ".encode() * 600, "is a text file"),
        (b'{"a": 1, {', "is a text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "is a PNG image"),
        (b"\xff\xd8\xff\xe0" + bytes(64), "is a JPEG image"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "is a WebP image"),
        (b"II*\0" + bytes(64), "is a TIFF image"),
        (b"\x1f\x8b\x08" + bytes(64), "is a gzip archive"),
        (bytes(range(128, 256)), "is of no known format"),
        (
            b"\x08\x08\x12\x07pytorch\x1a\x052.0.0" + bytes(64),
            "is an ONNX model, which has no network in PyTorch",
        ),
        (zip_of(manifest_json=b"{}"), "is already an engine file"),
        (zip_of(readme_txt=b"hi"), "is a zip archive without a PyTorch checkpoint"),
        (zip_of(ts__constants_pkl=b"", ts__data_pkl=b""), "is a TorchScript archive"),
        (zip_of(a__data_pkl=b"\x80\x02}q\0.")[:-9], "is damaged or truncated"),
        (zip_of(a__data_pkl=b"\x80\x02}q\0."), "is a damaged or truncated PyTorch file"),
        (struct.pack("<Q", 500) + b"{}" + bytes(9), "is damaged or truncated: it ends before its header"),
        (struct.pack("<Q", 8) + b"{nojson}" + bytes(9), "is a damaged or truncated safetensors file"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert message in refused(path)


def test_no_file(tmp_path: Path) -> None:
    assert "is missing" in refused(tmp_path / "none.pt")
    assert "is not a file" in refused(tmp_path)


def test_compressed_entries_are_refused_before_they_unfold(tmp_path: Path) -> None:
    path = saved(tmp_path / "m", loud(TINY).state_dict())
    path.write_bytes(repacked(path))
    assert "compressed entries" in refused(path)


def test_long_safetensors_headers_are_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", model_file.MAX_HEADER + 1) + b"{")
        file.truncate(model_file.MAX_HEADER + 100)
    assert "more than 16 MB" in refused(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "weight format 2 of a newer derain-engine"),
        ({"format": None}, "no format version"),
        ({"architecture": "other-net"}, "a network that this version does not know (it says 'other-net')"),
        ({"architecture": 3}, "wrong kind"),
        ({"config": {"channels": [3, 4, 6]}}, "channels is [3, 4, 5]"),
        ({"config": {"width": 1}}, "unknown option width"),
        ({"config": []}, "wrong kind"),
        ({"colour_order": "grb"}, "wrong kind"),
        ({"metadata": {"a": 1}}, "wrong kind"),
    ],
)
def test_headers_of_our_own_files_are_checked(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "m"
    save_checkpoint(path, loud(), "ssid-kd", metadata={})
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        own = json.loads(json.loads(file.read(length))["__metadata__"]["derain-engine"])
    text = json.dumps({**own, **change})
    path.write_bytes(safetensors_bytes(load_file(path), {"derain-engine": text}))
    assert message in refused(path)


def test_broken_headers_of_our_own_files(tmp_path: Path) -> None:
    path = tmp_path / "m"
    for text in ("{", "[" * 100_000, "[]", "3"):
        path.write_bytes(safetensors_bytes({"a": torch.zeros(1)}, {"derain-engine": text}))
        assert "is damaged: its header" in refused(path)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder, network = tmp_path_factory.mktemp("seeds"), loud(TINY)
    save_checkpoint(folder / "ours", network, "ssid-kd", metadata={"a": "b"})
    save_official(folder / "official", network)
    saved(folder / "legacy", network.state_dict(), _use_new_zipfile_serialization=False)
    return [(folder / name).read_bytes() for name in ("ours", "official", "legacy")]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_end_in_an_error_of_ours_or_a_valid_network(
    tmp_path: Path, seeds: list[bytes], data
) -> None:
    content = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(1, 4))):
        # Headers and pickles lie at the ends, where damage is more than a wrong number.
        place = data.draw(
            st.one_of(st.integers(0, 2000), st.integers(0, len(content)), st.integers(-2000, -1))
        )
        patch = data.draw(st.binary(min_size=1, max_size=4))
        content[place : place + len(patch) if place >= 0 else None] = patch
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path / "m"
    path.write_bytes(content)
    try:
        loaded = load_checkpoint(path)
    except CheckpointError as error:
        assert str(path) in str(error)
    else:
        assert isinstance(loaded, Checkpoint)
        assert all(p.isfinite().all() and p.dtype == torch.float32 for p in loaded.network.parameters())


# What comes with the package


def test_shipped_weights_load_and_have_their_card() -> None:
    assert shipped("no-such-network") is None
    assert shipped("../weights/sid-lite") is None
    for name in shipped_names():
        path = shipped(name)
        assert path is not None
        assert path.with_suffix(".md").is_file()
        assert load_checkpoint(path).colour_order == "rgb"

"""Model files from outside that are refused, with which words, and that nothing in them runs."""

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

from derain_engine.base.errors import CheckpointError
from derain_engine.models import model_file
from derain_engine.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

from .checkpoints import COPY, HEAD, TINY, loud, refused, save_as_published, saved

# Keys and tensors


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


# Files


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
    save_as_published(folder / "published", network)
    saved(folder / "legacy", network.state_dict(), _use_new_zipfile_serialization=False)
    return [(folder / name).read_bytes() for name in ("ours", "published", "legacy")]


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

"""A model file from a stranger: what it is, by its content, and the data in it, without running its code."""

from __future__ import annotations

import codecs
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ..base.errors import CheckpointError

#: Longest safetensors header that is parsed, in bytes; a network of 2204 keys needs 0.3 MB.
MAX_HEADER = 16 << 20

# The start of torch.save's format before 1.6: a protocol 2 pickle of the magic number 0x1950a86a20f9469cfc6c.
_LEGACY_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
# Eight bytes of header length, of which no sane file needs more than four, and the header's JSON.
_SAFETENSORS = re.compile(rb".{4}\0{4}\{", re.DOTALL)
# An ONNX model is a protobuf: field 1 (ir_version, a small varint), then a low field of ModelProto.
_ONNX = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]")
_NOT_MODELS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\x89PNG"), "a PNG image"),
    (re.compile(rb"\xff\xd8\xff"), "a JPEG image"),
    (re.compile(rb"GIF8"), "a GIF image"),
    (re.compile(rb"BM.{4}\0{4}", re.DOTALL), "a BMP image"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "a WebP image"),
    (re.compile(rb"II\*\0|MM\0\*"), "a TIFF image"),
    (re.compile(rb"\x1f\x8b"), "a gzip archive"),
    (re.compile(rb"\x89HDF"), "an HDF5 file"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer (git lfs pull fetches the file itself)"),
    (re.compile(rb"\x80[\x02-\x05]"), "a pickle that PyTorch did not save, which could run code"),
)


@dataclass(frozen=True)
class ModelFile:
    """The data in a model file.

    format: how the file was written.
    content: what it holds, as plain Python objects and tensors on the CPU; for safetensors a dict of tensors.
    metadata: the text that safetensors files may carry.
    """

    format: Literal["torch", "torch-legacy", "safetensors"]
    content: Any
    metadata: Mapping[str, str]


def read_model_file(path: str | os.PathLike[str]) -> ModelFile:
    """Read a PyTorch (zip or older format) or safetensors file; its name plays no part.

    Raises:
        CheckpointError: the file cannot be read, is something else, is damaged, or holds more than data.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path} is {'not a file' if path.exists() else 'missing'}; give the file of a trained model."
        )
    try:
        with path.open("rb") as file:
            return _read(path, file)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error


def is_onnx(path: Path) -> bool:
    """Tell whether there is a file that begins as an ONNX model does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _ONNX.match(file.read(16)) is not None


def _read(path: Path, file: BinaryIO) -> ModelFile:
    start = file.read(4096)
    file.seek(0)
    if not start:
        raise CheckpointError(f"{path} is empty.")
    if start.startswith(b"PK\x03\x04"):
        _check_zip(path, file)
        return ModelFile("torch", _torch_load(path, file), {})
    if start.startswith(_LEGACY_TORCH):
        return ModelFile("torch-legacy", _torch_load(path, file), {})
    if _SAFETENSORS.match(start):
        return _read_safetensors(path, int.from_bytes(start[:8], "little"))
    if _ONNX.match(start):
        raise CheckpointError(
            f"{path} is an ONNX model, which has no network in PyTorch; build an engine of it and give that."
        )
    what = next((what for pattern, what in _NOT_MODELS if pattern.match(start)), None)
    if what is None:
        what = "a text file" if _is_text(start) else "of no known format"
    raise CheckpointError(f"{path} is {what}; a model is a PyTorch checkpoint or a safetensors file.")


def _is_text(start: bytes) -> bool:
    try:
        # Incremental, since the last bytes may be half a character.
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return "\0" not in text


def _check_zip(path: Path, file: BinaryIO) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is damaged or truncated: {error}.") from error
    names = {entry.filename.rpartition("/")[2] for entry in entries}
    if "manifest.json" in names:
        raise CheckpointError(
            f"{path} is already an engine file; clean pictures with it by derain-engine run."
        )
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path} is a TorchScript archive, which is code; save the network's state_dict() instead."
        )
    if "data.pkl" not in names:
        raise CheckpointError(f"{path} is a zip archive without a PyTorch checkpoint in it.")
    # torch.save stores entries as they are; a compressed one could unfold to any size.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(
            f"{path} has compressed entries, which PyTorch does not write; save the checkpoint again."
        )
    file.seek(0)


def _torch_load(path: Path, file: BinaryIO) -> object:
    import torch

    try:
        with warnings.catch_warnings():
            # They speak to the author of the call (old storage classes, pickle protocols), not to a user.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what damaged bytes raise inside torch and pickle is not documented
        text = str(error)
        if refused := re.search(r"GLOBAL ([\w.]+)", text):
            raise CheckpointError(
                f"{path} holds {refused[1]}, which is not data and could run code; nothing of it was run. "
                "Give a file that holds the network's state_dict() alone."
            ) from error
        if isinstance(error, pickle.UnpicklingError):
            raise CheckpointError(
                f"{path} has a pickle that is damaged, or of a protocol that cannot be read as data alone; "
                "save the network's state_dict() again, by torch.save as it is."
            ) from error
        reason = text.partition("\n")[0].partition(". ")[0][:200] or type(error).__name__
        raise CheckpointError(f"{path} is a damaged or truncated PyTorch file: {reason}.") from error


def _read_safetensors(path: Path, header: int) -> ModelFile:
    import safetensors

    if header > path.stat().st_size - 8:
        raise CheckpointError(f"{path} is damaged or truncated: it ends before its header does.")
    if header > MAX_HEADER:
        raise CheckpointError(f"{path} has a header of {header >> 20} MB, more than {MAX_HEADER >> 20} MB.")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()
            tensors = {key: file.get_tensor(key) for key in names}
            return ModelFile("safetensors", tensors, dict(file.metadata() or {}))
    except Exception as error:  # of the library's Rust side, and torch's for dtypes it lacks
        raise CheckpointError(f"{path} is a damaged or truncated safetensors file: {error}.") from error

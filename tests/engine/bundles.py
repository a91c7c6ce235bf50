"""Engine files made for tests: manifests, archives made without write_bundle, and what reading them gives."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from derain_engine.base.errors import BundleError
from derain_engine.engine.bundle import open_bundle
from derain_engine.engine.manifest import Manifest

from ..helpers import a_manifest

PAYLOADS = {
    "openvino/model.xml": b"<net/>",
    "openvino/model.bin": bytes(range(256)) * 3,
    "empty": b"",
    "kernels/sm_90/mffb+head-1.cubin": b"\x7fELF" * 17,
}


def manifest_record(payloads: Mapping[str, bytes], **changes: Any) -> dict[str, Any]:
    table = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in payloads.items()
    }
    return {**json.loads(a_manifest(payloads=table).to_json()), **changes}


def stored(name: str, offset: int, **attributes: Any) -> zipfile.ZipInfo:
    """Return a member whose data are aligned when its local header is written at ``offset``."""
    info = zipfile.ZipInfo(name)
    length = -(offset + 30 + len(name.encode())) % 64 or 64
    info.extra = struct.pack("<HH", 0xD935, length - 4).ljust(length, b"\0") if length >= 4 else b""
    if length < 4:
        info.extra = struct.pack("<HH", 0xD935, length + 60).ljust(length + 64, b"\0")
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def pack(path: Path, members: list[tuple[str, bytes, dict[str, Any]]], *, prefix: bytes = b"") -> Path:
    """Write an archive like write_bundle's, but of anything, made without its code."""
    with open(path, "wb") as file:
        file.write(prefix)
        with zipfile.ZipFile(file, "w") as archive:
            for name, data, attributes in members:
                archive.writestr(stored(name, file.tell() - len(prefix), **attributes), data)
    return path


def content(path: Path) -> tuple[Manifest, dict[str, bytes]]:
    with open_bundle(path) as bundle:
        return bundle.manifest, {name: bytes(bundle.read(name)) for name in bundle.names}


def refusal(path: Path, *words: str) -> str:
    """Return the message of the BundleError; it names the file and holds the words elsewhere."""
    with pytest.raises(BundleError) as caught:
        open_bundle(path)
    message = str(caught.value)
    assert str(path) in message
    message = message.replace(str(path), "FILE")
    for word in words:
        assert word in message
    return message

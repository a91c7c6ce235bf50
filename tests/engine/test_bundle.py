from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from derain_engine.engine.bundle import (
    FORMAT,
    MANIFEST,
    Bundle,
    Manifest,
    open_bundle,
    unpack_bundle,
    write_bundle,
)
from derain_engine.engine.errors import BundleError, InputError

PAYLOADS = {
    "openvino/model.xml": b"<net/>",
    "openvino/model.bin": bytes(range(256)) * 3,
    "empty": b"",
    "kernels/sm_90/mffb+head-1.cubin": b"\x7fELF" * 17,
}


def a_manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "architecture": "ssid-kd",
        "config": {"channels": [4, 4, 4], "units": [1, 1, 1]},
        "granularity": 32,
        "smallest_side": 64,
        "exact_tiling_halo": None,
        "tile_overlap": 96,
        "bytes_per_pixel": 1024,
        "source": "sid-lite",
        "weights_sha256": "0" * 64,
        "backend": "openvino",
        "backend_version": "2026.4",
        "precision": "bf16",
        "gpus": ("sm_80", "sm_90"),
        "input": {"name": "rainy", "layout": "NHWC", "colour": "RGB", "range": [0, 1]},
        "output": {"name": "clean", "layout": "NHWC", "colour": "RGB", "range": [0, 1]},
        "verification": {"psnr": 61.25, "pictures": {"astronaut": 60.5}},
        "derain_engine": "0.1.0",
    }
    return Manifest(**{**fields, **changes})


def manifest_record(payloads: Mapping[str, bytes], **changes: Any) -> dict[str, Any]:
    table = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in payloads.items()
    }
    return {**json.loads(a_manifest(payloads=table).to_json()), **changes}


def stored(name: str, offset: int, **attributes: Any) -> zipfile.ZipInfo:
    """A member whose data are aligned when its local header is written at ``offset``."""
    info = zipfile.ZipInfo(name)
    length = -(offset + 30 + len(name.encode())) % 64 or 64
    info.extra = struct.pack("<HH", 0xD935, length - 4).ljust(length, b"\0") if length >= 4 else b""
    if length < 4:
        info.extra = struct.pack("<HH", 0xD935, length + 60).ljust(length + 64, b"\0")
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def pack(path: Path, members: list[tuple[str, bytes, dict[str, Any]]], *, prefix: bytes = b"") -> Path:
    """An archive like write_bundle's, but of anything, made without its code."""
    with open(path, "wb") as file:
        file.write(prefix)
        with zipfile.ZipFile(file, "w") as archive:
            for name, data, attributes in members:
                archive.writestr(stored(name, file.tell() - len(prefix), **attributes), data)
    return path


def pack_payloads(path: Path, payloads: Mapping[str, bytes], **changes: Any) -> Path:
    text = json.dumps(manifest_record(payloads, **changes)).encode()
    return pack(path, [(MANIFEST, text, {}), *((name, data, {}) for name, data in payloads.items())])


def entry_offsets(data: bytes | bytearray) -> list[int]:
    """Where the central directory's entries begin."""
    at = struct.unpack_from("<I", data, len(data) - 6)[0]
    offsets = []
    while data[at : at + 4] == b"PK\x01\x02":
        offsets.append(at)
        at += 46 + sum(struct.unpack_from("<HHH", data, at + 28))
    return offsets


def patch(path: Path, member: int, field: int, layout: str, value: int) -> Path:
    """Overwrite a field of a member's entry in the central directory."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, entry_offsets(data)[member] + field, value)
    path.write_bytes(data)
    return path


def content(path: Path) -> tuple[Manifest, dict[str, bytes]]:
    with open_bundle(path) as bundle:
        return bundle.manifest, {name: bytes(bundle.read(name)) for name in bundle.names}


def refusal(path: Path, *words: str) -> str:
    """The message of the BundleError; it names the file and holds the words elsewhere."""
    with pytest.raises(BundleError) as caught:
        open_bundle(path)
    message = str(caught.value)
    assert str(path) in message
    message = message.replace(str(path), "FILE")
    for word in words:
        assert word in message
    return message


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "engine.derain"
    write_bundle(path, a_manifest(), PAYLOADS)
    return path


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the operating system fail writes beyond ``size`` bytes of a file, as a full disk does."""
    resource = pytest.importorskip("resource", reason="needs a Unix limit on file sizes")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Writing and reading


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "engine.derain"
    written = write_bundle(path, a_manifest(config={"channels": (4, 4, 4)}), PAYLOADS)
    manifest, payloads = content(path)
    assert payloads == PAYLOADS
    assert manifest == written
    assert manifest.config == {"channels": [4, 4, 4]}
    assert manifest.gpus == ("sm_80", "sm_90")
    assert manifest.payloads["empty"] == {"sha256": hashlib.sha256().hexdigest(), "bytes": 0}
    assert dataclasses.replace(manifest, payloads={}, config=a_manifest().config) == a_manifest()


def test_no_payloads(tmp_path: Path) -> None:
    write_bundle(tmp_path / "e.derain", a_manifest(), {})
    assert content(tmp_path / "e.derain")[1] == {}


def test_memoryviews_of_other_shapes_are_bytes(tmp_path: Path) -> None:
    weights = np.arange(12, dtype="<f4").reshape(3, 4)
    write_bundle(tmp_path / "e.derain", a_manifest(), {"weights": weights.data})
    assert content(tmp_path / "e.derain")[1] == {"weights": weights.tobytes()}


def test_same_inputs_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    one, two = tmp_path / "one.derain", tmp_path / "two.derain"
    write_bundle(one, a_manifest(), PAYLOADS)
    monkeypatch.setattr("time.time", lambda: 2e9)
    write_bundle(two, a_manifest(payloads={"stale": {}}), dict(reversed(PAYLOADS.items())))
    assert one.read_bytes() == two.read_bytes()
    # Pinned: other machines and Python versions must give these bytes too. A change needs a reason.
    assert hashlib.sha256(one.read_bytes()).hexdigest() == (
        "8ed6fad9b1c4eea0317587de79bb1210207f13be8f41adf381245c3a477ccdc9"
    )


@pytest.mark.parametrize(
    ("epoch", "date"),
    [
        ("", (1980, 1, 1, 0, 0, 0)),
        ("0", (1980, 1, 1, 0, 0, 0)),
        ("1700000000", (2023, 11, 14, 22, 13, 20)),
        ("999999999999", (2107, 12, 31, 23, 59, 58)),
    ],
)
def test_source_date_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: str, date: tuple[int, ...]
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    write_bundle(tmp_path / "e.derain", a_manifest(), PAYLOADS)
    with zipfile.ZipFile(tmp_path / "e.derain") as archive:
        assert {info.date_time for info in archive.infolist()} == {date}


@pytest.mark.parametrize("epoch", ["now", "-1", "1e9", "9" * 40])
def test_bad_source_date_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH"):
        write_bundle(tmp_path / "e.derain", a_manifest(), PAYLOADS)
    assert not list(tmp_path.iterdir())


def test_layout_is_a_stored_aligned_zip(engine: Path) -> None:
    with zipfile.ZipFile(engine) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [MANIFEST, *sorted(PAYLOADS)]
        data = engine.read_bytes()
        for info in archive.infolist():
            name_bytes, extra_bytes = struct.unpack_from("<HH", data, info.header_offset + 26)
            start = info.header_offset + 30 + name_bytes + extra_bytes
            assert start % 64 == 0
            assert data[start : start + info.file_size] == archive.read(info)
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.external_attr >> 16 == 0o100644


@pytest.mark.parametrize("length", range(1, 70))
def test_any_length_of_name_aligns(tmp_path: Path, length: int) -> None:
    write_bundle(tmp_path / "e.derain", a_manifest(), {"n" * length: b"x", "o": b"y"})
    with open_bundle(tmp_path / "e.derain") as bundle:
        for name in bundle.names:
            assert np.frombuffer(bundle.read(name), np.uint8).ctypes.data % 64 == 0


def test_views_are_read_only_and_outlive_the_bundle(engine: Path) -> None:
    bundle = open_bundle(engine)
    view = bundle.read("openvino/model.bin")
    with pytest.raises(TypeError):
        view[0] = 1
    bundle.close()
    bundle.close()
    assert view == PAYLOADS["openvino/model.bin"]
    with pytest.raises(BundleError, match="closed"):
        bundle.read("openvino/model.bin")


def test_manifest_is_readable_as_stored(engine: Path) -> None:
    with open_bundle(engine) as bundle:
        assert bytes(bundle.read(MANIFEST)).decode() == bundle.manifest.to_json()
        assert MANIFEST not in bundle.names


def test_unknown_payload(engine: Path) -> None:
    with open_bundle(engine) as bundle, pytest.raises(BundleError, match=r"'x'.*only empty, kernels/"):
        bundle.read("x")


def test_a_new_file_in_place_leaves_an_open_bundle_alone(engine: Path) -> None:
    with open_bundle(engine) as bundle:
        write_bundle(engine, a_manifest(source="other"), {"empty": b"new"})
        assert bundle.read("openvino/model.bin") == PAYLOADS["openvino/model.bin"]
    assert content(engine)[1] == {"empty": b"new"}


def test_runs_without_torch_and_numpy(engine: Path) -> None:
    script = (
        "import sys, derain_engine.engine.bundle as b; b.open_bundle(sys.argv[1]).close();"
        "print(sorted({'torch', 'numpy', 'openvino', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, engine], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "names",
    [
        ["../x"], ["a/../x"], ["/x"], ["a//x"], ["a/"], [""], ["."], ["a/./x"], ["a\\x"], ["C:x"], ["C:/x"],
        ["a\x00"], ["a\nb"], ["a\x1b[0m"], ["ä"], ["a b"], [".hidden"], ["x."], ["CON"], ["a/nul.txt"],
        ["com1"], ["n" * 201], ["A", "a"], ["a/B", "A/b"], ["manifest.json"], ["Manifest.JSON"], ["a", "a/b"],
        ["A", "a/b"], ["manifest.json/x"],
        [f"n{i}" for i in range(4096)],
    ],
    ids=lambda names: ascii(names[0])[:12] + str(len(names)),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_are_refused_by_reader_and_writer(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "e.derain"
    with pytest.raises(BundleError):
        write_bundle(path, a_manifest(), dict.fromkeys(names, b""))
    assert not path.exists()
    members = [(name, b"", {}) for name in names]
    record = manifest_record(dict.fromkeys(names, b""))
    pack(path, [(MANIFEST, json.dumps(record).encode(), {}), *members])
    refusal(path)


@pytest.mark.parametrize("name", ["a", "_a-1.2+b", "console/nullable.bin", "a.b/c.d", "n" * 200])
def test_plain_names_are_fine(tmp_path: Path, name: str) -> None:
    write_bundle(tmp_path / "e.derain", a_manifest(), {name: b"x"})
    assert content(tmp_path / "e.derain")[1] == {name: b"x"}


@pytest.mark.parametrize(
    "changes", [{"verification": {"psnr": float("nan")}}, {"config": {"a": object()}}, {"granularity": 0}]
)
def test_a_bad_manifest_is_not_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(BundleError):
        write_bundle(tmp_path / "e.derain", a_manifest(**changes), PAYLOADS)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(engine: Path) -> None:
    before = engine.read_bytes()
    with largest_file(20_000), pytest.raises(OSError):
        write_bundle(engine, a_manifest(), {"big": bytes(100_000)})
    assert engine.read_bytes() == before
    assert list(engine.parent.iterdir()) == [engine]


# Refusals


def test_not_a_file(tmp_path: Path) -> None:
    refusal(tmp_path / "missing.derain", "does not exist")
    refusal(tmp_path, "is a folder")
    (tmp_path / "plain").write_bytes(b"x")
    refusal(tmp_path / "plain" / "below", "cannot be read")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refusal(tmp_path / "pipe", "not a regular file")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user"
)
def test_no_permission(engine: Path) -> None:
    engine.chmod(0)
    refusal(engine, "cannot be read")


@pytest.mark.parametrize(
    "data", [b"", b"P", b"PK\x03\x04", b"text\n" * 99, b"PK\x05\x06" + bytes(18), b"\x80\x02}."]
)
def test_not_an_archive(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "e.derain").write_bytes(data)
    refusal(tmp_path / "e.derain")


def test_appended_and_prepended_bytes(engine: Path) -> None:
    data = engine.read_bytes()
    engine.write_bytes(data + b"\0")
    refusal(engine, "appended")
    engine.write_bytes(b"#!" + data)
    refusal(engine, "is not an engine file; make one")
    start = b"PK\x03\x04" + bytes(60)
    engine.write_bytes(start + data)
    refusal(engine, "appended")
    text = json.dumps(manifest_record({})).encode()
    refusal(pack(engine, [(MANIFEST, text, {})], prefix=start), "gap or an overlap", "manifest.json")


def test_archive_comment(engine: Path) -> None:
    with zipfile.ZipFile(engine, "a") as archive:
        archive.comment = b"hello"
    refusal(engine, "appended")
    # Announced and not there, so that the end record lies where it should.
    data = engine.read_bytes()[: -len(b"hello")]
    engine.write_bytes(data)
    refusal(engine, "appended")


def test_gap_between_members(tmp_path: Path) -> None:
    path = tmp_path / "e.derain"
    text = json.dumps(manifest_record({"b": b"B"})).encode()
    pack(path, [(MANIFEST, text, {}), ("hidden", b"H", {}), ("b", b"B", {})])
    data = bytearray(path.read_bytes())
    _, hidden, last = entry_offsets(data)
    del data[hidden:last]
    struct.pack_into(
        "<HHI", data, len(data) - 14, 2, 2, struct.unpack_from("<I", data, len(data) - 10)[0] - last + hidden
    )
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [MANIFEST, "b"]
    refusal(path, "gap or an overlap", "'b'")


def test_gap_before_the_directory(engine: Path) -> None:
    data = bytearray(engine.read_bytes())
    directory = entry_offsets(data)[0]
    data[directory:directory] = b"hidden"
    struct.pack_into("<I", data, len(data) - 6, directory + len(b"hidden"))
    engine.write_bytes(data)
    refusal(engine, "gap before its directory")


def test_members_beyond_the_end(tmp_path: Path) -> None:
    path = pack_payloads(tmp_path / "e.derain", {"a": b"four", "b": b"four"})
    with zipfile.ZipFile(path) as archive:
        second = archive.getinfo("b").header_offset
    for field in (20, 24):
        patch(path, 1, field, "<I", 4 + 2**20)
    refusal(patch(path, 2, 42, "<I", second + 2**20), "too small", "'a'")


def test_overlapping_members(tmp_path: Path) -> None:
    payloads = {"a": b"same", "b": b"same"}
    path = pack_payloads(tmp_path / "e.derain", payloads)
    with zipfile.ZipFile(path) as archive:
        first = archive.getinfo("a").header_offset
    refusal(patch(path, 2, 42, "<I", first), "gap or an overlap")


def test_unaligned_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "e.derain", "w") as archive:
        archive.writestr(MANIFEST, json.dumps(manifest_record({})))
    refusal(tmp_path / "e.derain", "align")


def test_zip64(engine: Path) -> None:
    # A locator in front of the end record, counted as part of the directory.
    data = bytearray(engine.read_bytes())
    data[-22:-22] = b"PK\x06\x07" + bytes(16)
    struct.pack_into("<I", data, len(data) - 10, struct.unpack_from("<I", data, len(data) - 10)[0] + 20)
    engine.write_bytes(data)
    refusal(engine, "zip64")


def test_a_huge_directory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.derain"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MANIFEST, b"{}")
        for i in range(40):
            archive.writestr(zipfile.ZipInfo(f"{i}"), b"")
            archive.infolist()[-1].comment = bytes(60_000)
    monkeypatch.setattr("zipfile.ZipFile", None)
    refusal(path, "directory")


def test_compressed_members(tmp_path: Path) -> None:
    bomb = bytes(10_000_000)
    text = json.dumps(manifest_record({"bomb": bomb})).encode()
    deflated = {"compress_type": zipfile.ZIP_DEFLATED}
    path = pack(tmp_path / "e.derain", [(MANIFEST, text, {}), ("bomb", bomb, deflated)])
    assert path.stat().st_size < 20_000
    refusal(path, "compressed", "'bomb'")
    refusal(pack(path, [(MANIFEST, text, deflated)]), "compressed", "manifest.json")
    # A method that needs unpacking, beside sizes that deny it.
    path = pack_payloads(path, {"a": b"A"})
    refusal(patch(path, 1, 10, "<H", zipfile.ZIP_DEFLATED), "compressed", "'a'")


@pytest.mark.parametrize("member", [0, 1])
@pytest.mark.parametrize(
    ("bits", "word"), [(1, "encrypted"), (8, "feature"), (0x800, "feature"), (0x2000, "feature")]
)
def test_flags(tmp_path: Path, member: int, bits: int, word: str) -> None:
    refusal(patch(pack_payloads(tmp_path / "e.derain", {"a": b"A"}), member, 8, "<H", bits), word)


@pytest.mark.parametrize("mode", [0o120777, 0o040755, 0o010644, 0o020644])
def test_links_and_special_files(tmp_path: Path, mode: int) -> None:
    text = json.dumps(manifest_record({"a": b"/etc/passwd"})).encode()
    members = [(MANIFEST, text, {}), ("a", b"/etc/passwd", {"external_attr": mode << 16})]
    refusal(pack(tmp_path / "e.derain", members), "link or a special file")


@pytest.mark.parametrize("field", [20, 24])
@pytest.mark.parametrize("size", [0, 3, 5, 2**31, 2**32 - 1])
def test_sizes_that_disagree(tmp_path: Path, field: int, size: int) -> None:
    path = pack_payloads(tmp_path / "e.derain", {"a": b"four", "b": b"four"})
    refusal(patch(path, 1, field, "<I", size))
    patch(path, 1, 20, "<I", size)
    refusal(patch(path, 1, 24, "<I", size))


def test_a_size_that_only_the_manifest_denies(tmp_path: Path) -> None:
    record = manifest_record({"a": b"four"})
    record["payloads"]["a"]["bytes"] = 5
    path = pack(tmp_path / "e.derain", [(MANIFEST, json.dumps(record).encode(), {}), ("a", b"four", {})])
    refusal(path, "4 bytes of 'a'", "5")


def test_wrong_hash(tmp_path: Path) -> None:
    text = json.dumps(manifest_record({"a": b"good"})).encode()
    refusal(pack(tmp_path / "e.derain", [(MANIFEST, text, {}), ("a", b"evil", {})]), "SHA-256", "'a'")


def test_members_that_manifest_and_archive_do_not_share(tmp_path: Path) -> None:
    path = tmp_path / "e.derain"
    text = json.dumps(manifest_record({"a": b"A"})).encode()
    refusal(pack(path, [(MANIFEST, text, {}), ("a", b"A", {}), ("b", b"B", {})]), "'b'", "does not name")
    refusal(pack(path, [(MANIFEST, text, {})]), "does not hold 'a'")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_names(tmp_path: Path) -> None:
    text = json.dumps(manifest_record({"a": b"A"})).encode()
    path = pack(tmp_path / "e.derain", [(MANIFEST, text, {}), ("a", b"A", {}), ("a", b"A", {})])
    refusal(path, "two members", "'a'")
    refusal(pack(path, [(MANIFEST, text, {}), ("a", b"A", {}), (MANIFEST, text, {})]), "two members")


def test_a_name_behind_a_nul(tmp_path: Path) -> None:
    path = pack_payloads(tmp_path / "e.derain", {"abc": b"A"})
    refusal(patch(path, 1, 47, "<B", 0), "two names", r"'a\x00c'")


def test_manifest_missing_or_not_first(tmp_path: Path) -> None:
    path = tmp_path / "e.derain"
    text = json.dumps(manifest_record({"a": b"A"})).encode()
    refusal(pack(path, [("a", b"A", {})]), "does not begin with a manifest.json")
    refusal(pack(path, [("a", b"A", {}), (MANIFEST, text, {})]), "does not begin with a manifest.json")


def test_damaged_manifest(tmp_path: Path) -> None:
    path = pack_payloads(tmp_path / "e.derain", {})
    path.write_bytes(path.read_bytes().replace(b"sid-lite", b"sid-late"))
    refusal(path, "CRC")


def test_a_huge_manifest_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = pack(tmp_path / "e.derain", [(MANIFEST, b" " * 2**21, {})])
    refusal(patch(path, 0, 16, "<I", 0), "larger than 1024 KiB")


def test_newer_format_is_told_first(tmp_path: Path) -> None:
    text = json.dumps({"format": FORMAT + 1, "all": "else is new"}).encode()
    members = [(MANIFEST, text, {}), ("ünknown/../", b"x" * 99, {"compress_type": zipfile.ZIP_DEFLATED})]
    message = refusal(pack(tmp_path / "e.derain", members), "newer derain-engine", "Upgrade")
    assert str(FORMAT + 1) in message


def test_unknown_fields_are_ignored(tmp_path: Path) -> None:
    record = manifest_record({"a": b"A"}, later="field")
    record["payloads"]["a"]["later"] = 1
    path = pack(tmp_path / "e.derain", [(MANIFEST, json.dumps(record).encode(), {}), ("a", b"A", {})])
    manifest, payloads = content(path)
    assert payloads == {"a": b"A"}
    assert manifest == Manifest.from_json(json.dumps(manifest_record({"a": b"A"})), "f.derain")


# Damage anywhere


def assert_refused_or_unharmed(
    path: Path, damaged: bytes | bytearray, whole: tuple[Manifest, dict[str, bytes]]
) -> None:
    path.write_bytes(damaged)
    try:
        found = content(path)
    except BundleError as error:
        assert str(path) in str(error)
    else:
        assert found == whole


# Every 23rd byte shares no factor with the alignment, so all parts of headers and data are met.
STEPS = pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)])


@STEPS
def test_truncation_is_refused(engine: Path, step: int) -> None:
    data = engine.read_bytes()
    for length in range(0, len(data), step):
        engine.write_bytes(data[:length])
        refusal(engine)


@STEPS
def test_a_flipped_byte_is_refused_or_harmless(engine: Path, step: int) -> None:
    whole, data = content(engine), engine.read_bytes()
    for position in {*range(0, len(data), step), *range(entry_offsets(data)[0], len(data))}:
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        assert_refused_or_unharmed(engine, damaged, whole)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_refused_or_harmless(engine: Path, data: st.DataObject) -> None:
    write_bundle(engine, a_manifest(), PAYLOADS)
    whole, good = content(engine), engine.read_bytes()
    # Half of the positions in the directory and the end record, which most of the checks are about.
    directory = entry_offsets(good)[0]
    position = st.one_of(st.integers(0, len(good) - 1), st.integers(directory, len(good) - 1))
    damaged = bytearray(good)
    for at, piece in data.draw(
        st.lists(st.tuples(position, st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)
    ):
        damaged[at : at + len(piece)] = piece
    cut = data.draw(st.one_of(st.just((0, 0)), st.tuples(position, st.integers(1, 64))))
    del damaged[cut[0] : cut[0] + cut[1]]
    assert_refused_or_unharmed(engine, damaged, whole)


# Unpacking


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder).as_posix()): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("existing", [False, True])
def test_unpack(engine: Path, existing: bool) -> None:
    folder = engine.parent / "out"
    if existing:
        folder.mkdir()
        inode = folder.stat().st_ino
    paths = unpack_bundle(engine, folder)
    assert paths == [folder / MANIFEST, *(folder / name for name in sorted(PAYLOADS))]
    with open_bundle(engine) as bundle:
        assert tree(folder) == {MANIFEST: bytes(bundle.read(MANIFEST)), **PAYLOADS}
    assert sorted(engine.parent.iterdir()) == [engine, folder]
    if existing:
        assert folder.stat().st_ino == inode
    assert all(not path.name.startswith(".") for path in folder.rglob("*"))


def test_unpack_into_the_working_folder(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = engine.parent / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert unpack_bundle(engine, ".")[0] == Path(MANIFEST)
    assert tree(folder).keys() == {MANIFEST, *PAYLOADS}


def test_unpack_keeps_out_of_what_is_there(engine: Path) -> None:
    folder = engine.parent
    with pytest.raises(InputError, match="not empty"):
        unpack_bundle(engine, folder)
    with pytest.raises(InputError, match="not a folder"):
        unpack_bundle(engine, engine)
    with pytest.raises(InputError, match="cannot be written"):
        unpack_bundle(engine, folder / "missing" / "out")
    (folder / "dangling").symlink_to(folder / "nowhere")
    with pytest.raises(InputError, match="not a folder"):
        unpack_bundle(engine, folder / "dangling")
    assert sorted(folder.iterdir()) == [folder / "dangling", engine]


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_no_half_folder(tmp_path: Path, existing: bool) -> None:
    engine, folder = tmp_path / "e.derain", tmp_path / "out"
    write_bundle(engine, a_manifest(), {"a": b"small", "b": bytes(100_000)})
    if existing:
        folder.mkdir()
    with largest_file(20_000), pytest.raises(OSError):
        unpack_bundle(engine, folder)
    assert sorted(tmp_path.iterdir()) == ([engine, folder] if existing else [engine])
    assert not existing or not list(folder.iterdir())


def test_an_interruption_while_moving_leaves_an_existing_folder_empty(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = engine.parent / "out"
    folder.mkdir()
    rename, calls = Path.rename, []

    def third_fails(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", third_fails)
    with pytest.raises(KeyboardInterrupt):
        unpack_bundle(engine, folder)
    assert len(calls) == 3
    assert list(folder.iterdir()) == []


def test_a_bad_bundle_is_not_unpacked(tmp_path: Path) -> None:
    text = json.dumps(manifest_record({"../x": b"X"})).encode()
    pack(tmp_path / "e.derain", [(MANIFEST, text, {}), ("../x", b"X", {})])
    (tmp_path / "deep").mkdir()
    with pytest.raises(BundleError, match="no safe name"):
        unpack_bundle(tmp_path / "e.derain", tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []
    assert not list(tmp_path.rglob("x"))


def test_bundle_is_a_context_manager(engine: Path) -> None:
    with open_bundle(engine) as bundle:
        assert isinstance(bundle, Bundle)
        assert bundle.path == engine
    with pytest.raises(BundleError, match="closed"):
        bundle.read("empty")

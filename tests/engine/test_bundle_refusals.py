"""Files that are no engine files, hide something or are damaged anywhere are refused by name."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from derain_engine.base.errors import BundleError
from derain_engine.engine.bundle import MANIFEST, write_bundle
from derain_engine.engine.manifest import FORMAT, Manifest

from ..helpers import a_manifest
from .bundles import PAYLOADS, content, manifest_record, pack, refusal


def pack_payloads(path: Path, payloads: Mapping[str, bytes], **changes: Any) -> Path:
    text = json.dumps(manifest_record(payloads, **changes)).encode()
    return pack(path, [(MANIFEST, text, {}), *((name, data, {}) for name, data in payloads.items())])


def entry_offsets(data: bytes | bytearray) -> list[int]:
    """Return where the central directory's entries begin."""
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

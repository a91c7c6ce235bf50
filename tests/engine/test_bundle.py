"""Engine files give back what was written, unpack into a folder, and leave nothing half-written."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from derain_engine.base.errors import BundleError, InputError
from derain_engine.engine.bundle import MANIFEST, Bundle, open_bundle, unpack_bundle, write_bundle

from ..helpers import a_manifest
from .bundles import PAYLOADS, content, manifest_record, pack, refusal


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

"""Engine files for a GPU are programs: whose are opened."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from derain_engine.base.errors import BundleError, InputError
from derain_engine.engine import runtime, trust
from derain_engine.engine.bundle import open_bundle, write_bundle
from derain_engine.engine.runtime import load

from ..helpers import a_fake_manifest
from .sessions import FakeSession


@pytest.fixture(autouse=True)
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the record is kept: nowhere near the user's."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "data" / "derain-engine" / "trusted"


@pytest.fixture
def engine_file(tmp_path: Path) -> Path:
    path = tmp_path / "gpu.derain"
    write_bundle(path, a_fake_manifest(), {"fake/kernel.cubin": b"program"})
    return path


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Register a backend on a GPU that opens anything."""
    backend = SimpleNamespace(name="fake", on_gpu=True, opened=0)

    def open_(artefact: object, options: object) -> FakeSession:
        backend.opened += 1
        return FakeSession()

    backend.open = open_
    monkeypatch.setattr(runtime.backends, "names", lambda: ["fake"])
    monkeypatch.setattr(runtime.backends, "get", {"fake": backend}.__getitem__)
    return backend


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_was_built_here_is_opened_wherever_it_lies(
    backend: SimpleNamespace, engine_file: Path, tmp_path: Path
) -> None:
    trust.record(engine_file)
    load(engine_file).close()
    copied = tmp_path / "copied.derain"
    shutil.copy(engine_file, copied)
    load(copied).close()
    assert backend.opened == 2


def test_what_somebody_else_built_is_refused_with_its_hash(
    backend: SimpleNamespace, engine_file: Path, record: Path
) -> None:
    with pytest.raises(BundleError) as caught:
        load(engine_file)
    message = str(caught.value)
    assert str(engine_file) in message and message.endswith(f"--trust {sha256(engine_file)}")
    assert "\n" not in message and backend.opened == 0
    assert not record.exists(), "looking leaves no trace"


def test_a_file_that_was_changed_is_another_one(
    backend: SimpleNamespace, engine_file: Path, record: Path
) -> None:
    trust.record(engine_file)
    write_bundle(engine_file, a_fake_manifest(), {"fake/kernel.cubin": b"another program"})
    with pytest.raises(BundleError, match=f"--trust {sha256(engine_file)}"):
        load(engine_file)
    shutil.rmtree(record)
    write_bundle(engine_file, a_fake_manifest(), {"fake/kernel.cubin": b"program"})
    with pytest.raises(BundleError, match="not built here by you"):
        load(engine_file)
    assert backend.opened == 0


def test_naming_the_hash_opens_it_and_is_not_remembered(
    backend: SimpleNamespace, engine_file: Path, record: Path
) -> None:
    right = sha256(engine_file)
    for named in (right, right.upper(), [right], ["0" * 64, right]):
        load(engine_file, trust=named).close()
    assert backend.opened == 4 and not record.exists()
    for wrong in ("0" * 64, ["0" * 64], [], ()):
        with pytest.raises(BundleError, match="not built here by you"):
            load(engine_file, trust=wrong)
    assert backend.opened == 4


@pytest.mark.parametrize("nonsense", ["", "yes", "0" * 63, "0" * 65, "g" * 64, "sha256:" + "0" * 64])
def test_what_is_no_hash_is_refused_as_such(
    backend: SimpleNamespace, engine_file: Path, nonsense: str
) -> None:
    trust.record(engine_file)
    for given in (nonsense, [nonsense]):
        with pytest.raises(InputError, match="is not a SHA-256 of 64 hexadecimal digits"):
            load(engine_file, trust=given)
    assert backend.opened == 0


def test_the_record_is_the_users_alone(engine_file: Path, record: Path) -> None:
    before = os.umask(0)
    try:
        trust.record(engine_file)
        trust.record(engine_file)
    finally:
        os.umask(before)
    (kept,) = record.iterdir()
    assert kept.name == sha256(engine_file)
    assert record.stat().st_mode & 0o777 == 0o700 and kept.stat().st_mode & 0o777 == 0o600


def test_without_a_place_for_the_record_the_hash_has_to_be_named(
    backend: SimpleNamespace, engine_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("a file where the folder would be")
    trust.record(engine_file)
    with pytest.raises(BundleError, match="--trust"):
        load(engine_file)
    load(engine_file, trust=sha256(engine_file)).close()


def test_engines_for_cpus_never_ask(
    backend: SimpleNamespace, engine_file: Path, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.on_gpu = False
    monkeypatch.setattr(trust, "_folder", None)
    load(engine_file).close()
    assert backend.opened == 1 and not record.exists()


def test_a_bundle_tells_the_hash_that_tools_print(engine_file: Path) -> None:
    with open_bundle(engine_file) as bundle:
        assert bundle.sha256() == sha256(engine_file)

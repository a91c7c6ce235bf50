"""The engine file, ``.derain``: a manifest and a backend's payloads in one archive that can be mapped.

It is a zip of a narrow kind, so that any zip tool can list it and nothing in it needs interpreting:

- ``manifest.json`` comes first, then the payloads by name; nothing lies between, before or after them.
- Members are stored uncompressed, each one's data at a multiple of 64 bytes (padding in the local header's
  extra field), so that a payload is used straight from the mapping.
- The same manifest and payloads give the same bytes. Member dates are ``SOURCE_DATE_EPOCH``, else 1980-01-01.
- The manifest holds the size and SHA-256 of every payload; the zip's CRC-32 covers the manifest itself.

An engine file comes from a stranger: :func:`open_bundle` checks all of this before it hands anything out. The
hashes find damage; they do not say who made the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import re
import secrets
import shutil
import stat
import struct
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, final

from ..base.errors import BundleError, InputError
from ..base.files import atomic_write
from .backends.base import Artefact
from .manifest import LARGEST_MANIFEST, Manifest

MANIFEST = "manifest.json"
#: In bytes: a cache line, and the widest vector load of the CPUs that payloads are used on.
ALIGNMENT = 64

# Far from what networks need (tens of MB, tens of members); they keep a file from costing memory before it is
# known to be good, and keep writing clear of zip64.
_MOST_PAYLOAD_BYTES = 2**30
_MOST_MEMBERS = 4096
_LONGEST_NAME = 200
_MOST_DIRECTORY_BYTES = _MOST_MEMBERS * (46 + _LONGEST_NAME)

# The names that every file system can hold: plain ASCII, no dot at either end, none of Windows' devices.
_PART = re.compile(
    r"(?!(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$))[a-z0-9_](?:[a-z0-9_.+-]*[a-z0-9_+-])?", re.IGNORECASE
)

# Of the zip layout, only what zipfile does not tell: the end record (read before zipfile reads the directory,
# to bound it) and the two lengths in a local header behind which a member's data begin.
_END_RECORD = struct.Struct("<4s8xIIH")  # signature, bytes and offset of the directory, bytes of the comment
_LOCAL_HEADER = struct.Struct("<26xHH")  # bytes of the name, bytes of the extra field
_ALIGNMENT_FIELD = struct.Struct("<HHH")  # id and bytes of an extra field, alignment; zeros follow
_ALIGNMENT_FIELD_ID = 0xD935  # the one that Android packages use for the same purpose


@final
class Bundle:
    """An open engine file whose content has been checked. A context manager.

    path: the file. manifest: what is in it.

    The file must not be overwritten in place while it is open (replacing it by a rename, as
    :func:`write_bundle` does, is harmless).
    """

    def __init__(
        self, path: Path, manifest: Manifest, mapping: mmap.mmap, spans: Mapping[str, tuple[int, int]]
    ):
        self.path = path
        self.manifest = manifest
        self._mapping: mmap.mmap | None = mapping
        self._spans = spans

    @property
    def names(self) -> tuple[str, ...]:
        """The payloads' names, sorted."""
        return tuple(sorted(self.manifest.payloads))

    def read(self, name: str) -> memoryview:
        """Return a read-only view of a payload (or of ``manifest.json`` as it is stored), without a copy.

        It starts at a multiple of 64 bytes in memory and stays valid after :meth:`close` for as long as
        something refers to it.

        Raises:
            BundleError: there is no such payload, or the bundle is closed.
        """
        mapping = self._mapped()
        if name not in self._spans:
            raise BundleError(
                f"{self.path} has no payload {name!r}, only {', '.join(self.names)}; build it anew."
            )
        start, end = self._spans[name]
        return memoryview(mapping)[start:end]

    def artefact(self) -> Artefact:
        """Return what a backend opens. Raises BundleError once the bundle is closed."""
        manifest = self.manifest
        return Artefact(
            manifest.backend,
            manifest.backend_version,
            manifest.precision,
            {name: self.read(name) for name in self.names},
            manifest.gpus,
            sizes=manifest.sizes,
        )

    def sha256(self) -> str:
        """Return the hash of the whole file, in hexadecimal, as ``sha256sum`` gives it. Raises BundleError once it is
        closed."""
        return hashlib.sha256(self._mapped()).hexdigest()

    def _mapped(self) -> mmap.mmap:
        if self._mapping is None:
            raise BundleError(f"{self.path} has been closed; open it again to read it.")
        return self._mapping

    def close(self) -> None:
        """Let go of the file. Calling it twice is harmless."""
        mapping, self._mapping = self._mapping, None
        if mapping is not None:
            # With views still in use, the last of them to go unmaps the file.
            with contextlib.suppress(BufferError):
                mapping.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_bundle(
    path: str | os.PathLike[str], manifest: Manifest, payloads: Mapping[str, bytes | memoryview]
) -> Manifest:
    """Write an engine file, whole or not at all.

    Args:
        manifest: ``manifest.payloads`` is filled in here, whatever it holds.
        payloads: names such as ``openvino/model.bin`` and C-contiguous bytes.

    Returns:
        The manifest as :func:`open_bundle` will give it.

    Raises:
        BundleError: a payload's name or the manifest is not what an engine file may hold, or it is too much.
        InputError: the file cannot be written there, or ``SOURCE_DATE_EPOCH`` is not a number of seconds.
        OSError: writing failed, such as for a full disk; an existing file is untouched.
    """
    path = Path(path)
    contents = {name: memoryview(payloads[name]).cast("B") for name in sorted(payloads)}
    if problem := _members_problem([MANIFEST, *contents]):
        raise BundleError(f"{path} cannot be written: {problem}.")
    if sum(view.nbytes for view in contents.values()) > _MOST_PAYLOAD_BYTES:
        raise BundleError(
            f"{path} cannot be written: the payloads exceed the {_MOST_PAYLOAD_BYTES >> 20} MiB limit."
        )
    table = {
        name: {"bytes": view.nbytes, "sha256": hashlib.sha256(view).hexdigest()}
        for name, view in contents.items()
    }
    text = replace(manifest, payloads=table).to_json()
    written = Manifest.from_json(text, str(path))
    date = _member_date()
    with (
        atomic_write(path) as temporary,
        open(temporary, "wb") as file,
        zipfile.ZipFile(file, "w", allowZip64=False) as archive,
    ):
        for name, view in {MANIFEST: memoryview(text.encode()), **contents}.items():
            info = zipfile.ZipInfo(name, date)
            info.create_system = 3  # Unix, on whatever machine this runs
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.extra = _padding(file.tell() + _LOCAL_HEADER.size + len(name))
            archive.writestr(info, view)
            info.extra = b""  # only the local header needs it, not the directory written at the end
    return written


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open an engine file and check all of it, every payload's hash included.

    Raises:
        BundleError: the file is missing, unreadable, damaged, of a newer format, or no engine file at all.
    """
    path = Path(path)
    try:
        # Asked first, because opening a pipe would wait for its other end.
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise BundleError(f"{path} is {kind}; give an engine file (.derain).")
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise _damaged(path, "is empty")
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            try:
                return _checked(path, file, mapping)
            except BaseException:
                mapping.close()
                raise
    except FileNotFoundError:
        advice = "check the name, or make it with `derain-engine build`"
        raise BundleError(f"{path} does not exist; {advice}.") from None
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read: {error.strerror or error}; check the name and the permissions."
        ) from error


def unpack_bundle(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> list[Path]:
    """Write an engine file's manifest and payloads as plain files into a folder, all of them or none.

    Args:
        folder: created where it does not exist; an existing one must be empty.

    Returns:
        The files written, ``manifest.json`` first.

    Raises:
        BundleError: as :func:`open_bundle`.
        InputError: the folder cannot be made, or is not empty.
        OSError: writing failed, such as for a full disk; nothing is left behind.
    """
    folder = Path(folder)
    with open_bundle(path) as bundle, _whole_folder(folder) as temporary:
        members = (MANIFEST, *bundle.names)
        for name in members:
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with bundle.read(name) as view:
                target.write_bytes(view)
    return [folder / name for name in members]


def _damaged(path: Path, what: str) -> BundleError:
    return BundleError(f"{path} {what}: it is damaged or not an engine file; copy it again or build it anew.")


def _members_problem(names: Sequence[str]) -> str | None:
    """Tell why these members cannot lie together in an engine file and be unpacked anywhere; None where they can."""
    if len(names) > _MOST_MEMBERS:
        return f"more than {_MOST_MEMBERS} members"
    seen: set[str] = set()
    for name in names:
        if len(name) > _LONGEST_NAME or not all(_PART.fullmatch(part) for part in name.split("/")):
            shown = repr(name[:_LONGEST_NAME])
            return f"{shown} is no safe name: ASCII letters, digits and . _ + - between slashes, no path out"
        if name.lower() in seen:
            return f"two members are named {name!r} (upper and lower case count as the same)"
        seen.add(name.lower())
    for name in seen:
        for end in (i for i, letter in enumerate(name) if letter == "/"):
            if name[:end] in seen:
                return f"the member {name[:end]!r} is also the folder of another"
    return None


def _member_date() -> tuple[int, int, int, int, int, int]:
    """Return the date of every member: SOURCE_DATE_EPOCH in UTC, moved into the years that a zip can hold."""
    text = os.environ.get("SOURCE_DATE_EPOCH") or "0"
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise InputError(
            f"SOURCE_DATE_EPOCH is {text!r}; set it to whole seconds since 1970-01-01, or unset it."
        )
    date = time.gmtime(int(text))[:6]
    return min(max(date, (1980, 1, 1, 0, 0, 0)), (2107, 12, 31, 23, 59, 58))


def _padding(offset: int) -> bytes:
    """Return the extra field after which data that would begin at ``offset`` begin at a multiple of ALIGNMENT."""
    length = -offset % ALIGNMENT
    if length < _ALIGNMENT_FIELD.size:
        length += ALIGNMENT
    return _ALIGNMENT_FIELD.pack(_ALIGNMENT_FIELD_ID, length - 4, ALIGNMENT).ljust(length, b"\0")


def _checked(path: Path, file: IO[bytes], mapping: mmap.mmap) -> Bundle:
    directory_start = _directory_start(path, mapping)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            manifest = _manifest(path, archive, members)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error) as error:
        raise _damaged(path, f"is not a sound archive ({error})") from error

    spans: dict[str, tuple[int, int]] = {}
    end = 0
    for info in members:
        _check_member(path, info)
        # Each member begins where the last one ended: none overlaps another, nothing is hidden between them.
        if info.header_offset != end:
            raise _damaged(path, f"has a gap or an overlap at its member {info.filename!r}")
        start = end + _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack_from(mapping, end))
        end = start + info.file_size
        if end > directory_start:
            raise _damaged(path, f"is too small for its member {info.filename!r}")
        if start % ALIGNMENT:
            raise _damaged(path, f"does not align its member {info.filename!r} (packed by another tool?)")
        spans[info.filename] = (start, end)
    if end != directory_start:
        raise _damaged(path, "has a gap before its directory")

    expected = {MANIFEST, *manifest.payloads}
    if stray := sorted(spans.keys() - expected):
        raise _damaged(path, f"holds {stray[0]!r}, which its manifest does not name")
    if missing := sorted(expected - spans.keys()):
        raise _damaged(path, f"does not hold {missing[0]!r}, which its manifest names")
    for name, entry in manifest.payloads.items():
        start, end = spans[name]
        if end - start != entry["bytes"]:
            raise _damaged(
                path, f"holds {end - start} bytes of {name!r}, its manifest names {entry['bytes']}"
            )
        with memoryview(mapping) as whole, whole[start:end] as view:
            if hashlib.sha256(view).hexdigest() != entry["sha256"]:
                raise _damaged(path, f"has a wrong SHA-256 in its payload {name!r}")
    return Bundle(path, manifest, mapping, spans)


def _directory_start(path: Path, mapping: mmap.mmap) -> int:
    """Return where the zip's directory begins, after the checks that bound what zipfile will read of it."""
    if mapping[:4] != b"PK\x03\x04":
        raise BundleError(f"{path} is not an engine file; make one with `derain-engine build`.")
    end = len(mapping) - _END_RECORD.size
    if end < 0:
        raise _damaged(path, "is truncated")
    signature, directory_bytes, directory_start, comment_bytes = _END_RECORD.unpack_from(mapping, end)
    if signature != b"PK\x05\x06" or comment_bytes or directory_start + directory_bytes != end:
        raise _damaged(path, "is truncated or has something appended")
    # A zip64 locator would make zipfile follow other numbers than these.
    if mapping[max(end - 20, 0) :].startswith(b"PK\x06\x07"):
        raise _damaged(path, "uses zip64")
    if directory_bytes > _MOST_DIRECTORY_BYTES:
        raise _damaged(path, "has too large a directory")
    return directory_start


def _manifest(path: Path, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> Manifest:
    if not members or members[0].filename != MANIFEST:
        raise _damaged(path, f"does not begin with a {MANIFEST}")
    _check_member(path, members[0])
    with archive.open(members[0]) as file:
        # Read up to the end, zipfile compares the CRC; cut off by the bound, from_json refuses the length.
        manifest = Manifest.from_json(file.read(LARGEST_MANIFEST + 1), str(path))
    # After the manifest, so that a newer format is told as such, whatever else has changed.
    if problem := _members_problem([info.filename for info in members]):
        raise _damaged(path, f"holds what it must not ({problem})")
    return manifest


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    # zipfile cuts a name at a NUL, turns backslashes on Windows, and lets an extra field replace the name.
    if info.filename != info.orig_filename:
        raise _damaged(path, f"has a member with two names, {info.orig_filename!r} and {info.filename!r}")
    if info.flag_bits & 0x1:
        raise _damaged(path, f"has an encrypted member {info.filename!r}")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise _damaged(path, f"has a compressed member {info.filename!r}")
    if info.flag_bits:
        raise _damaged(
            path, f"uses a zip feature (flags {info.flag_bits:#x}) at its member {info.filename!r}"
        )
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        raise _damaged(path, f"has a member {info.filename!r} that is a link or a special file")


@contextlib.contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder whose content becomes ``folder``'s when the block ends without error.

    For a new folder it lies beside it and is renamed. An existing empty one may be a mount point or
    somebody's working directory, so it stays, the temporary one lies inside it, and its entries are moved up.
    """
    existing = folder.is_dir()
    try:
        if existing and any(folder.iterdir()):
            raise InputError(f"{folder} is not empty; give a new or an empty folder.")
        if not existing and os.path.lexists(folder):
            raise InputError(f"{folder} is not a folder; give a new or an empty folder.")
        name = f".{folder.name[:100]}.{secrets.token_hex(4)}"
        temporary = folder / name if existing else folder.with_name(name)
        temporary.mkdir()
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}; give another folder.") from error
    moved: list[Path] = []
    try:
        yield temporary
        if existing:
            for entry in sorted(temporary.iterdir()):
                moved.append(entry.rename(folder / entry.name))
            temporary.rmdir()
        else:
            temporary.rename(folder)
    except BaseException:
        for entry in (temporary, *moved):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        raise

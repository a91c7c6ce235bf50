"""The size that a video file says it has: one that was cut off is shorter, and demuxers end there without a word."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
#: Boxes that an MP4 or QuickTime file begins with.
_FIRST_BOXES = {b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}
#: More boxes than any file has at its top, for one that is nothing but empty boxes.
_MOST_BOXES = 1_000_000


def missing_bytes(path: Path) -> int:
    """Return how many bytes the file has less than its outermost elements say.

    These are known of Matroska and WebM (RFC 8794), the MP4 family (ISO/IEC 14496-12) and AVI. 0 for whole files, for
    others, and where the size was never written.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(12)
            if head[:4] == _EBML:
                said = _matroska(file)
            elif head[:4] == b"RIFF" and len(head) == 12:
                said = 8 + struct.unpack_from("<I", head, 4)[0]
            elif head[4:8] in _FIRST_BOXES:
                said = _boxes(file, size)
            else:
                said = 0
    except OSError:  # told by whoever reads the content
        return 0
    return max(said - size, 0)


def _matroska(file: BinaryIO) -> int:
    file.seek(4)
    header = _element_size(file)
    if header is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return 0
    segment = _element_size(file)
    return 0 if segment is None else file.tell() + segment


def _element_size(file: BinaryIO) -> int | None:
    """Read a variable-size integer; None where all its bits are set, which says that the size is not known."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(length - 1), "big")
    bits = 7 * length
    value &= (1 << bits) - 1
    return None if value == (1 << bits) - 1 else value


def _boxes(file: BinaryIO, size: int) -> int:
    """Return where the last box ends that begins within the file."""
    at = 0
    for _ in range(_MOST_BOXES):
        if at + 8 > size:
            break
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:], "big")
        # A length of 0 reaches to the end of the file, wherever that is; what has no name is no box.
        if length < 8 or not all(32 <= letter < 127 for letter in head[4:8]):
            break
        at += length
    return at

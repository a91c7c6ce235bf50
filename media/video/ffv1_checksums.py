"""Damage in FFV1, which FFmpeg's decoder covers with the frame before, without a word to its caller.

RFC 9043, 4.8 and 4.9: every slice ends with its size in 24 bits and, in streams that protect their slices, with a byte
of status and a CRC over the slice and itself, that comes out as 0 (the polynomial is 0x04C11DB7, most significant bit
first, from 0 on).
"""

from __future__ import annotations

import zlib

_SIZE, _PROTECTED = 3, 8
#: Every byte with its bits in the other order, in which zlib's CRC goes through them.
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


class Ffv1Checksums:
    """Looks at the packets of one stream. Whether its slices are protected shows with the first that is whole."""

    def __init__(self) -> None:
        self._protected = self._lost = False

    def damaged(self, packet: bytes, is_key: bool) -> bool:
        """Say whether the packet, one frame, is not as it was written, or (unless ``is_key``) needs one that is not;
        False where nothing tells."""
        whole = _whole(packet)
        self._protected = self._protected or whole
        self._lost = self._protected and (not whole or (self._lost and not is_key))
        return self._lost


def _whole(packet: bytes) -> bool:
    """Say whether the packet is nothing but slices whose CRC is right."""
    end = len(packet)
    while end > 0:
        size = int.from_bytes(packet[end - _PROTECTED : end - _PROTECTED + _SIZE], "big")
        start = end - _PROTECTED - size
        # From the inverse of 0, and inverted again, which undoes zlib's own inversions.
        if start < 0 or zlib.crc32(packet[start:end].translate(_REVERSED), 0xFFFFFFFF) != 0xFFFFFFFF:
            return False
        end = start
    return len(packet) > 0

"""The programs at both ends of a pipe under test, as processes of their own.

``feed WIDTH HEIGHT FRAMES`` writes random 8-bit 4:2:0 frames as YUV4MPEG2, ``drain`` reads whatever comes and drops it.
"""

from __future__ import annotations

import os
import subprocess
import sys

#: Bytes that are read at a time.
_CHUNK = 1 << 17
#: Different frames that are written in turns.
_FRAMES = 4


def start(what: str, *numbers: int) -> subprocess.Popen[bytes]:
    """Start one of the two, with its end of the pipe as ``stdout`` or ``stdin``."""
    command = [sys.executable, "-m", __name__, what, *map(str, numbers)]
    feeds = what == "feed"
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE if feeds else None,
        stdin=None if feeds else subprocess.PIPE,
        bufsize=0,
    )


def _feed(width: int, height: int, count: int) -> None:
    chroma = 2 * ((width + 1) // 2) * ((height + 1) // 2)
    frames = [b"FRAME\n" + os.urandom(width * height + chroma) for _ in range(_FRAMES)]
    with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as pipe:
        parts = [f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420mpeg2\n".encode()]
        for number in range(count):
            parts.append(frames[number % _FRAMES])
            for part in parts:
                rest = memoryview(part)
                while rest:
                    rest = rest[pipe.write(rest) :]
            parts.clear()


def _drain() -> None:
    while os.read(sys.stdin.fileno(), _CHUNK):
        pass


if __name__ == "__main__":
    if sys.argv[1] == "feed":
        _feed(*map(int, sys.argv[2:5]))
    else:
        _drain()

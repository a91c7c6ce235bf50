"""A camera or a URL that is read as long as it gives frames, of which only the newest is kept."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from ...base.errors import DerainError, InputError, MediaError
from .reader import DecodedFrame, VideoReader

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

#: Seconds without a word after which a connection counts as lost, and between tries to get it back, doubled each time.
_SILENCE, _FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 0.5, 8.0
#: Microseconds of a stream that are looked at before its first frame is given.
_LOOKED_AT = 500_000
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
#: How FFmpeg calls what cameras are read with.
_CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


def is_url(source: str) -> bool:
    """Say whether it is ``rtsp://...``, ``http://...`` and the like."""
    return bool(_URL.match(source))


def shown_name(source: str) -> str:
    """Return a name for messages: a URL without user, password and what follows a question mark (keys, perhaps)."""
    if not is_url(source):
        return source
    parts = urlsplit(source)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class LiveSource:
    """Reads in a thread of its own, and gets a lost connection back. A context manager.

    received: frames decoded. replaced: those that a newer one took the place of. reconnections: that worked.
    failure: why it has ended, or None while it goes on or where it was stopped.
    """

    def __init__(self, source: str, *, give_up: float) -> None:
        """Open the source and begin to read.

        Args:
            source: a URL, or a camera as FFmpeg names it.
            give_up: seconds without a frame after which it ends.

        Raises:
            MediaError: it cannot be opened now.
        """
        self.name = shown_name(source)
        self.received = self.replaced = self.reconnections = 0
        self.failure: str | None = None
        self._source, self._give_up = source, give_up
        self.reader = self._open()
        self._newest: tuple[VideoFrame, float] | None = None
        self._changed = threading.Condition()
        self._stopping, self._looked_at = threading.Event(), threading.Event()
        self._unforeseen: Exception | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="derain-engine-live", daemon=True)
        self._thread.start()

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the end, no longer than a connection may be silent."""
        self._stopping.set()
        self._looked_at.set()
        self._thread.join(_SILENCE + 1)

    def take(self, timeout: float) -> tuple[VideoFrame, float] | None:
        """Take the newest frame that was not taken yet, and when it would have come without delay, in seconds of
        ``time.monotonic``; None where none comes in ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended, timeout)
            newest, self._newest = self._newest, None
        if newest is None and self._unforeseen is not None:
            raise self._unforeseen
        return newest

    def release(self) -> None:
        """Let go of ``reader``, which stays open until nobody asks it about the video any more."""
        self._looked_at.set()

    @property
    def ended(self) -> bool:
        """True once no frame comes any more."""
        with self._changed:
            return self._ended and self._newest is None

    def _open(self) -> VideoReader:
        options: dict[str, Any] = {"timeout": (_SILENCE, _SILENCE)}
        if is_url(self._source):
            options["options"] = {"analyzeduration": str(_LOOKED_AT)}
            if self._source.lower().startswith("rtsp"):
                options["options"]["rtsp_transport"] = "tcp"
        elif self._source.startswith("/dev/") or ":" in self._source or sys.platform != "linux":
            options["format"] = _CAMERAS.get(sys.platform, "v4l2")
        return VideoReader(self._source, self.name, options)

    def _run(self) -> None:
        try:
            while self._read() and self._reconnect():
                pass
        except DerainError as error:
            self.failure = str(error)
        except Exception as error:  # raised where frames are taken
            self._unforeseen = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _read(self) -> bool:
        """Read this connection to its end; say whether another one is wanted."""
        # When a frame of time 0 would have come: by the one that came with the least delay.
        zero = float("inf")
        with self.reader as reader:
            for item in reader.read():
                if self._stopping.is_set():
                    return False
                if not isinstance(item, DecodedFrame) or item.frame is None or item.damage:
                    continue
                zero = min(zero, time.monotonic() - item.seconds)
                with self._changed:
                    self.received += 1
                    self.replaced += self._newest is not None
                    self._newest = item.frame, zero + item.seconds
                    self._changed.notify_all()
            # A file that somebody serves has an end.
            again = not reader.seconds and not self._stopping.is_set()
            self._looked_at.wait()
        return again

    def _reconnect(self) -> bool:
        pause, until = _FIRST_PAUSE, time.monotonic() + self._give_up
        while True:
            if self._stopping.wait(min(pause, max(until - time.monotonic(), 0))):
                return False
            try:
                self.reader = self._open()
            except MediaError as error:
                if time.monotonic() >= until:
                    self.failure = f"{self.name} gave no frame for {self._give_up:g} s: {error}"
                    return False
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self.reconnections += 1
            return True


def require_live(source: str) -> None:
    """Raise InputError for a file, which is no live source."""
    if not is_url(source) and os.path.isfile(source):
        raise InputError(f"{source} is a file, of which no frame has to be left out; do without --live.")

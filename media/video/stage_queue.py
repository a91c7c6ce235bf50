"""The queue that two threads hand work through."""

from __future__ import annotations

import queue
import threading
from typing import Any

#: Items that wait between two stages: enough to even out slow ones, few enough for frames of 8K.
_WAITING = 3
#: Seconds after which a stage that waits looks whether the other has ended.
_LOOK = 0.1


class QueueClosed(Exception):
    """A stage waits for another one that has ended."""


class StageQueue:
    """A bounded queue between two threads that either can leave."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(_WAITING)
        self.closed = threading.Event()

    def put(self, item: Any) -> None:
        """Put an item in; raise QueueClosed if the queue is closed while there is no room."""
        while True:
            try:
                return self._queue.put(item, timeout=_LOOK)
            except queue.Full:
                if self.closed.is_set():
                    raise QueueClosed from None

    def get(self) -> Any:
        """Take the next item; raise QueueClosed if the queue is closed while there is nothing."""
        while True:
            try:
                return self._queue.get(timeout=_LOOK)
            except queue.Empty:
                if self.closed.is_set():
                    raise QueueClosed from None

"""The file that a part of a video becomes: how it is encoded, begun, and what else goes into it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...base.files import atomic_write
from .options import VideoOptions
from .reader import VideoReader
from .trim import Trim
from .working_format import WorkingFormat
from .writer import VideoWriter

if TYPE_CHECKING:
    from av.packet import Packet


@dataclass(frozen=True)
class OutputFile:
    """A file to be written, ``target``, with the frames of ``trim`` in the form ``form``."""

    target: Path
    trim: Trim
    form: WorkingFormat
    options: VideoOptions

    def begin(self, path: Path) -> VideoWriter:
        """Begin the file under a name that is not yet its own; errors are those of :class:`VideoWriter`."""
        trim = self.trim
        return VideoWriter(
            path, self.target, trim.reader, self.form, self.options, trim.frames, trim.chapters()
        )

    @contextlib.contextmanager
    def whole(self) -> Iterator[VideoWriter]:
        """Yield a writer of the whole file, which is there once the block ends without error."""
        with atomic_write(self.target) as path, contextlib.closing(self.begin(path)) as writer:
            yield writer

    def copied(self) -> Iterator[Packet]:
        """Read the packets again that are copied into the file."""
        with VideoReader(self.trim.reader.path) as again:
            yield from self.trim.of(again).packets()

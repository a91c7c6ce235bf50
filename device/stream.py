"""Streams, in which work runs in order, and events, which order streams and measure time."""

from __future__ import annotations

from typing import Any

from ..base.errors import InputError
from . import driver
from .context import Context, Resource

#: The driver's number for the stream that synchronises with all others but non-blocking ones; what PyTorch, CuPy
#: and PyCUDA use unless told otherwise.
LEGACY_DEFAULT = 1


class Stream(Resource):
    """An ordered queue of GPU work.

    foreign: another library's stream to use rather than a new one: its number, or a stream object of PyTorch, CuPy,
        PyCUDA or Numba or any with ``__cuda_stream__``. It is kept alive and never destroyed here. New streams do not
        wait for the default stream: where others' data comes in, :mod:`.interop` orders them.

    Raises:
        InputError: ``foreign`` is no stream.
    """

    def __init__(self, context: Context, foreign: Any = None) -> None:
        cuda = driver.bindings()
        self._foreign = foreign
        if foreign is not None:
            # Zero names the same stream as LEGACY_DEFAULT, but protocols between libraries refuse it as ambiguous.
            super().__init__(context, cuda.CUstream(_number_of(foreign) or LEGACY_DEFAULT), None)
            return
        with context.current():
            flags = int(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)
            handle = driver.check(cuda.cuStreamCreate(flags), "creating a stream")
        super().__init__(context, handle, cuda.cuStreamDestroy)

    @property
    def number(self) -> int:
        """The stream's handle as other libraries exchange it; never 0."""
        return int(self.handle)

    def synchronise(self) -> None:
        """Wait until everything in the stream is done.

        Raises:
            DerainError: some of it failed; the driver tells only now.
        """
        driver.check(driver.bindings().cuStreamSynchronize(self.handle), "waiting for the GPU")

    def wait(self, event: Event) -> None:
        """Let what is put into this stream from now on start when ``event`` has happened."""
        driver.check(
            driver.bindings().cuStreamWaitEvent(self.handle, event.handle, 0),
            "letting a stream wait for an event",
        )

    def wait_for(self, other: Stream) -> None:
        """Let what is put into this stream from now on start when all that is in ``other`` now is done.

        While a graph is captured from one of the two this forks the other from it, or joins it again.
        """
        if other.number == self.number:
            return
        cuda, doing = driver.bindings(), "letting a stream wait for another"
        # Not an Event, whose safeguards take longer than the driver does: this is done for every frame.
        event = driver.check(cuda.cuEventCreate(int(cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING)), doing)
        try:
            driver.check(cuda.cuEventRecord(event, other.handle), doing)
            driver.check(cuda.cuStreamWaitEvent(self.handle, event, 0), doing)
        finally:
            cuda.cuEventDestroy(event)


class Event(Resource):
    """A mark in a stream. timing: whether :meth:`elapsed_ms` can be asked, which makes recording slower."""

    def __init__(self, context: Context, timing: bool = False) -> None:
        cuda = driver.bindings()
        kind = cuda.CUevent_flags
        with context.current():
            flags = int(kind.CU_EVENT_DEFAULT if timing else kind.CU_EVENT_DISABLE_TIMING)
            handle = driver.check(cuda.cuEventCreate(flags), "creating an event")
        super().__init__(context, handle, cuda.cuEventDestroy)

    def record(self, stream: Stream) -> None:
        """Let the event happen when everything that is in ``stream`` now is done."""
        driver.check(driver.bindings().cuEventRecord(self.handle, stream.handle), "recording an event")

    def happened(self) -> bool:
        """Say whether what was in the stream when it was recorded is done, without waiting.

        Raises:
            DerainError: some of it failed.
        """
        status, *_ = driver.bindings().cuEventQuery(self.handle)
        if getattr(status, "name", "") == "CUDA_ERROR_NOT_READY":
            return False
        driver.check((status,), "asking how far the GPU is")
        return True

    def synchronise(self) -> None:
        """Wait until the event has happened."""
        driver.check(driver.bindings().cuEventSynchronize(self.handle), "waiting for the GPU")

    def elapsed_ms(self, since: Event) -> float:
        """Return the milliseconds from ``since`` to this event; both were made with ``timing`` and have happened."""
        return driver.check(
            driver.bindings().cuEventElapsedTime(since.handle, self.handle), "measuring time between events"
        )


def _number_of(stream: Any) -> int:
    if isinstance(stream, int):
        return stream
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    # PyTorch's, PyCUDA's (and Numba's, which is of ctypes and says None for 0) and CuPy's names.
    for name in ("cuda_stream", "handle", "ptr"):
        if hasattr(stream, name):
            number = getattr(stream, name)
            return int(getattr(number, "value", number) or 0)
    raise InputError(f"A {type(stream).__name__} is not a CUDA stream.")

"""A session on a GPU: frames from and to the host through page-locked memory, or on the GPU without a copy.

Frames are cleaned one after the other in one stream. Their way to the GPU and back is in streams of their own, so that
with several threads inside a session one frame is uploaded and another downloaded while a third is cleaned.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ...base.errors import DerainError, InputError
from ...device.context import Context
from ...device.interop import DeviceArray, view
from ...device.memory import DeviceBuffer, PinnedBuffer, download, upload
from ...device.stream import Event, Stream
from .base import RunOptions
from .batches import output_for

#: Frames on their way at once for throughput: one up, one at work, one down.
_OVERLAPPED = 3


@dataclass(frozen=True)
class GpuPicture:
    """A picture in GPU memory: three channels of height x width, RGB.

    pointer: its address. planar: 3 x height x width rather than height x width x 3. bytes_: uint8 rather than
    float32.
    """

    pointer: int
    height: int
    width: int
    planar: bool
    bytes_: bool


class GpuNetwork(Protocol):
    """A network that cleans pictures in one stream, which it was made for."""

    def clean(self, source: GpuPicture, target: GpuPicture, height: int, width: int) -> int:
        """Put the cleaning of a picture into the stream; returns how many kernels that launches.

        Called with the context current, by one thread at a time.

        Args:
            source, target: of one size and kind, in different memory.
            height, width: what the picture is padded to, at the bottom and right.
        """
        ...

    def close(self) -> None:
        """Free everything. Nothing is under way in the stream."""
        ...


class GpuSession:
    """An open engine on a GPU.

    make: the network, for its context and the stream that it cleans in; called with the context current.
    parallelism: 1 for latency, more for throughput.
    launches: kernels that the last frame took.

    Raises:
        What ``make`` does.
    """

    def __init__(
        self,
        context: Context,
        make: Callable[[Context, Stream], GpuNetwork],
        precision: str,
        options: RunOptions,
    ) -> None:
        self.precision = precision
        self.parallelism = _OVERLAPPED if options.mode == "throughput" else 1
        self.launches = 0
        self._context = context
        self._order = threading.Lock()
        self._closed = False
        #: Frames on the GPU that are being read, and what happens when they are no longer.
        self._read: deque[tuple[Event, DeviceArray]] = deque()
        with context.current():
            self._stream = Stream(context)
            self._network = make(context, self._stream)
            self._lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
            for _ in range(self.parallelism):
                self._lanes.put(_Lane(context))

    @property
    def available_memory(self) -> int:
        """Bytes of the GPU that are free."""
        return self._context.memory()[0]

    def run(self, batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Run a batch, as :meth:`Session.run` says."""
        out = output_for(batch, out)
        with self._lane() as lane:
            sources, targets = lane.prepare(batch)
            with self._order:
                self._check_open()
                upload(lane.host[: batch.nbytes], sources, lane.stream)
                self._stream.wait_for(lane.stream)
                bytes_ = batch.dtype == np.uint8
                self._clean(sources.pointer, targets.pointer, batch.shape, bytes_, False, batch.shape[1:3])
                lane.stream.wait_for(self._stream)
                download(targets, lane.host[: batch.nbytes], lane.stream)
            lane.stream.synchronise()
            np.copyto(out, lane.host[: batch.nbytes].view(batch.dtype).reshape(batch.shape))
        return out

    def run_on_gpu(
        self, image: Any, padded: Callable[[int, int], tuple[int, int]], stream: Any = None
    ) -> DeviceArray:
        """Clean an image or batch that lies on the GPU; padding, cropping and rounding are done there too.

        Args:
            image: anything with DLPack or ``__cuda_array_interface__``: H x W x 3, N x H x W x 3 or N x 3 x H x W (a
                last axis of 3 wins), RGB, uint8, or float32 in [0, 1].
            padded: the height and width in pixels that a frame's height and width are padded to.
            stream: somebody's, as :class:`Stream` takes them: cleaning starts when what is in it now is done, and
                what is put into it afterwards starts when the frame is clean. Nothing waits on the host but the
                preparation of a size that is new. The image is kept alive until it has been read, and then until
                the next frame on the GPU or the end of the session.

        Returns:
            An array of its shape and dtype in new memory, which may outlive the session: finished, or with a
            ``stream`` ordered there (:attr:`DeviceArray.stream`). Freeing the memory waits for the GPU.

        Raises:
            InputError: another shape or dtype, gaps between the elements, or another GPU.
            DerainError: the driver refuses; with streams also what failed in frames before.
        """
        with self._context.current(), self._order:
            self._check_open()
            while self._read and self._read[0][0].happened():
                self._read.popleft()[0].close()
            theirs = None if stream is None else Stream(self._context, stream)
            source = view(image, self._stream, theirs)
            planar = _is_planar(source)
            if source.dtype not in ("uint8", "float32"):
                raise InputError(
                    f"Frames on the GPU are uint8, or float32 in [0, 1], not {source.dtype}; convert them first."
                )
            memory = DeviceBuffer(self._context, source.region.nbytes)
            result = DeviceArray.over(memory, source.shape, source.dtype, theirs or self._stream)
            count = source.shape[0] if len(source.shape) == 4 else 1
            sides = source.shape[-2:] if planar else source.shape[-3:-1]
            size, bytes_ = padded(*sides), source.dtype == "uint8"
            try:
                self._clean(source.pointer, memory.pointer, (count, *sides), bytes_, planar, size)
                if theirs is not None:
                    theirs.wait_for(self._stream)
                    read = Event(self._context)
                    self._read.append((read, source))
                    read.record(self._stream)
                    return result
            except BaseException:
                # Part of it may be under way, and what it reads is no longer held by anyone here.
                with contextlib.suppress(DerainError):
                    self._stream.synchronise()
                raise
            # Whoever gave the source may write to it or free it next, and knows nothing of this stream.
            self._stream.synchronise()
        return replace(result, stream=None)

    def close(self) -> None:
        """Free everything, as :meth:`Session.close` says."""
        with self._order:
            if self._closed:
                return
            self._closed = True
            with self._context.current():
                self._stream.synchronise()
                while self._read:
                    self._read.popleft()[0].close()
                self._network.close()
                while not self._lanes.empty():
                    self._lanes.get().close()
                self._stream.close()

    def _clean(
        self, source: int, target: int, shape: Sequence[int], bytes_: bool, planar: bool, size: Sequence[int]
    ) -> None:
        """Clean the pictures of a batch, which begin with ``shape``, padded to ``size``."""
        count, height, width = shape[:3]
        step = 3 * height * width * (1 if bytes_ else 4)
        for at in range(0, count * step, step):
            before, after = (GpuPicture(p + at, height, width, planar, bytes_) for p in (source, target))
            self.launches = self._network.clean(before, after, size[0], size[1])

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("This session is closed; open the engine again.")

    @contextlib.contextmanager
    def _lane(self) -> Iterator[_Lane]:
        self._check_open()
        lane = self._lanes.get()
        try:
            with self._context.current():
                yield lane
        finally:
            self._lanes.put(lane)


class _Lane:
    """The memory of one batch on its way: page-locked on the host, before and after on the GPU. It grows to the
    largest batch seen. host: bytes, which hold the rainy batch and then the clean one."""

    def __init__(self, context: Context) -> None:
        self.stream = Stream(context)
        self._context = context
        self._grow(0)

    def prepare(self, batch: np.ndarray) -> tuple[Any, Any]:
        """Make room for a batch, whose bytes are put into the host's part: (before, after) on the GPU."""
        if batch.nbytes > self._pinned.nbytes:
            self.close_memory()
            # What is left where there is not enough memory for more.
            self._grow(0)
            self._grow(batch.nbytes)
        np.copyto(self.host[: batch.nbytes].view(batch.dtype).reshape(batch.shape), batch)
        return self._before.part(0, batch.nbytes), self._after.part(0, batch.nbytes)

    def close_memory(self) -> None:
        for each in (self._pinned, self._before, self._after):
            each.close()

    def close(self) -> None:
        self.close_memory()
        self.stream.close()

    def _grow(self, nbytes: int) -> None:
        pinned = PinnedBuffer(self._context, nbytes)
        before, after = (DeviceBuffer(self._context, nbytes) for _ in range(2))
        self._pinned, self._before, self._after = pinned, before, after
        self.host = pinned.array((nbytes,), np.uint8)


def _is_planar(array: DeviceArray) -> bool:
    shape = array.shape
    if not math.prod(shape) or len(shape) not in (3, 4) or 3 not in (shape[-1], shape[-3]):
        raise InputError(
            f"A frame on the GPU is height x width x 3, N x height x width x 3 or N x 3 x height x width, not {shape}."
        )
    if len(shape) == 3 and shape[-1] != 3:
        raise InputError(
            f"The frame's channels come first in {shape}; add an axis before them for a batch of one."
        )
    return shape[-1] != 3

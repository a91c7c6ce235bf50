"""Engines at work: load one, clean an image or batch, or a stream of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from ..base import files
from ..base.errors import BundleError, InputError
from ..base.limits import available_memory
from ..base.sizes import Size, padded_side, words
from ..device import interop, libraries
from . import backends
from . import trust as trusted
from .backends.base import RunOptions, RunsOnGpu, Session
from .bundle import open_bundle
from .frames import accept, pad_to
from .manifest import Manifest
from .tiling import plan_tiles, run_tiled

#: What a frame takes in a session, in bytes a pixel, where the engine file does not say. The largest network
#: here keeps 528 float32 channels alive at full resolution (2.1 kB) and works in about as much.
_UNKNOWN_BYTES_PER_PIXEL = 4096

_MODES = ("latency", "throughput")

T = TypeVar("T")


class Engine:
    """A network ready to clean images. Threads may share it. A context manager; else call :meth:`close`.

    A frame is padded at the bottom and right to the network's granularity, run and cropped, whatever the
    backend; an engine of one size, or of a range, pads what is smaller to its least size, which may give another
    result. Frames too large for the memory or the engine are run in overlapping tiles, which for networks with a
    global receptive field comes close to the whole frame without equalling it.
    """

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        *,
        tile: Literal["auto"] | int = "auto",
        memory_limit_bytes: int | None = None,
    ) -> None:
        """Put an engine around a session.

        Args:
            session: closed by :meth:`close`.
            manifest: of the engine file that the session was opened from.
            tile: ``"auto"`` tiles frames whose estimated memory exceeds the limit, or that are larger than the engine
                takes, and no others; a number is the side of the tiles in pixels (rounded up to the granularity), for
                every frame that is larger; 0 never tiles.
            memory_limit_bytes: what ``"auto"`` may use for all frames in flight together; by default half of the
                memory that is available now where the session runs.

        Raises:
            InputError: a tile that is not larger than twice the manifest's overlap, or a limit below 1.
        """
        self.manifest = manifest
        #: What the engine computes in: the manifest's precision, or fp32 where the device lacks that.
        self.precision = session.precision
        self._session = session
        self._sizes = manifest.sizes
        self._discard = manifest.exact_tiling_halo or 0
        self._overlap, self._least_tile = manifest.overlap, manifest.least_tile
        #: Side of tiles in pixels; None where each frame decides, 0 for never.
        self.tile = self._tile_side(tile)
        limit = memory_limit_bytes
        if limit is None:
            on_device = session.available_memory
            limit = (available_memory() if on_device is None else on_device) // 2
        elif limit < 1:
            raise InputError(f"A memory limit of {limit} bytes leaves nothing to work in.")
        bytes_per_pixel = manifest.bytes_per_pixel or _UNKNOWN_BYTES_PER_PIXEL
        self._pixels_at_once = limit // (bytes_per_pixel * session.parallelism)
        self._slots = threading.BoundedSemaphore(session.parallelism)
        self._calls = 0
        self._calls_changed = threading.Condition()
        self._closed = False

    def __call__(self, image: T, *, stream: Any = None) -> T:
        """Clean one image or a batch of images of one size, from 1 x 1 pixel up.

        Args:
            image: RGB. H x W x 3, N x H x W x 3, or N x 3 x H x W (a last axis of 3 wins); uint8, uint16, or
                float16, float32, float64 in [0, 1]; a NumPy array or another library's array in CPU memory (a
                PyTorch tensor). It is not changed.
                Where the engine runs on a GPU also an array that lies there, with DLPack or
                ``__cuda_array_interface__`` (PyTorch, CuPy, PyCUDA, ...): uint8 or float32, without gaps. It is read
                where it lies and run whole, never in tiles, and its values are not looked at.
            stream: for an image on the GPU, the CUDA stream that it is written in: a number, a stream of PyCUDA, CuPy,
                PyTorch or Numba, or any with ``__cuda_stream__``; 0 is the default stream. Nothing waits on the host:
                the image is read when what is in the stream now is done, and what is put there afterwards starts when
                the result is finished. The image may be dropped at once, as the engine keeps it until it has been
                read (and no longer than to the next frame on the GPU after that); it may be written to in the stream.
                The result is for use in the stream, or after waiting for it. What fails on the GPU is told there, or
                by the next call.

        Returns:
            A new array of the same type, dtype and shape, finished unless there is a ``stream``. Integers are
            rounded and clamped; floats are computed in float32 and given as the network made them, which may lie a
            little outside [0, 1]. For an array on the GPU of a library other than PyCUDA and Numba that has no
            ``from_dlpack`` it is a ``DeviceArray``, which has both protocols.

        Raises:
            InputError: the image is something else (the message says what to do), the engine is closed, or there is
                a stream for an image that is not on the GPU.
        """
        with self._in_use():
            if interop.on_gpu(image):
                return self._clean_on_gpu(image, stream)
            if stream is not None:
                raise InputError(
                    f"A stream orders work on the GPU, and this {type(image).__name__} is not there; leave the stream "
                    "out, or put the image on the GPU first."
                )
            frame = accept(image)
            height, width = frame.batch.shape[1:3]
            padded = pad_to(frame.batch, self._sizes.padded(height, width))
            return frame.restore(self._clean(padded)[:, :height, :width])

    def stream(self, frames: Iterable[T]) -> Generator[T, None, None]:
        """Clean frames one after another, in order, several at once where the session can.

        Args:
            frames: what the engine can be called with, sizes and kinds may change. They are drawn in the caller's
                thread while earlier ones are being worked on; of those drawn, at most ``parallelism`` + 1 are not
                yet given back. A drawn frame must not be written to before its result has come.

        Yields:
            The clean frames. An exception of ``frames``, or of a frame that cannot be worked on, is raised
            in that frame's place, after the results of all frames before it. Closing or dropping the iterator
            waits for the frames in work and drops the rest.

        Raises:
            InputError: the engine is closed.
        """
        self._check_open()
        return self._stream(frames)

    def warmup(self, height: int, width: int) -> None:
        """Run one black uint8 frame of that size in pixels, so that the first real one need not compile."""
        self(np.zeros((height, width, 3), np.uint8))

    def close(self) -> None:
        """Wait for calls that are running, then free the session. Calling it twice is harmless."""
        with self._calls_changed:
            if self._closed:
                return
            self._closed = True
            self._calls_changed.wait_for(lambda: self._calls == 0)
        self._session.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tile_side(self, tile: Literal["auto"] | int) -> int | None:
        """Return the side in pixels; None for what ``"auto"`` decides frame by frame, 0 for never."""
        if tile == "auto":
            return None
        if isinstance(tile, bool) or not isinstance(tile, int) or tile < 0:
            raise InputError(f"tile is 'auto', 0 for never, or the side of a tile in pixels, not {tile!r}.")
        if tile == 0:
            return 0
        side = padded_side(tile, self.manifest.granularity, self.manifest.smallest_side)
        if side < self._least_tile:
            raise InputError(
                f"Tiles of {tile} px are too small for this engine: they must exceed twice its overlap of "
                f"{self._overlap} px; use at least {self._least_tile}, or 'auto'."
            )
        return side

    def _clean(self, padded: np.ndarray) -> np.ndarray:
        count, height, width = padded.shape[:3]
        taken = self._sizes.take(height, width)
        side, step = self.tile, self.manifest.granularity
        if side is None:
            if taken and count * height * width <= self._pixels_at_once:
                return self._run(padded)
            fitting = int(self._pixels_at_once**0.5) // step * step
            side = max(fitting, self._least_tile)
            if taken and (height * width <= self._pixels_at_once or max(height, width) <= side):
                return np.concatenate([self._run(padded[i : i + 1]) for i in range(count)])
        if side == 0:
            self._require_taken(height, width)
            return self._run(padded)
        tile = self._sizes.tile(height, width, side)
        if tile == (height, width):
            return self._run(padded)
        if any(
            part < min(whole, self._least_tile) for part, whole in zip(tile, (height, width), strict=True)
        ):
            # They come from the engine, and are too small to overlap.
            self._require_taken(height, width)
        grid = plan_tiles(height, width, tile, granularity=step, overlap=self._overlap, discard=self._discard)
        return run_tiled(padded, grid, self._run)

    def _require_taken(self, height: int, width: int) -> None:
        if self._sizes.most is not None and not self._sizes.take(height, width):
            raise InputError(
                f"A frame of {height}x{width} (height x width, padded) is larger than the {words(self._sizes.most)} "
                f"that this engine was built for; clean it in tiles (--tile auto, for which the engine's sides have to "
                f"be {self._least_tile} px or more), or build the engine with a larger --max or --shape."
            )

    def _clean_on_gpu(self, image: Any, stream: Any) -> Any:
        session = self._session
        if not isinstance(session, RunsOnGpu):
            raise InputError(
                f"The {type(image).__name__} is on a GPU and this engine runs on the CPU ({self.manifest.backend}); "
                "move it to the CPU first, with image.cpu() for PyTorch."
            )
        with self._slots:
            clean = session.run_on_gpu(image, self._padded, stream)
        return libraries.array_like(clean, image)

    def _padded(self, height: int, width: int) -> Size:
        """Return what a frame that is run whole is padded to."""
        padded = self._sizes.padded(height, width)
        self._require_taken(*padded)
        return padded

    def _run(self, batch: np.ndarray) -> np.ndarray:
        with self._slots:
            return self._session.run(batch)

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("This engine is closed; load it again.")

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        with self._calls_changed:
            self._check_open()
            self._calls += 1
        try:
            yield
        finally:
            with self._calls_changed:
                self._calls -= 1
                self._calls_changed.notify_all()

    def _stream(self, frames: Iterable[T]) -> Generator[T, None, None]:
        pending: deque[Future[T]] = deque()
        failure: Exception | None = None
        source = iter(frames)
        threads = self._session.parallelism
        pool = ThreadPoolExecutor(threads, thread_name_prefix="derain-engine-stream")
        try:
            while True:
                try:
                    frame = next(source)
                except StopIteration:
                    break
                except Exception as error:  # held back until the frames before it are given
                    failure = error
                    break
                pending.append(pool.submit(self, frame))
                del frame
                while pending and (len(pending) > threads or pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
            if failure is not None:
                raise failure
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def load(
    path: str | os.PathLike[str],
    *,
    mode: Literal["latency", "throughput"] = "latency",
    threads: int | None = None,
    tile: Literal["auto"] | int = "auto",
    memory_limit_bytes: int | None = None,
    cache: bool = True,
    trust: str | Sequence[str] = (),
) -> Engine:
    """Open an engine file.

    Args:
        mode: ``latency`` for one frame as soon as possible, ``throughput`` for streams of many frames.
        threads: CPU threads, None for all cores.
        tile, memory_limit_bytes: as for :class:`Engine`.
        cache: keep compiled code in the user's cache folder, so that the next load is faster.
        trust: SHA-256, one or several, of engine files for a GPU that somebody else built, or another machine: such
            files hold programs. Not needed for files that this user built here.

    Raises:
        BundleError: the file is missing, damaged, of a newer format, for an unknown backend, or not trusted.
        BackendUnavailable: the library or device that the file needs is not on this machine.
        InputError: an option out of range.
    """
    if mode not in _MODES:
        raise InputError(f"mode is one of {', '.join(_MODES)}, not {mode!r}.")
    if threads is not None and threads < 1:
        raise InputError(f"An engine needs at least one thread, not {threads}.")
    with open_bundle(path) as bundle:  # mapped payloads outlive it where the session keeps them
        manifest = bundle.manifest
        if manifest.backend not in backends.names():
            raise BundleError(
                f"{path} needs the backend {manifest.backend!r}, which this derain-engine does not have "
                f"({', '.join(backends.names())}); upgrade derain-engine, or build the file anew."
            )
        backend = backends.get(manifest.backend)
        if backend.on_gpu:
            trusted.require(bundle, trust)
        artefact = bundle.artefact()
    options = RunOptions(
        mode=mode, threads=threads, cache_dir=_cache_dir(backend.name, manifest) if cache else None
    )
    session = backend.open(artefact, options)
    try:
        return Engine(session, manifest, tile=tile, memory_limit_bytes=memory_limit_bytes)
    except BaseException:
        session.close()
        raise


def _cache_dir(backend: str, manifest: Manifest) -> Path | None:
    """Return a folder for this very artefact; None where there is none to write to, as a cache only saves time."""
    key = hashlib.sha256()
    for name, payload in sorted(manifest.payloads.items()):
        key.update(f"{name}\0{payload['sha256']}\n".encode())
    with contextlib.suppress(OSError):
        return files.cache_dir(backend, key.hexdigest()[:32])
    return None

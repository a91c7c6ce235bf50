"""Cleans a folder of pictures in a PyCUDA program: upload, network and download of three pictures overlap.

    pip install 'derain-engine[pycuda]'
    derain-engine build sid-lite -o model.derain --backend fused
    python pycuda_pipeline.py model.derain photos/ clean/

Every picture goes through one of three lanes, each with a PyCUDA stream of its own and page-locked memory at both ends.
The host waits only for a lane's earlier picture, when the lane is wanted again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# The engine works in the GPU's primary context, and so has PyCUDA to: not in one of its own, as of pycuda.autoinit.
import pycuda.autoprimaryctx  # noqa: F401  # pyright: ignore[reportMissingImports]
import pycuda.driver as cuda  # pyright: ignore[reportMissingImports]
from PIL import Image
from pycuda import gpuarray  # pyright: ignore[reportMissingImports]

import derain_engine

LANES = 3
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class Lane:
    """The way of one picture at a time to the GPU, through the engine and back, in one stream."""

    def __init__(self, engine: derain_engine.Engine) -> None:
        self._engine = engine
        self._stream = cuda.Stream()
        self._done = cuda.Event()
        self._host = np.empty(0, np.uint8)
        self._rainy: Any = None
        self._clean: Any = None

    def start(self, picture: np.ndarray) -> None:
        """Put everything that is to be done with a picture, H x W x 3 uint8 RGB, into the stream."""
        if self._rainy is None or self._host.shape != picture.shape:
            self._host = cuda.pagelocked_empty(picture.shape, np.uint8)
            self._rainy = gpuarray.GPUArray(picture.shape, np.uint8)
        np.copyto(self._host, picture)
        self._rainy.set_async(self._host, stream=self._stream)
        # A GPUArray again. Nothing has waited: reading the rainy one and writing this one are ordered in the stream.
        self._clean = self._engine(self._rainy, stream=self._stream)
        # The upload is over before this begins, so that one stretch of page-locked memory serves both ways.
        self._clean.get_async(self._stream, self._host)
        self._done.record(self._stream)

    def finish(self) -> np.ndarray | None:
        """Wait for the picture that was started, None where there was none. It is valid until the next start."""
        if self._clean is None:
            return None
        self._done.synchronize()
        self._clean = None
        return self._host


def clean_all(
    engine: derain_engine.Engine, pictures: Iterable[tuple[str, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the pictures with their names, clean and in order. Each is valid until the next one is asked for."""
    lanes = [Lane(engine) for _ in range(LANES)]
    names: list[str] = []
    for name, picture in pictures:
        lane = lanes[len(names) % LANES]
        if (clean := lane.finish()) is not None:
            yield names[len(names) - LANES], clean
        lane.start(picture)
        names.append(name)
    for i in range(max(0, len(names) - LANES), len(names)):
        clean = lanes[i % LANES].finish()
        assert clean is not None
        yield names[i], clean


def read_all(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in SUFFIXES:
            with Image.open(file) as picture:
                yield file.name, np.asarray(picture.convert("RGB"))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("engine", type=Path, help="an engine file for this machine's GPU")
    parser.add_argument("rainy", type=Path, help="a folder of pictures")
    parser.add_argument("clean", type=Path, help="where they go, under the same names with .png")
    options = parser.parse_args(arguments)
    options.clean.mkdir(parents=True, exist_ok=True)
    with derain_engine.load(options.engine) as engine:
        for name, clean in clean_all(engine, read_all(options.rainy)):
            Image.fromarray(clean).save(options.clean / f"{Path(name).stem}.png")
            print(name)


if __name__ == "__main__":
    main()

"""Cleans what OpenCV captures: a camera, a file or a URL.

    python stream_opencv.py 0 --show --engine model.derain
    python stream_opencv.py rain.mp4 --out clean.mp4

OpenCV's frames are BGR and the engine's RGB. Showing needs opencv-python; the headless build only writes. A camera that
is faster than the engine makes this fall behind: `derain-engine video /dev/video0 --live` drops what is late instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import cv2
import numpy as np

import derain_engine


def capture(source: str) -> tuple[cv2.VideoCapture, Iterator[np.ndarray]]:
    """Open what is captured from; return it, and its frames in RGB."""
    camera = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    if not camera.isOpened():
        raise SystemExit(f"{source} cannot be opened.")

    def frames() -> Iterator[np.ndarray]:
        while True:
            there, frame = camera.read()
            if not there:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    return camera, frames()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="the number of a camera, a file or a URL")
    parser.add_argument("--out", help="a video to write")
    parser.add_argument("--show", action="store_true", help="in a window; Q ends it")
    parser.add_argument("--engine", default="model.derain", help="an engine file (%(default)s)")
    arguments = parser.parse_args()
    camera, frames = capture(arguments.source)
    writer: cv2.VideoWriter | None = None
    count = 0
    with derain_engine.load(arguments.engine) as engine:
        for clean in engine.stream(frames):
            picture = cv2.cvtColor(clean, cv2.COLOR_RGB2BGR)
            if arguments.out and writer is None:
                rate = camera.get(cv2.CAP_PROP_FPS) or 25
                code = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(arguments.out, code, rate, picture.shape[1::-1])
                if not writer.isOpened():
                    raise SystemExit(
                        f"{arguments.out} cannot be written; it takes an existing folder and .mp4."
                    )
            if writer is not None:
                writer.write(picture)
            count += 1
            if arguments.show:
                cv2.imshow("derain-engine", picture)
                if cv2.waitKey(1) & 0xFF in (ord("q"), 27):
                    break
    camera.release()
    if writer is not None:
        writer.release()
    print(f"{count} frames")


if __name__ == "__main__":
    main()

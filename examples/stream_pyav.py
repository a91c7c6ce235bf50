"""Cleans a video in a loop of PyAV's: the least that a program with its own decoder and encoder needs.

    pip install 'derain-engine[video]'
    python stream_pyav.py rain.mp4 clean.mp4 --engine model.derain

`Engine.stream` draws frames while earlier ones are being worked on, gives results in order, and holds few of them.
This keeps timestamps, and nothing else: `derain-engine video` also keeps sound, colours and what cameras write.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator
from typing import Any

import av
import numpy as np

import derain_engine


def clean_video(engine: derain_engine.Engine, source: str, target: str) -> int:
    """Clean a video; return the number of frames."""
    count = 0
    with av.open(source) as reading, av.open(target, "w") as writing:
        video = reading.streams.video[0]
        stream = writing.add_stream("libx264", rate=video.average_rate or 25, options={"crf": "16"})
        # Chroma at half the size needs even sides.
        odd = video.width % 2 or video.height % 2
        stream.width, stream.height = video.width, video.height
        stream.pix_fmt = "yuv444p" if odd else "yuv420p"
        stream.time_base = stream.codec_context.time_base = video.time_base
        times: deque[Any] = deque()

        def pictures() -> Iterator[np.ndarray]:
            for frame in reading.decode(video):
                times.append(frame.pts)
                yield frame.to_ndarray(format="rgb24")

        for clean in engine.stream(pictures()):
            frame = av.VideoFrame.from_ndarray(clean, format="rgb24")
            frame.pts, frame.time_base = times.popleft(), video.time_base
            writing.mux(stream.encode(frame))
            count += 1
        writing.mux(stream.encode())
    return count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="a video")
    parser.add_argument("target", help="written in H.264")
    parser.add_argument("--engine", default="model.derain", help="an engine file (%(default)s)")
    arguments = parser.parse_args()
    with derain_engine.load(arguments.engine, mode="throughput") as engine:
        print(f"{clean_video(engine, arguments.source, arguments.target)} frames")


if __name__ == "__main__":
    main()

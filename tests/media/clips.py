"""Little videos made for tests, and what is in a video."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from derain_engine.base.errors import InputError
from derain_engine.engine.runtime import Engine

from ..helpers import a_fake_manifest

TICKS = Fraction(1, 1000)
MANIFEST = a_fake_manifest(
    granularity=8, smallest_side=8, exact_tiling_halo=0, tile_overlap=0, bytes_per_pixel=1
)


class Shifting:
    """Adds a constant to every pixel; cannot work on the calls named in ``refuses`` (0 is the first)."""

    precision = "fp32"
    available_memory = None

    def __init__(self, shift: int = 0, parallelism: int = 1, refuses: tuple[int, ...] = ()) -> None:
        self.shift, self.parallelism, self.refuses, self.calls = shift, parallelism, refuses, 0

    def run(self, batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        self.calls += 1
        if self.calls - 1 in self.refuses:
            raise InputError("this engine is tired")
        if batch.dtype == np.uint8:
            return np.clip(batch.astype(np.int16) + self.shift, 0, 255).astype(np.uint8)
        return batch + np.float32(self.shift / 255)

    def close(self) -> None:
        pass


def engine(shift: int = 0, **options: Any) -> Engine:
    return Engine(Shifting(shift, **options), MANIFEST, tile=0)


def random_frame(pix_fmt: str, seed: int, width: int = 64, height: int = 48, **colours: int) -> av.VideoFrame:
    """Noise over every code that the format has."""
    frame = av.VideoFrame(width, height, pix_fmt)
    generator = np.random.default_rng(seed)
    bits = frame.format.components[0].bits
    for plane in frame.planes:
        samples = np.frombuffer(cast(Any, plane), np.uint8 if bits == 8 else np.uint16)
        samples[:] = generator.integers(0, 1 << bits, samples.shape)
    for name, value in colours.items():
        setattr(frame, name, value)
    return frame


def codes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Return of each plane what is within the picture."""
    kind = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    size = np.dtype(kind).itemsize
    return [
        np.frombuffer(cast(Any, plane), kind)
        .reshape(plane.height, plane.line_size // size)[:, : plane.width]
        .copy()
        for plane in frame.planes
    ]


def make_clip(
    path: Path,
    *,
    times: tuple[int, ...] = tuple(range(0, 480, 40)),
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    codec: str = "ffv1",
    options: dict[str, str] | None = None,
    audio: bool = False,
    subtitles: bool = False,
    rotation: int | None = None,
    title: str = "",
    **colours: int,
) -> Path:
    """Write a video of noise.

    Args:
        times: of its frames in ms.
        colours: color_range, colorspace, color_primaries, color_trc.
    """
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        context: Any = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, pix_fmt
        context.time_base = stream.time_base = TICKS
        context.sample_aspect_ratio = Fraction(4, 3)
        for name, value in colours.items():
            setattr(context, name, value)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if title:
            container.metadata["title"] = title
        container.set_chapters(
            [{"id": 1, "start": 0, "end": 200, "time_base": TICKS, "metadata": {"title": "rain"}}]
        )
        sound = container.add_stream("aac", rate=48000) if audio else None
        words = av.open(_lines(path.with_suffix(".srt"), times[::4])) if subtitles else None
        said = container.add_stream_from_template(words.streams[0]) if words is not None else None
        if sound is not None:
            for packet in _noise(sound, times[-1]):
                container.mux(packet)
        if words is not None:
            for packet in words.demux():
                if packet.size:
                    packet.stream = cast(Any, said)
                    container.mux(packet)
            words.close()
        for number, at in enumerate(times):
            frame = random_frame(pix_fmt, number, width, height, **colours)
            frame.pts, frame.time_base = at, TICKS
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _lines(path: Path, times: tuple[int, ...]) -> str:
    """Write a file of subtitles, one line at each of the times in ms."""
    entries = [
        f"{n}\n00:00:00,{at:03} --> 00:00:00,{at + 80:03}\nline {n}\n" for n, at in enumerate(times, 1)
    ]
    path.write_text("\n".join(entries), "utf-8")
    return str(path)


def _noise(stream: Any, milliseconds: int) -> list[av.Packet]:
    packets = []
    for block in range(milliseconds * 48 // 1024):
        sound = np.random.default_rng(block).uniform(-0.5, 0.5, (2, 1024)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, block * 1024, Fraction(1, 48000)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


@dataclass
class Content:
    """The content of a video that was read back. packets: of other streams, by kind: (seconds, bytes)."""

    times: list[Fraction] = field(default_factory=list)
    frames: list[list[np.ndarray]] = field(default_factory=list)
    packets: dict[str, list[tuple[Fraction, bytes]]] = field(default_factory=dict)
    first: Any = None
    video: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    chapters: list[Any] = field(default_factory=list)


def read(path: Path) -> Content:
    content = Content()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        content.metadata, content.chapters = dict(container.metadata), container.chapters()
        content.video = {
            "codec": context.name,
            "pix_fmt": context.pix_fmt,
            "aspect": stream.sample_aspect_ratio,
            "colours": [
                int(getattr(context, name))
                for name in ("color_range", "colorspace", "color_primaries", "color_trc")
            ],
        }
        for packet in container.demux():
            if packet.stream is not stream:
                if packet.size:
                    entry = (Fraction(packet.pts or 0) * (packet.time_base or 0), bytes(packet))
                    content.packets.setdefault(packet.stream.type, []).append(entry)
                continue
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame)
                content.first = content.first or frame
                content.times.append(Fraction(frame.pts or 0) * (frame.time_base or 0))
                content.frames.append(codes(frame))
    return content

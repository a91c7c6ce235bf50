"""Little pictures made for tests, as arrays and as the bytes of files."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from derain_engine.media.pictures.images import Picture, read_picture

tifffile = pytest.importorskip("tifffile", reason="16-bit TIFF variants are made by tifffile (scikit-image)")

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def values(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    """Return random values, every one of the type as likely as any other."""
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def smooth(height: int = 24, width: int = 32) -> np.ndarray:
    """Return a picture that lossy formats hardly change, different along both axes and in all channels."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, 255 - 127 * (x + y) / (height + width)], -1).astype(
        np.uint8
    )


def exif_block(orientation: int | None = None) -> bytes:
    exif = Image.Exif()
    exif[271] = "Maker"
    exif[306] = "2024:05:06 07:08:09"
    if orientation:
        exif[274] = orientation
    exif.get_ifd(34665)[33434] = 0.01
    exif.get_ifd(34665)[40962] = 32
    exif.get_ifd(34665)[40963] = 24
    exif.get_ifd(34853)[1] = "N"
    return exif.tobytes()


def exif_of(block: bytes | None) -> Image.Exif:
    exif = Image.Exif()
    exif.load(block or b"")
    return exif


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    rows: np.ndarray, depth: int, colour_type: int, *chunks: bytes, size: tuple[int, int] | None = None
) -> bytes:
    """Return a PNG of kinds that Pillow does not write: 16-bit grey with alpha, colour keys, lying headers."""
    height, width = size or rows.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", data), png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def read(folder: Path, content: bytes, name: str = "picture") -> Picture:
    (folder / name).write_bytes(content)
    return read_picture(folder / name)

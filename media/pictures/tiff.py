"""The parts of TIFF that Pillow and OpenCV leave open.

Pillow halves 16-bit colour to 8 bits and OpenCV writes no ICC profile and no EXIF, so files are laid out
here, on top of Pillow's tag directory: one uncompressed strip, which every reader of TIFF (Adobe's revision
6.0) knows. Before decoding, the same directory says what a file holds, so that what cannot be worked on is
refused by name.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...base.errors import MediaError

EXIF_IFD, GPS_IFD = 34665, 34853  # tags whose value is a directory of its own
_UNUSUAL_COLOURS = {
    5: "CMYK colours",
    8: "Lab colours",
    9: "Lab colours",
    10: "Lab colours",
    32803: "raw sensor data",
}
_SAMPLE_FORMATS = {
    2: "signed integers",
    3: "floating-point values",
    5: "complex numbers",
    6: "complex numbers",
}


@dataclass(frozen=True)
class TiffLayout:
    """The layout of a TIFF's pixels, as its first directory says."""

    bits: int  # a sample
    samples: int  # a pixel, alpha included
    white_is_zero: bool
    premultiplied: bool  # the colours are already multiplied with alpha


def read_layout(file: BinaryIO, path: Path) -> TiffLayout:
    """Read the first directory of the TIFF open in ``file``, without decoding a pixel.

    Raises:
        MediaError: the file holds something other than 1- to 16-bit grey, palette or RGB pixels.
    """
    from PIL import TiffImagePlugin

    file.seek(0)
    header = file.read(8)
    if 43 in header[2:4]:  # BigTIFF: the offset of the directory is a 64-bit number
        header += file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    file.seek(tags.next)
    tags.load(file)

    bits = set(_several(tags, TiffImagePlugin.BITSPERSAMPLE, 1))
    sample_formats = set(_several(tags, TiffImagePlugin.SAMPLEFORMAT, 1))
    samples = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    photometric = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0)
    unusual = [_SAMPLE_FORMATS[f] for f in sample_formats if f in _SAMPLE_FORMATS]
    if photometric in _UNUSUAL_COLOURS:
        unusual.append(_UNUSUAL_COLOURS[photometric])
    if not bits <= {1, 2, 4, 8} and bits != {16}:
        unusual.append(" and ".join(f"{b}-bit" for b in sorted(bits)) + " values")
    if bits == {16} and samples == 2:
        unusual.append("16-bit grey with alpha")
    if unusual:
        raise MediaError(f"{path} holds {unusual[0]}; convert it to 8- or 16-bit RGB or grey first.")
    # A raw file's first directory is a small preview: cleaning that one would look like success.
    if 50706 in tags or tags.get(254, 0) & 1:
        raise MediaError(
            f"{path} is a camera's raw file or starts with a preview; develop it to a plain TIFF first."
        )
    if bits == {16} and samples > 1 and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == 2:
        raise MediaError(f"{path} keeps its 16-bit colours in separate planes; save it interleaved first.")
    return TiffLayout(
        bits=max(bits),
        samples=samples,
        white_is_zero=photometric == 0,
        premultiplied=1 in _several(tags, TiffImagePlugin.EXTRASAMPLES, 0),
    )


def encode_tiff(
    pixels: np.ndarray, *, icc: bytes | None, exif: bytes | None, dpi: tuple[float, float] | None
) -> bytes:
    """Encode a whole TIFF file of ``pixels``: (H, W, C), uint8 or uint16.

    C is 1 for grey, 2 for grey and alpha, 3 for RGB, 4 for RGB and alpha. ``exif`` is what
    ``PIL.Image.Exif.tobytes`` gives; its Exif and GPS directories stay directories of their own.
    """
    from PIL import Image, TiffImagePlugin

    height, width, channels = pixels.shape
    tags = TiffImagePlugin.ImageFileDirectory_v2()  # little-endian
    if exif:
        found = Image.Exif()
        found.load(exif)
        for tag in found:
            tags[tag] = found.get_ifd(tag) if tag in (EXIF_IFD, GPS_IFD) else found[tag]
    tags[TiffImagePlugin.IMAGEWIDTH] = width
    tags[TiffImagePlugin.IMAGELENGTH] = height
    tags[TiffImagePlugin.BITSPERSAMPLE] = (8 * pixels.itemsize,) * channels
    tags[TiffImagePlugin.SAMPLEFORMAT] = (1,) * channels
    tags[TiffImagePlugin.SAMPLESPERPIXEL] = channels
    tags[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 1 if channels < 3 else 2
    tags[TiffImagePlugin.PLANAR_CONFIGURATION] = 1
    tags[TiffImagePlugin.COMPRESSION] = 1
    tags[TiffImagePlugin.ROWSPERSTRIP] = height
    tags[TiffImagePlugin.STRIPOFFSETS] = 0  # counted from the end of the directory: its writer adds the rest
    tags[TiffImagePlugin.STRIPBYTECOUNTS] = pixels.nbytes
    if channels in (2, 4):
        tags[TiffImagePlugin.EXTRASAMPLES] = 2  # alpha, the colours not multiplied with it
    if icc:
        tags[TiffImagePlugin.ICCPROFILE] = icc
    if dpi:
        tags[TiffImagePlugin.X_RESOLUTION], tags[TiffImagePlugin.Y_RESOLUTION] = dpi
        tags[TiffImagePlugin.RESOLUTION_UNIT] = 2  # inch
    buffer = io.BytesIO()
    tags.save(buffer)
    buffer.write(np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).data)
    return buffer.getvalue()


def _several(tags: Mapping[int, Any], tag: int, default: int) -> tuple[Any, ...]:
    value = tags.get(tag, default)
    return value if isinstance(value, tuple) else (value,)

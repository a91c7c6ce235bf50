"""Colour of 16 bits through OpenCV, which keeps the bits that Pillow drops."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)


def decode_deep(
    file: BinaryIO, image: Image.Image, *, premultiplied: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode the 16-bit PNG or TIFF open in ``file`` to (H, W, 3) RGB and (H, W) alpha, uint16.

    ``image`` is the same file, loaded by Pillow: it knows what the channels mean and has seen that none of
    the file is missing. ``premultiplied`` colours are divided by alpha.

    Raises:
        ValueError: OpenCV finds something else than Pillow.
    """
    import cv2

    file.seek(0)
    values = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3 or values.shape[1::-1] != image.size:
        raise ValueError("16-bit colours could not be decoded")
    rgb = np.ascontiguousarray(values[..., 2::-1])
    if not image.has_transparency_data or values.shape[2] < 4:
        return rgb, None
    alpha = values[..., 3].copy()
    if premultiplied:
        opacity = np.maximum(alpha, 1)[..., None] / 65535
        rgb = np.minimum(np.rint(rgb / opacity), 65535).astype(np.uint16)
    return rgb, alpha


def encode_deep_png(values: np.ndarray, icc: bytes | None, exif: bytes | None, path: Path) -> bytes:
    """Encode a whole PNG file of (H, W, 3) RGB or (H, W, 4) RGB and alpha, uint16; ``path`` is for the warning.

    Raises:
        ValueError: OpenCV cannot write it.
    """
    import cv2

    belongings = {}
    if exif:
        belongings[cv2.IMAGE_METADATA_EXIF] = np.frombuffer(exif.removeprefix(b"Exif\0\0"), np.uint8)
    if icc:
        belongings[cv2.IMAGE_METADATA_ICCP] = np.frombuffer(icc, np.uint8)
    bgr = np.ascontiguousarray(values[..., [2, 1, 0, 3][: values.shape[2]]])
    written, data = cv2.imencodeWithMetadata(".png", bgr, list(belongings), list(belongings.values()))
    if written:
        return data.tobytes()
    if not icc:
        raise ValueError("16-bit colours could not be encoded")
    # libpng is stricter about profiles than the programs that write them.
    _log.warning("%s: PNG cannot hold this ICC profile; left out.", path)
    return encode_deep_png(values, None, exif, path)

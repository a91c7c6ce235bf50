"""Metadata, which a picture file has beside its pixels: EXIF, ICC profile, resolution.

None of it is worth refusing a picture for: what is damaged is left out with a warning.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from .tiff import EXIF_IFD, GPS_IFD

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION, _WIDTH, _HEIGHT, _INTEROP = 274, 40962, 40963, 40965
# What describes a picture and stays true for another one of its size in another format: description, make,
# model, software, date, artist, host, rating, copyright, the Windows titles and comments, and the two
# directories.
_KEPT_TAGS = (270, 271, 272, 305, 306, 315, 316, 18246, 33432, *range(40091, 40096), EXIF_IFD, GPS_IFD)

_log = logging.getLogger(__name__)


def read_exif(image: Image.Image, path: Path) -> tuple[bytes | None, int]:
    """Return the upright picture's EXIF block, for ``PIL.Image.Exif.load``, and the orientation (1 to 8) to turn it by.

    ``image`` is loaded: in PNG, EXIF may come after the pixels. The block has no orientation and no
    thumbnail.
    """
    from PIL import Image

    orientation = 1
    try:
        found, kept = image.getexif(), Image.Exif()
        if found.get(_ORIENTATION) in range(1, 9):
            orientation = found[_ORIENTATION]
        for tag in _KEPT_TAGS:
            if tag in found:
                kept[tag] = dict(found.get_ifd(tag)) if tag in (EXIF_IFD, GPS_IFD) else found[tag]
        details = kept.get(EXIF_IFD, {})
        details.pop(_INTEROP, None)  # an offset into the old file
        if _WIDTH in details or _HEIGHT in details:
            details[_WIDTH], details[_HEIGHT] = image.size if orientation < 5 else image.size[::-1]
        return (kept.tobytes() if len(kept) else None), orientation
    except Exception:
        _log.warning("%s: its EXIF data is damaged and left out.", path)
        return None, orientation


def read_icc(image: Image.Image, path: Path) -> bytes | None:
    """Return the ICC profile, if the colour engine of Pillow can read it."""
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if not profile:
        return None
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except Exception:
        _log.warning("%s: its ICC profile is damaged and left out.", path)
        return None
    return profile


def read_dpi(image: Image.Image) -> tuple[float, float] | None:
    """Return pixels an inch, horizontal and vertical, as they lie in the file."""
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    # Pillow gives 1 for "not said"; JPEG counts in 16 bits.
    return (across, down) if 1 < across < 65535 and 1 < down < 65535 else None

"""Pictures on disk: PNG, JPEG, WebP, TIFF and BMP to RGB arrays and back, with what belongs to them.

Kept: bit depth (8, and 16 in PNG and TIFF), alpha, the ICC profile, the usual EXIF tags with the Exif and GPS
directories, the resolution, and whether the picture was grey. Not kept: thumbnails (they would show the
picture before), XMP, comments, and in 16-bit colour PNG the resolution outside of EXIF. Where a format cannot
hold something that a picture has, a warning is logged. Pixel values stay in the colour space of the ICC
profile.

Pillow reads and writes; OpenCV decodes and encodes 16-bit colour, which Pillow would halve to 8 bits.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ...base.errors import DerainError, InputError, MediaError
from ...base.files import atomic_write, disk_full
from .deep_colour import decode_deep, encode_deep_png
from .metadata import read_dpi, read_exif, read_icc
from .tiff import encode_tiff, read_layout

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WebP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
"""File name suffixes (lower case) that pictures are written under, and the format of each."""

MAX_PIXELS = 200_000_000
_QUALITY = 95  # JPEG and WebP: no visible loss, about a third of the size of 100
_PNG_LEVEL = 3  # of zlib: photographs take half the time of its default 6 (10 Mpx: 1.3 s) at the same size
_LONGEST_SIDE = {"JPEG": 65500, "WebP": 16383}  # libjpeg's and libwebp's own limits
_JPEG_EXIF_BYTES = 65533  # what one JPEG segment holds
_UNUSUAL_MODES = {
    "CMYK": "has CMYK colours",
    "LAB": "has Lab colours",
    "HSV": "has HSV colours",
    "F": "holds floating-point values",
    "I": "holds 32-bit integers",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture in memory, upright, with what goes back into its file.

    ``dataclasses.replace(picture, pixels=...)`` makes the result of an engine a picture with the same
    belongings.

    Attributes:
        pixels: (H, W, 3) RGB, uint8 or uint16, the full range of the type. A grey picture has three equal
            channels.
        alpha: (H, W) of the same type, 0 transparent; None where the file had none.
        grey: the file was grey; it is written grey again, as the BT.601 luma of ``pixels``.
        icc: ICC profile.
        exif: EXIF block as ``PIL.Image.Exif.tobytes`` gives it, without orientation and thumbnail.
        dpi: horizontal and vertical resolution, pixels an inch.
        path: the file it was read from.

    Raises:
        InputError: arrays of another shape or type.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    grey: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    path: Path | None = None

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or dtype not in (np.uint8, np.uint16):
            raise InputError(f"A picture is an (H, W, 3) array of uint8 or uint16, not {shape} of {dtype}.")
        if self.alpha is not None and (self.alpha.shape != shape[:2] or self.alpha.dtype != dtype):
            raise InputError(
                f"Alpha of {self.alpha.shape}, {self.alpha.dtype} does not fit {shape[:2]}, {dtype}."
            )


def format_of(path: Path) -> str:
    """Return the format that a picture called ``path`` is written in.

    Raises:
        InputError: the suffix is none of ``SUFFIXES``.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} cannot be written: pictures end in one of {', '.join(SUFFIXES)}.")
    return SUFFIXES[path.suffix.lower()]


def read_picture(path: str | Path) -> Picture:
    """Read one picture; its format is recognised by the content, whatever the name says.

    Orientation is applied, palettes are resolved, grey is spread over three channels. The main picture of a
    JPEG is read where it carries others (previews, gain maps).

    More than ``MAX_PIXELS`` are refused from the header, before memory is taken for them.

    Raises:
        MediaError: not a picture of a known format, damaged or cut short, too large, animated or of several
            pages, CMYK, Lab, floating-point or 32-bit; or the file cannot be read. The message names file and
            reason.
    """
    path = Path(path)
    if not path.is_file():
        raise MediaError(f"{path} {'is not a file' if path.exists() else 'does not exist'}.")
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError(f"{path} cannot be read: there is not enough memory for its pixels.") from error
    # Decoders answer damaged files with almost any exception: SyntaxError, struct.error, OverflowError and
    # more.
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise MediaError(f"{path} cannot be read: {error.strerror}.") from error
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise MediaError(
            f"{path} cannot be decoded: damaged, cut short, without pixels or of an unusual kind ({reason})."
        ) from error


def write_picture(path: str | Path, picture: Picture, *, quality: int | None = None) -> None:
    """Write ``picture`` in the format that the suffix of ``path`` names.

    An existing file is replaced once the new one is whole, and stays as it was on any error. 16-bit pictures
    become 8-bit in JPEG, WebP and BMP. TIFF is written uncompressed. Grey with alpha becomes RGB with alpha
    at 16 bits, which is what readers know. The folder must exist.

    Args:
        path: the file; its suffix is one of ``SUFFIXES``.
        picture: what to write.
        quality: 1 to 100 for JPEG (4:4:4) and WebP, 95 unless given; the other formats lose nothing.

    Raises:
        InputError: unknown suffix, quality out of range, missing or closed folder.
        MediaError: the format cannot hold a picture of this size, or writing failed (disk full).
    """
    path = Path(path)
    kind = format_of(path)
    if quality is not None and not 1 <= quality <= 100:
        raise InputError(f"A quality of {quality} is outside of 1 to 100.")
    if kind in _LONGEST_SIDE and max(picture.pixels.shape[:2]) > _LONGEST_SIDE[kind]:
        limit = f"{kind} holds at most {_LONGEST_SIDE[kind]} pixels a side"
        raise MediaError(f"{path} cannot be written: {limit}; choose .png or .tif.")
    try:
        with atomic_write(path) as temporary:
            # Encoded in memory: encoders that write to the disk themselves hide why it failed.
            temporary.write_bytes(_encode(kind, picture, quality or _QUALITY, path))
    except DerainError:
        raise
    except Exception as error:
        if disk_full(error):
            raise MediaError(f"{path} cannot be written: the disk is full.") from error
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).partition("\n")[0]
        raise MediaError(f"{path} cannot be written: {reason}.") from error


def side_by_side(left: Picture, right: Picture) -> Picture:
    """Join two pictures of the same height and type as one; profile and resolution are the left one's.

    Raises:
        InputError: the heights or the types differ.
    """
    if left.pixels.shape[0] != right.pixels.shape[0] or left.pixels.dtype != right.pixels.dtype:
        raise InputError("Pictures side by side need the same height and the same bit depth.")
    alpha = None
    if left.alpha is not None or right.alpha is not None:
        alpha = np.hstack([_alpha_or_opaque(left), _alpha_or_opaque(right)])
    pixels = np.hstack([left.pixels, right.pixels])
    return replace(left, pixels=pixels, alpha=alpha, grey=left.grey and right.grey, exif=None, path=None)


def rain_layer(rainy: Picture, clean: Picture) -> Picture:
    """Return what was taken away: ``rainy - clean`` in the pictures' own values, 0 where that is negative.

    Raises:
        InputError: the sizes or the types differ.
    """
    if rainy.pixels.shape != clean.pixels.shape or rainy.pixels.dtype != clean.pixels.dtype:
        raise InputError("A rain layer needs two pictures of the same size and the same bit depth.")
    taken = rainy.pixels - np.minimum(rainy.pixels, clean.pixels)
    return replace(rainy, pixels=taken, exif=None, path=None)


def _alpha_or_opaque(picture: Picture) -> np.ndarray:
    if picture.alpha is not None:
        return picture.alpha
    return np.full(picture.pixels.shape[:2], np.iinfo(picture.pixels.dtype).max, picture.pixels.dtype)


# Reading


def _read(file: BinaryIO, path: Path) -> Picture:
    head = file.read(32)
    kind = _recognise(head, path)
    layout = read_layout(file, path) if kind == "TIFF" else None
    image = _open(kind, file)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise MediaError(
            f"{path} is {width} x {height} pixels, more than the limit of {MAX_PIXELS}; make it smaller."
        )
    if getattr(image, "n_frames", 1) > 1:
        raise MediaError(
            f"{path} is animated or has several pages; save the one you mean as a picture of its own."
        )
    if image.mode in _UNUSUAL_MODES:
        raise MediaError(
            f"{path} {_UNUSUAL_MODES[image.mode]}; convert it to 8- or 16-bit RGB or grey first."
        )
    image.load()  # decodes the whole file and is strict about it, where OpenCV would hand over half a picture

    if layout and layout.samples > len(image.getbands()):
        _log.warning("%s: channels beyond colour and alpha are left out.", path)
    deep = layout.bits == 16 if layout else kind == "PNG" and head[24] == 16
    if not deep:
        pixels, alpha = _shallow_arrays(image)
    elif image.mode.startswith("I;16"):
        pixels, alpha = np.asarray(image).astype(np.uint16), None
        key = image.info.get("transparency")
        if isinstance(key, int):
            alpha = np.where(pixels == key, 0, 65535).astype(np.uint16)
        if layout and layout.white_is_zero:
            pixels = 65535 - pixels
    else:
        premultiplied = layout is not None and layout.premultiplied
        pixels, alpha = decode_deep(file, image, premultiplied=premultiplied)
        if kind == "PNG" and head[25] == 4:  # IHDR's colour type: grey with alpha, which arrives as colour
            pixels = pixels[..., 0]

    exif, orientation = read_exif(image, path)
    # A TIFF says 1 by now: there the orientation belongs to the pixels, and both decoders have turned them.
    pixels = _upright(pixels, orientation)
    alpha = alpha if alpha is None else _upright(alpha, orientation)
    grey = pixels.ndim == 2
    return Picture(
        pixels=np.repeat(pixels[..., None], 3, axis=2) if grey else pixels,
        alpha=alpha,
        grey=grey,
        icc=read_icc(image, path),
        exif=exif,
        dpi=read_dpi(image),
        path=path,
    )


def _recognise(head: bytes, path: Path) -> str:
    if not head:
        raise MediaError(f"{path} is empty.")
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head.startswith(b"BM"):
        return "BMP"
    other = "not a picture"
    if head.startswith(b"GIF8"):
        other = "a GIF"
    elif head[4:8] == b"ftyp":
        other = "a HEIC or AVIF picture or a video"
    raise MediaError(f"{path} is {other}; PNG, JPEG, WebP, TIFF and BMP are read (by content, not by name).")


def _open(kind: str, file: BinaryIO) -> Any:
    # The classes instead of Image.open: that one has a limit of its own, in a global, beside MAX_PIXELS.
    from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

    opener = {
        "PNG": PngImagePlugin.PngImageFile,
        "JPEG": JpegImagePlugin.JpegImageFile,
        "WebP": WebPImagePlugin.WebPImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
    }[kind]
    file.seek(0)
    return opener(file)


def _shallow_arrays(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Return colours, (H, W) or (H, W, 3), and alpha of an 8-bit picture."""
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if not image.has_transparency_data:
        return np.array(image if image.mode == mode else image.convert(mode)), None
    values = np.array(image.convert(mode + "A"))
    return (values[..., 0] if mode == "L" else values[..., :3].copy()), values[..., -1].copy()


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W, ...) by an EXIF orientation (1 to 8)."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


# Writing


def _encode(kind: str, picture: Picture, quality: int, path: Path) -> bytes:
    colours = _luma(picture.pixels) if picture.grey else picture.pixels
    alpha, icc, exif, dpi = picture.alpha, picture.icc, picture.exif, picture.dpi
    lost = []
    if kind in ("JPEG", "BMP") and alpha is not None:
        lost += ["transparency"] if (alpha < np.iinfo(alpha.dtype).max).any() else []
        alpha = None
    deep = colours.dtype == np.uint16 and kind in ("PNG", "TIFF")
    if not deep:
        colours, alpha = _to_8_bits(colours), alpha if alpha is None else _to_8_bits(alpha)
    if colours.shape[2] == 1 and (kind == "WebP" or (deep and alpha is not None)):
        colours = np.repeat(colours, 3, axis=2)
    if icc and (kind == "BMP" or (icc[16:20] == b"GRAY" and colours.shape[2] == 3)):
        lost, icc = [*lost, "ICC profile"], None
    if exif and (kind == "BMP" or (kind == "JPEG" and len(exif) > _JPEG_EXIF_BYTES)):
        lost, exif = [*lost, "EXIF data"], None
    if lost:
        _log.warning("%s: %s of this kind cannot hold the %s; left out.", path, kind, " and the ".join(lost))

    values = colours if alpha is None else np.dstack([colours, alpha])
    if kind == "TIFF":
        return encode_tiff(values, icc=icc, exif=exif, dpi=dpi)
    if deep and values.shape[2] > 1:
        return encode_deep_png(values, icc, exif, path)
    return _encode_with_pillow(kind, values, quality, {"icc_profile": icc, "exif": exif, "dpi": dpi})


def _encode_with_pillow(kind: str, values: np.ndarray, quality: int, belongings: dict[str, Any]) -> bytes:
    from PIL import Image

    options = {name: value for name, value in belongings.items() if value}
    if kind in ("JPEG", "WebP"):
        options["quality"] = quality
    if kind == "PNG":
        options["compress_level"] = _PNG_LEVEL
    if kind == "JPEG":
        options["subsampling"] = "4:4:4"
    buffer = io.BytesIO()
    Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(buffer, kind.upper(), **options)
    return buffer.getvalue()


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 x 257, to the nearest


def _luma(pixels: np.ndarray) -> np.ndarray:
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint(pixels @ weights).astype(pixels.dtype)[..., None]

"""Pictures survive reading and writing with all that belongs to them; everything else is refused by name."""

from __future__ import annotations

import contextlib
import io
import logging
import resource
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin

from derain_engine.engine.errors import InputError, MediaError
from derain_engine.engine.media.images import (
    SUFFIXES,
    Picture,
    rain_layer,
    read_picture,
    side_by_side,
    write_picture,
)

tifffile = pytest.importorskip("tifffile", reason="16-bit TIFF variants are made by tifffile (scikit-image)")

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def values(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    """Every value of the type is as likely as any other."""
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def smooth(height: int = 24, width: int = 32) -> np.ndarray:
    """A picture that lossy formats hardly change, different along both axes and in all channels."""
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
    """A PNG of kinds that Pillow does not write: 16-bit grey with alpha, colour keys, lying headers."""
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


def read(folder: Path, content: bytes, name: str = "picture", **options: int) -> Picture:
    (folder / name).write_bytes(content)
    return read_picture(folder / name, **options)


# Round trips


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_lossless_formats_give_back_every_bit(tmp_path, suffix, dtype, alpha, grey):
    pixels = np.repeat(values(7, 13, 1, dtype=dtype), 3, 2) if grey else values(7, 13, 3, dtype=dtype)
    picture = Picture(pixels, alpha=values(7, 13, dtype=dtype) if alpha else None, grey=grey)
    write_picture(tmp_path / f"a{suffix}", picture)
    back = read_picture(tmp_path / f"a{suffix}")
    assert back.pixels.dtype == dtype
    np.testing.assert_array_equal(back.pixels, pixels)
    if alpha:
        np.testing.assert_array_equal(back.alpha, picture.alpha)
    else:
        assert back.alpha is None
    # Grey with alpha at 16 bits is written as RGB with alpha.
    assert back.grey == (grey and not (alpha and dtype == np.uint16))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_other_programs_read_16_bit_colour(tmp_path, suffix):
    pixels, alpha = values(9, 5, 3, dtype=np.uint16), values(9, 5, dtype=np.uint16)
    write_picture(tmp_path / f"a{suffix}", Picture(pixels, alpha=alpha, icc=SRGB, exif=exif_block()))
    if suffix == ".tif":
        seen = tifffile.imread(tmp_path / "a.tif")
    else:
        import cv2

        seen = np.asarray(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED))[..., [2, 1, 0, 3]]
    np.testing.assert_array_equal(seen, np.dstack([pixels, alpha]))


@pytest.mark.parametrize(("suffix", "bound"), [(".jpg", 3), (".webp", 16), (".bmp", 0)])
@pytest.mark.parametrize("grey", [False, True])
def test_8_bit_formats(tmp_path, suffix, bound, grey):
    pixels = np.repeat(smooth()[..., :1], 3, 2) if grey else smooth()
    write_picture(tmp_path / f"a{suffix}", Picture(pixels, grey=grey))
    back = read_picture(tmp_path / f"a{suffix}")
    assert np.abs(back.pixels.astype(int) - pixels).max() <= bound
    assert back.grey == (grey and suffix != ".webp")


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_16_bits_are_rounded_where_the_format_has_8(tmp_path, suffix):
    eight = smooth()
    sixteen = eight.astype(np.uint16) * 257
    write_picture(tmp_path / f"a{suffix}", Picture(sixteen - (sixteen > 0) * np.uint16(100)))
    write_picture(tmp_path / f"b{suffix}", Picture(eight))
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_jpeg_keeps_colours_at_full_resolution_and_follows_quality(tmp_path):
    picture = Picture(values(32, 32, 3))
    for quality in (60, 95, 100):
        write_picture(tmp_path / f"{quality}.jpg", picture, quality=quality)
    write_picture(tmp_path / "default.jpg", picture)
    image = JpegImagePlugin.JpegImageFile(tmp_path / "default.jpg")
    assert JpegImagePlugin.get_sampling(image) == 0  # 4:4:4
    assert (tmp_path / "default.jpg").read_bytes() == (tmp_path / "95.jpg").read_bytes()
    assert len((tmp_path / "60.jpg").read_bytes()) < len((tmp_path / "100.jpg").read_bytes())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_profile_exif_and_resolution_come_through(tmp_path, suffix, dtype):
    picture = Picture(values(24, 32, 3, dtype=dtype), icc=SRGB, exif=exif_block(), dpi=(300.0, 150.0))
    write_picture(tmp_path / f"a{suffix}", picture)
    first = read_picture(tmp_path / f"a{suffix}")
    write_picture(tmp_path / f"b{suffix}", first)
    back = read_picture(tmp_path / f"b{suffix}")
    assert back.icc == SRGB
    exif = exif_of(back.exif)
    assert exif[271] == "Maker" and exif[306] == "2024:05:06 07:08:09"
    assert float(exif.get_ifd(34665)[33434]) == pytest.approx(0.01)
    assert exif.get_ifd(34853)[1] == "N"
    if suffix != ".webp" and not (suffix == ".png" and dtype == np.uint16):
        assert back.dpi == pytest.approx((300, 150), rel=1e-3)


def test_exif_passes_between_formats(tmp_path):
    write_picture(tmp_path / "a.tif", Picture(smooth(), icc=SRGB, exif=exif_block()))
    write_picture(tmp_path / "b.jpg", read_picture(tmp_path / "a.tif"))
    exif = Image.open(tmp_path / "b.jpg").getexif()
    assert exif[271] == "Maker" and exif.get_ifd(34853)[1] == "N"
    # What laid out the pixels of the TIFF says nothing about the JPEG.
    assert not {256, 257, 258, 259, 262, 273, 277, 278, 279} & set(exif)


def test_the_thumbnail_of_the_rainy_picture_is_gone(tmp_path):
    block, thumbnail = exif_block(), b"\xff\xd8\xff\xe0thumbnail"
    # A second directory behind the block, chained to the first one by the four bytes that end that.
    end = 6 + 8 + 2 + 12 * struct.unpack(">H", block[14:16])[0]
    tags = struct.pack(">HHHIIHHIII", 2, 513, 4, 1, len(block) - 6 + 30, 514, 4, 1, len(thumbnail), 0)
    block = block[:end] + struct.pack(">I", len(block) - 6) + block[end + 4 :] + tags + thumbnail
    assert exif_of(block).get_ifd(ExifTags.IFD.IFD1)  # a thumbnail to Pillow too
    content = saved(Image.fromarray(smooth()), "JPEG", exif=block)
    assert b"thumbnail" in content
    assert b"thumbnail" not in (read(tmp_path, content).exif or b"")


# Orientation

TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "png16", "tiff", "tiff16"])
def test_orientation_is_applied_once(tmp_path, kind, orientation):
    pixels = values(24, 32, 4, dtype=np.uint16 if kind.endswith("16") else np.uint8)
    if kind == "png":
        content = saved(Image.fromarray(pixels), "PNG", exif=exif_block(orientation))
    elif kind == "png16":
        content = png(pixels.astype(">u2"), 16, 6, png_chunk(b"eXIf", exif_block(orientation)[6:]))
    else:
        tag = [(274, "H", 1, orientation, True)]
        content = tiff(pixels, photometric="rgb", extrasamples=["unassalpha"], extratags=tag)
    picture = read(tmp_path, content)
    turned = TURNS[orientation](pixels)
    np.testing.assert_array_equal(picture.pixels, turned[..., :3])
    np.testing.assert_array_equal(picture.alpha, turned[..., 3])
    assert 274 not in exif_of(picture.exif)
    if kind.startswith("png"):
        details = exif_of(picture.exif).get_ifd(34665)
        assert (details[40963], details[40962]) == turned.shape[:2]
    for suffix in (".png", ".tif"):
        write_picture(tmp_path / f"again{suffix}", picture)
        np.testing.assert_array_equal(read_picture(tmp_path / f"again{suffix}").pixels, picture.pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_orientation_of_lossy_formats(tmp_path, kind):
    picture = read(tmp_path, saved(Image.fromarray(smooth()), kind, quality=100, exif=exif_block(6)))
    assert np.abs(picture.pixels.astype(int) - np.rot90(smooth(), -1)).max() <= 16
    assert 274 not in exif_of(picture.exif)


# Kinds of pictures


def test_palettes_bilevel_keys_and_premultiplied_colours_become_plain_ones(tmp_path):
    palette = Image.frombytes("P", (5, 6), (values(6, 5) % 4).tobytes())
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    picture = read(tmp_path, saved(palette, "PNG"))
    np.testing.assert_array_equal(picture.pixels, np.asarray(palette.convert("RGB")))
    assert picture.alpha is None and not picture.grey

    picture = read(tmp_path, saved(palette, "PNG", transparency=bytes([255, 0, 128, 255])))
    np.testing.assert_array_equal(picture.alpha, np.array([255, 0, 128, 255])[np.asarray(palette)])

    bits = Image.fromarray(values(6, 5) > 127)
    picture = read(tmp_path, saved(bits, "BMP"))
    np.testing.assert_array_equal(picture.pixels[..., 0], np.asarray(bits) * 255)

    rgb = values(6, 5, 3)
    picture = read(tmp_path, saved(Image.fromarray(rgb), "PNG", transparency=tuple(map(int, rgb[2, 3]))))
    assert picture.alpha is not None and picture.alpha[2, 3] == 0 and (picture.alpha == 255).sum() == 29


def test_16_bit_kinds(tmp_path):
    deep = values(6, 5, 4, dtype=np.uint16)
    grey_alpha = deep[..., :2]
    picture = read(tmp_path, png(grey_alpha.astype(">u2"), 16, 4))
    np.testing.assert_array_equal(picture.pixels, np.repeat(grey_alpha[..., :1], 3, 2))
    np.testing.assert_array_equal(picture.alpha, grey_alpha[..., 1])
    assert picture.grey

    for colour_type, pixels in ((0, deep[..., :1]), (2, deep[..., :3])):
        key = pixels[2, 3].astype(">u2").tobytes()
        picture = read(tmp_path, png(pixels.astype(">u2"), 16, colour_type, png_chunk(b"tRNS", key)))
        np.testing.assert_array_equal(picture.pixels, np.broadcast_to(pixels, (6, 5, 3)))
        assert picture.alpha is not None and picture.alpha[2, 3] == 0 and (picture.alpha == 65535).sum() == 29

    picture = read(tmp_path, tiff(65535 - deep[..., 0], photometric="miniswhite"))
    np.testing.assert_array_equal(picture.pixels[..., 0], deep[..., 0])
    assert picture.grey

    deep[..., 3] |= 32768
    opacity = deep[..., 3:] / 65535
    content = tiff(
        np.dstack([np.rint(deep[..., :3] * opacity).astype(np.uint16), deep[..., 3]]),
        photometric="rgb",
        extrasamples=["assocalpha"],
    )
    assert np.abs(read(tmp_path, content).pixels.astype(int) - deep[..., :3]).max() <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"byteorder": ">"},
        {"bigtiff": True},
        {"compression": "zlib"},
        {"rowsperstrip": 3},
        {"tile": (16, 16)},
    ],
)
def test_16_bit_tiff_layouts(tmp_path, options):
    pixels = values(20, 18, 3, dtype=np.uint16)
    np.testing.assert_array_equal(read(tmp_path, tiff(pixels, photometric="rgb", **options)).pixels, pixels)


def test_a_grey_result_is_the_luma_of_its_colours(tmp_path):
    pixels = np.zeros((1, 3, 3), np.uint8)
    pixels[0, [0, 1, 2], [0, 1, 2]] = 255
    write_picture(tmp_path / "a.png", Picture(pixels, grey=True))
    assert Image.open(tmp_path / "a.png").mode == "L"
    assert read_picture(tmp_path / "a.png").pixels[0, :, 0].tolist() == [76, 150, 29]


def test_the_content_counts_and_not_the_name(tmp_path):
    assert read(tmp_path, saved(Image.fromarray(smooth()), "PNG"), "photo.jpg").path == tmp_path / "photo.jpg"


def test_the_main_picture_of_several_in_a_jpeg(tmp_path):
    other = Image.fromarray(smooth(8, 8))
    content = saved(Image.fromarray(smooth()), "MPO", save_all=True, append_images=[other])
    assert read(tmp_path, content).pixels.shape == (24, 32, 3)


# What a format cannot hold


def test_losses_are_told(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    full = Picture(smooth(), alpha=values(24, 32), icc=SRGB, exif=exif_block())
    write_picture(tmp_path / "a.jpg", full)
    assert "cannot hold the transparency; left out" in caplog.text
    assert read_picture(tmp_path / "a.jpg").alpha is None
    caplog.clear()
    write_picture(tmp_path / "a.bmp", full)
    assert "cannot hold the transparency and the ICC profile and the EXIF data" in caplog.text
    caplog.clear()
    write_picture(tmp_path / "b.jpg", replace(full, alpha=np.full((24, 32), 255, np.uint8)))
    write_picture(tmp_path / "a.webp", full)
    assert not caplog.records  # opaque alpha says nothing that a JPEG would not say


def test_damaged_belongings_do_not_cost_the_picture(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    picture = read(tmp_path, saved(Image.fromarray(smooth()), "PNG", icc_profile=b"not a profile" * 20))
    assert picture.icc is None and "ICC profile is damaged" in caplog.text
    caplog.clear()
    picture = read(tmp_path, saved(Image.fromarray(smooth()), "PNG", exif=b"Exif\0\0no directory in here"))
    assert picture.exif is None and "EXIF data is damaged" in caplog.text


def test_a_profile_that_libpng_refuses_does_not_cost_the_picture(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    pixels = values(4, 4, 3, dtype=np.uint16)
    write_picture(tmp_path / "a.png", Picture(pixels, icc=b"\0" * 200))
    assert "cannot hold this ICC profile" in caplog.text
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").pixels, pixels)


def test_exif_too_long_for_jpeg(tmp_path, caplog):
    exif = Image.Exif()
    exif[270] = "x" * 70_000
    write_picture(tmp_path / "a.jpg", Picture(smooth(), exif=exif.tobytes()))
    assert "EXIF" in caplog.text and read_picture(tmp_path / "a.jpg").exif is None


# Refusals


def refused_pictures() -> dict[str, tuple[bytes, str]]:
    colour, rgb = Image.fromarray(smooth()), smooth()
    more = {"save_all": True, "append_images": [Image.fromarray(smooth()[::-1].copy())]}
    return {
        "empty": (b"", "is empty"),
        "text": (b"rain, rain, go away\n" * 20, "not a picture"),
        "gif": (saved(colour, "GIF"), "a GIF"),
        "heic": (b"\0\0\0\x18ftypheic" + bytes(64), "HEIC"),
        "apng": (saved(colour, "PNG", **more), "animated"),
        "animated webp": (saved(colour, "WEBP", **more), "animated"),
        "two-page tiff": (saved(colour, "TIFF", **more), "several pages"),
        "cmyk jpeg": (saved(colour.convert("CMYK"), "JPEG"), "CMYK"),
        "cmyk tiff": (saved(colour.convert("CMYK"), "TIFF"), "CMYK"),
        "lab tiff": (saved(colour.convert("LAB"), "TIFF"), "Lab"),
        "float tiff": (tiff(rgb.astype(np.float32), photometric="rgb"), "floating-point"),
        "float grey tiff": (tiff(rgb[..., 0].astype(np.float32)), "floating-point"),
        "int32 tiff": (tiff(rgb[..., 0].astype(np.int32)), "signed integers"),
        "uint32 tiff": (tiff(rgb[..., 0].astype(np.uint32)), "32-bit values"),
        "planar tiff": (
            tiff(values(3, 9, 9, dtype=np.uint16), photometric="rgb", planarconfig="separate"),
            "planes",
        ),
        "grey-alpha tiff": (
            tiff(values(9, 9, 2, dtype=np.uint16), photometric="minisblack", extrasamples=["unassalpha"]),
            "16-bit grey with alpha",
        ),
        "raw": (tiff(rgb, photometric="rgb", subfiletype=1), "raw file"),
        "zero width": (png(values(3, 0, 3), 8, 2), "without pixels"),
        "zero height": (png(values(0, 3, 3), 8, 2), "without pixels"),
        "bomb": (png(values(1, 1, 1), 8, 0, size=(60_000, 60_000)), "more than the limit of 200000000"),
        "16-bit bomb": (
            png(values(1, 1, 3), 16, 2, size=(60_000, 60_000)),
            "more than the limit of 200000000",
        ),
    }


@pytest.mark.parametrize("name", refused_pictures())
def test_refused_by_name(tmp_path, name):
    content, reason = refused_pictures()[name]
    with pytest.raises(MediaError, match=reason) as caught:
        read(tmp_path, content, "some name")
    assert str(tmp_path / "some name") in str(caught.value)


def whole_pictures() -> dict[str, bytes]:
    colour, deep = Image.fromarray(values(24, 20, 3)), values(24, 20, 3, dtype=np.uint16)
    return {
        "png": saved(colour, "PNG", icc_profile=SRGB, exif=exif_block(6)),
        "png16": png(deep.astype(">u2"), 16, 2, png_chunk(b"eXIf", exif_block(8)[6:])),
        "palette": saved(colour.quantize(16), "PNG"),
        "jpeg": saved(colour, "JPEG", icc_profile=SRGB, exif=exif_block(3)),
        "webp": saved(colour, "WEBP", lossless=True, exif=exif_block(5)),
        "tiff": saved(colour, "TIFF", compression="tiff_lzw"),
        "tiff16": tiff(deep, photometric="rgb", extratags=[(274, "H", 1, 6, True)]),
        "zlib16": tiff(deep, photometric="rgb", compression="zlib"),
        "bmp": saved(colour, "BMP"),
    }


WHOLE = whole_pictures()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", WHOLE)
def test_cut_short(tmp_path, kind):
    content = WHOLE[kind]
    assert read(tmp_path, content).pixels.size  # the whole of it is fine
    for share in (0.1, 0.5, 0.8):
        with pytest.raises(MediaError, match="cannot be decoded"):
            read(tmp_path, content[: int(len(content) * share)])


def test_more_pixels_than_allowed(tmp_path):
    content = saved(Image.fromarray(smooth(10, 10)), "PNG")
    assert read(tmp_path, content, max_pixels=100).pixels.shape == (10, 10, 3)
    with pytest.raises(MediaError, match="10 x 10 pixels, more than the limit of 99"):
        read(tmp_path, content, max_pixels=99)


def test_the_limit_is_ours_alone(tmp_path, monkeypatch):
    # Pillow refuses beyond a global of its own, whatever the caller allows.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path, saved(Image.fromarray(smooth()), "PNG")).pixels.shape == (24, 32, 3)


def test_not_files(tmp_path):
    with pytest.raises(MediaError, match="does not exist"):
        read_picture(tmp_path / "nothing.png")
    with pytest.raises(MediaError, match="is not a file"):
        read_picture(tmp_path)


def test_names_that_cannot_be_written(tmp_path):
    picture = Picture(smooth())
    with pytest.raises(InputError, match=r"\.png, \.jpg, \.jpeg, \.webp, \.tif, \.tiff, \.bmp"):
        write_picture(tmp_path / "a.gif", picture)
    with pytest.raises(InputError, match="does not exist"):
        write_picture(tmp_path / "nowhere" / "a.png", picture)
    with pytest.raises(InputError, match="quality of 101"):
        write_picture(tmp_path / "a.jpg", picture, quality=101)
    with pytest.raises(MediaError, match="at most 16383"):
        write_picture(tmp_path / "a.webp", Picture(np.zeros((1, 16_384, 3), np.uint8)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, suffix):
    target = tmp_path / f"a{suffix}"
    target.write_bytes(b"precious")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # the disk takes 2000 bytes and no more
    try:
        with pytest.raises(MediaError, match="cannot be written: File too large"):
            write_picture(target, Picture(values(64, 64, 3)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_bytes() == b"precious" and list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_called_so(tmp_path, monkeypatch):
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MediaError, match="the disk is full"):
        write_picture(tmp_path / "a.png", Picture(smooth()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3)),
    ],
)
def test_arrays_that_are_no_picture(pixels):
    with pytest.raises(InputError, match="A picture is"):
        Picture(pixels)


def test_alpha_fits():
    with pytest.raises(InputError, match="does not fit"):
        Picture(smooth(), alpha=np.zeros((3, 3), np.uint8))


# Made pictures


def test_side_by_side(tmp_path):
    left, right = smooth(), smooth()[:, ::-1]
    both = side_by_side(Picture(left, icc=SRGB, exif=exif_block()), Picture(right, alpha=values(24, 32)))
    np.testing.assert_array_equal(both.pixels, np.concatenate([left, right], 1))
    assert both.alpha is not None and (both.alpha[:, :32] == 255).all()
    np.testing.assert_array_equal(both.alpha[:, 32:], values(24, 32))
    assert both.icc == SRGB and both.exif is None
    for other in (smooth(10, 32), smooth().astype(np.uint16)):
        with pytest.raises(InputError, match="same height"):
            side_by_side(Picture(left), Picture(other))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rain_layer(dtype):
    rainy, clean = values(5, 4, 3, dtype=dtype), values(5, 4, 3, dtype=dtype)[::-1]
    layer = rain_layer(Picture(rainy, grey=True), Picture(clean))
    np.testing.assert_array_equal(layer.pixels, np.clip(rainy.astype(int) - clean, 0, None))
    assert layer.pixels.dtype == dtype and layer.grey
    with pytest.raises(InputError, match="same size"):
        rain_layer(Picture(rainy), Picture(clean[:3]))


# Anything at all: a MediaError or a picture, nothing else


def check_outcome(folder: Path, content: bytes) -> None:
    with warnings.catch_warnings(), contextlib.suppress(MediaError):
        warnings.simplefilter("ignore")  # Pillow's doubts about damaged tags
        picture = read(folder, content, max_pixels=100_000)
        assert picture.pixels.shape[0] * picture.pixels.shape[1] <= 100_000
        for suffix in (".png", ".tif", ".jpg"):
            write_picture(folder / f"again{suffix}", picture)
            assert read_picture(folder / f"again{suffix}").pixels.shape == picture.pixels.shape


fuzz = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
STARTS = [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"RIFF\x20\0\0\0WEBP",
    b"II*\0\x08\0\0\0",
    b"MM\0*",
    b"BM",
]


@fuzz
@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=200))
def test_fuzz_random_bytes(tmp_path, start, rest):
    check_outcome(tmp_path, start + rest)


@pytest.mark.parametrize("kind", WHOLE)
@fuzz
@given(data=st.data())
def test_fuzz_damaged_pictures(tmp_path, kind, data):
    content = bytearray(WHOLE[kind])
    # Half of the damage hits the headers, where it says most.
    where = st.integers(0, 200) | st.integers(0, len(content) - 1)
    for at, byte in data.draw(st.lists(st.tuples(where, st.integers(0, 255)), min_size=1, max_size=4)):
        content[at] = byte
    check_outcome(tmp_path, bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))]))

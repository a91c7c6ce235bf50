"""Pictures survive reading and writing with all that belongs to them; what a format cannot hold is told."""

from __future__ import annotations

import logging
import struct
from dataclasses import replace

import numpy as np
import pytest
from PIL import ExifTags, Image, JpegImagePlugin

from derain_engine.base.errors import InputError
from derain_engine.media.pictures.images import Picture, rain_layer, read_picture, side_by_side, write_picture

from .pictures import SRGB, exif_block, exif_of, png, png_chunk, read, saved, smooth, tiff, values

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
        import tifffile

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

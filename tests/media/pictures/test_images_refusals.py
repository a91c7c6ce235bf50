"""Files that are no picture, damaged, too large or cannot be written are refused by name, whatever the bytes."""

from __future__ import annotations

import contextlib
import resource
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from derain_engine.base.errors import InputError, MediaError
from derain_engine.media.pictures import images
from derain_engine.media.pictures.images import SUFFIXES, Picture, read_picture, write_picture

from .pictures import SRGB, exif_block, png, png_chunk, read, saved, smooth, tiff, values


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


def test_more_pixels_than_allowed(tmp_path, monkeypatch):
    content = saved(Image.fromarray(smooth(10, 10)), "PNG")
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    assert read(tmp_path, content).pixels.shape == (10, 10, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    with pytest.raises(MediaError, match="10 x 10 pixels, more than the limit of 99"):
        read(tmp_path, content)


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


# Anything at all: a MediaError or a picture, nothing else


def check_outcome(folder: Path, content: bytes) -> None:
    with warnings.catch_warnings(), contextlib.suppress(MediaError), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")  # Pillow's doubts about damaged tags
        patch.setattr(images, "MAX_PIXELS", 100_000)
        picture = read(folder, content)
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

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from derain_engine.engine.errors import InputError, MediaError
from derain_engine.training.data import (
    RainPatches,
    find_photos,
    load_photos,
    split_photos,
    to_tensor,
    validation_pairs,
)


def photos(*sizes):
    return [
        np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8) for i, size in enumerate(sizes)
    ]


@pytest.fixture
def folder(tmp_path):
    """photos/{a,b/c,b/d}.* and a text file."""
    root = tmp_path / "photos"
    (root / "b").mkdir(parents=True)
    for name in ("a.png", "b/c.JPG", "b/d.bmp"):
        Image.new("RGB", (40, 36), "grey").save(root / name)
    (root / "notes.txt").write_text("no picture")
    return root


def names(found, folder):
    return [path.relative_to(folder).as_posix() for path in found]


def test_photographs_are_found_in_subfolders_in_one_order(folder):
    assert names(find_photos(folder), folder) == ["a.png", "b/c.JPG", "b/d.bmp"]


def test_those_in_the_table_are_left_out(folder):
    table = folder.parent / "table.csv"
    table.write_text("file,why\nphotos/b/c.JPG,test\n\nphotos/gone.png,test\n")
    assert names(find_photos(folder, table), folder) == ["a.png", "b/d.bmp"]
    inside = folder / "b" / "table.csv"
    inside.write_text("file\nd.bmp\n../a.png\n")
    assert names(find_photos(folder, inside), folder) == ["b/c.JPG"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\nphotos/other.png\n", "leaves out no picture"),
        ("photos/a.png\n", "leaves out no picture"),
        ("file\nphotos/a.png\nphotos/b/c.JPG\nphotos/b/d.bmp\n", "no picture to train on"),
        (None, "cannot be read"),
        (b"file\n\xff\xfe\n", "cannot be read"),
    ],
    ids=["others", "no header", "all", "missing", "not text"],
)
def test_tables_that_cannot_be_meant_are_refused(folder, text, message):
    table = folder.parent / "table.csv"
    if text is not None:
        table.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        find_photos(folder, table)


def test_folders_without_photographs_are_refused(tmp_path):
    with pytest.raises(InputError, match="no picture"):
        find_photos(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        find_photos(tmp_path / "missing")


def test_the_berkeley_photographs_leave_398_beside_the_test_pairs(shared_data):
    if not (shared_data / "bsds500").is_dir():
        pytest.skip("the BSDS500 photographs are not beside this checkout")
    assert len(find_photos(shared_data / "bsds500")) == 500
    kept = find_photos(shared_data / "bsds500", shared_data / "overlap.csv")
    assert [sum(p.parent.name == part for p in kept) for part in ("train", "val", "test")] == [133, 76, 189]


def test_photographs_are_read_as_8_bit_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((40, 50, 3), (3 << 8, 2 << 8, (1 << 8) + 255), np.uint16))
    (photo,) = load_photos([tmp_path / "deep.png"])
    assert photo.shape == (40, 50, 3) and photo.dtype == np.uint8
    assert (photo == (1, 2, 3)).all()
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(MediaError, match=r"x\.png"):
        load_photos([tmp_path / "x.png"])


def test_the_split_is_disjoint_complete_and_drawn_by_the_seed(tmp_path):
    paths = [tmp_path / str(i) for i in range(40)]
    training, held_out = split_photos(paths, 10, 1)
    assert len(held_out) == 10 and not set(training) & set(held_out)
    assert sorted(training + held_out) == sorted(paths)
    assert split_photos(paths, 10, 1) == (training, held_out)
    assert split_photos(paths, 10, 2)[1] != held_out


def test_patches_depend_on_seed_and_number_alone():
    sources = photos((70, 90), (64, 64))
    whole = RainPatches(sources, 32, 12, seed=5)
    for index in (0, 7, 11):
        rainy, clean = whole[index]
        assert rainy.shape == clean.shape == (3, 32, 32)
        assert rainy.dtype == clean.dtype == torch.float32
        assert 0 <= float(min(rainy.min(), clean.min())) and float(max(rainy.max(), clean.max())) <= 1
        assert all(map(torch.equal, whole[index], (rainy, clean)))
    resumed = RainPatches(sources, 32, 4, seed=5, offset=8)
    assert len(resumed) == 4
    for index in range(4):
        assert all(map(torch.equal, resumed[index], whole[8 + index]))
    assert not torch.equal(whole[0][1], whole[1][1])
    assert not torch.equal(whole[0][1], RainPatches(sources, 32, 12, seed=6)[0][1])


def test_any_number_of_workers_gives_the_same_batches():
    patches = RainPatches(photos((70, 90)), 32, 6, seed=5)
    alone, apart = (list(DataLoader(patches, 2, num_workers=workers)) for workers in (0, 2))
    for one, other in zip(alone, apart, strict=True):
        assert all(map(torch.equal, one, other))


def test_photographs_smaller_than_a_patch_are_enlarged():
    rainy, clean = RainPatches(photos((20, 33)), 48, 1, seed=0)[0]
    assert rainy.shape == clean.shape == (3, 48, 48)


def test_patches_are_not_changed_by_the_photographs_memory_order():
    photo = photos((80, 60))[0]
    turned = np.ascontiguousarray(photo.transpose(1, 0, 2)).transpose(1, 0, 2)
    for index in range(8):
        ours, theirs = (RainPatches([p], 32, 8, seed=1)[index] for p in (photo, turned))
        assert all(map(torch.equal, ours, theirs))


def test_validation_pairs_are_fixed_whole_and_apart():
    sources = photos((70, 100), (64, 64), (33, 32))
    pairs = validation_pairs(sources, 9)
    assert [tuple(clean.shape) for _, clean in pairs] == [(3, 64, 96), (3, 64, 64), (3, 32, 32)]
    for ours, again in zip(pairs, validation_pairs(sources, 9), strict=True):
        assert all(map(torch.equal, ours, again))
    # A pair does not depend on the others, so that it stays comparable when photographs are added.
    assert torch.equal(validation_pairs(sources[:1], 9)[0][0], pairs[0][0])
    other = validation_pairs(sources, 10)
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(pairs, other, strict=True))


def test_tensors_are_channels_first_copies():
    image = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    tensor = to_tensor(image)
    assert tensor.shape == (3, 2, 4) and tensor.is_contiguous()
    for y, x, c in itertools.product(range(2), range(4), range(3)):
        assert tensor[c, y, x] == image[y, x, c]

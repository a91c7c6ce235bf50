from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from derain_engine.base.errors import InputError, MediaError
from derain_engine.samples.rain import KINDS
from derain_engine.training import data, loop
from derain_engine.training.data import (
    TRAINING_SHARES,
    Patches,
    Scenes,
    batches,
    find_photos,
    part_size,
    rainy_pair,
    split,
    to_tensor,
    validation_pairs,
)
from derain_engine.training.distributed import World
from derain_engine.training.options import Phase
from derain_engine.training.pairs import Scene
from derain_engine.training.sid import SidRun


def pictures(*sizes):
    return [
        np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8) for i, size in enumerate(sizes)
    ]


class Held(Scenes):
    """Scenes that are in memory: photographs alone, or (clean, rainy)."""

    def __init__(self, scenes: Any) -> None:
        self._scenes = self._kept = scenes


def photos(*sizes):
    return Held([(picture,) for picture in pictures(*sizes)])


def pairs(*sizes):
    return Held([(picture, 255 - picture) for picture in pictures(*sizes)])


@pytest.fixture
def folder(tmp_path):
    """Make photos/{a,b/c,b/d}.* and a text file."""
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


def test_a_runs_own_samples_are_no_photographs(folder):
    run = SidRun(output=folder / "b", photos=folder)
    assert [scene.clean.name for scene in loop._photos(run, folder, None)] == ["a.png"]
    run = SidRun(output=folder / "elsewhere", photos=folder)
    assert len(loop._photos(run, folder, None)) == 3


def test_those_in_the_table_are_left_out(folder):
    table = folder.parent / "table.csv"
    table.write_text("file,why\nphotos/b/c.JPG,test\n\nphotos/gone.png,test\n")
    assert names(find_photos(folder, table), folder) == ["a.png", "b/d.bmp"]
    table.write_text(table.read_text().partition("\n")[2])
    assert names(find_photos(folder, table), folder) == ["a.png", "b/d.bmp"], "without a header, too"
    inside = folder / "b" / "table.csv"
    inside.write_text("file\nd.bmp\n../a.png\n")
    assert names(find_photos(folder, inside), folder) == ["b/c.JPG"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\nphotos/other.png\n", "leaves out no picture"),
        ("file\nphotos/a.png\nphotos/b/c.JPG\nphotos/b/d.bmp\n", "no picture to train on"),
        (None, "cannot be read"),
        (b"file\n\xff\xfe\n", "cannot be read"),
    ],
    ids=["others", "all", "missing", "not text"],
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
    (photo,) = Scenes([Scene(tmp_path / "deep.png")]).read(0)
    assert photo.shape == (40, 50, 3) and photo.dtype == np.uint8
    assert (photo == (1, 2, 3)).all()


def damage(folder):
    """Cut one of a folder's pictures short and make one too small."""
    whole = (folder / "b" / "c.JPG").read_bytes()
    (folder / "b" / "c.JPG").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (31, 64)).save(folder / "b" / "d.bmp")


def test_damaged_and_small_pictures_are_named_counted_and_skipped(folder, caplog):
    damage(folder)
    scenes = Scenes([Scene(path) for path in find_photos(folder)])
    assert len(scenes) == 1 and scenes.read(0)[0].shape == (36, 40, 3)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert "c.JPG" in told[0] and "d.bmp has a side below 32" in told[1] and "2 of 3" in told[2]
    with pytest.raises(InputError, match=r"None of 2 pictures .*c\.JPG"):
        Scenes([Scene(folder / "b" / "c.JPG"), Scene(folder / "b" / "d.bmp")])


def test_pictures_beyond_memory_are_read_when_drawn_and_skipped_where_damaged(folder, monkeypatch):
    monkeypatch.setattr(data, "_KEPT_BYTES", 1)
    monkeypatch.setattr(data, "_READERS", 1)
    scenes = Scenes([Scene(path) for path in find_photos(folder)])
    assert len(scenes) == 3 and len(scenes._kept) == 1
    plain = [Patches(scenes, 32, seed=1)[i] for i in range(12)]
    assert not any(item["skipped"] for item in plain)
    damage(folder)
    after = [Patches(scenes, 32, seed=1)[i] for i in range(12)]
    named = {text.split()[0].rsplit("/")[-1] for item in after for text in item["skipped"]}
    assert named == {"c.JPG", "d.bmp"}
    # What is drawn whole stays what it was.
    for one, other in zip(plain, after, strict=True):
        assert other["skipped"] or torch.equal(one["rainy"], other["rainy"])
    gone = Held([])
    gone._scenes = [Scene(folder / "b" / "c.JPG")]
    with pytest.raises(MediaError, match="None of 1 pictures"):
        gone.draw(np.random.default_rng(0), [])


def test_the_split_is_disjoint_complete_and_drawn_by_the_seed(tmp_path):
    scenes = [Scene(tmp_path / str(i)) for i in range(40)]
    training, held_out = split(scenes, 10, 1)
    assert len(held_out) == 10 and not set(training) & set(held_out)
    assert sorted(training + held_out, key=scenes.index) == scenes
    assert split(scenes, 10, 1) == (training, held_out)
    assert split(scenes, 10, 2)[1] != held_out


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one if name != "skipped")


@pytest.mark.parametrize("make", [photos, pairs])
@pytest.mark.parametrize("augment", [True, False])
def test_patches_depend_on_seed_and_number_alone(make, augment):
    patches = Patches(make((70, 90), (64, 64)), 32, 5, augment, real=photos((40, 50)))
    for index in (0, 7, 11):
        item = patches[index]
        assert set(item) == {"rainy", "clean", "real", "skipped"}
        for name in ("rainy", "clean", "real"):
            assert item[name].shape == (3, 32, 32) and item[name].dtype == torch.float32
            assert 0 <= float(item[name].min()) and float(item[name].max()) <= 1
        assert same(item, patches[index])
    assert not torch.equal(patches[0]["clean"], patches[1]["clean"])
    assert not torch.equal(patches[0]["clean"], Patches(patches.scenes, 32, 6, augment)[0]["clean"])


def test_both_pictures_of_a_pair_are_cut_and_mirrored_alike():
    for augment in (True, False):
        patches = Patches(pairs((70, 90), (40, 33)), 36, 2, augment)
        for index in range(8):
            item = patches[index]
            # The rainy picture is the negative of the clean one; what is enlarged overshoots both ways and is cut.
            torch.testing.assert_close(item["rainy"], 1 - item["clean"], rtol=0, atol=0.005)


def test_without_augmentation_a_patch_is_a_piece_of_its_photograph():
    scenes = photos((50, 60))
    photo = scenes.read(0)[0].astype(np.float32) / 255
    found = 0
    for index in range(20):
        clean = Patches(scenes, 32, 3, augment=False)[index]["clean"].permute(1, 2, 0).numpy()
        windows = np.lib.stride_tricks.sliding_window_view(photo, clean.shape)[:, :, 0]
        found += bool((windows == clean).all((2, 3, 4)).any())
    # Rain that adds up darkens the truth first; all others leave it as it is.
    assert found > 8


@pytest.mark.parametrize(("size", "accumulate"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_a_step_takes_the_same_patches_in_any_number_of_processes_and_parts(size, accumulate):
    patches, phase = Patches(photos((70, 90)), 32, 5), Phase(4, 32, 6)
    for first in (0, 2):
        taken = {}
        for rank in range(size):
            world = World(torch.device("cpu"), rank, size)
            drawn = list(batches(patches, phase, first, world, accumulate=accumulate, workers=0))
            assert len(drawn) == (4 - first) * accumulate
            for i, part in enumerate(drawn):
                for j, picture in enumerate(part["rainy"]):
                    taken[i // accumulate, i % accumulate, rank, j] = picture
        for i, key in enumerate(sorted(taken)):
            assert torch.equal(taken[key], patches[first * 6 + i]["rainy"])
    with pytest.raises(InputError, match="multiple of 6"):
        part_size(Phase(4, 32, 7), World(torch.device("cpu"), 0, 2), accumulate=3)


def test_workers_start_where_opencv_has_threads():
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        cv2.GaussianBlur(np.zeros((2048, 2048), np.float32), (31, 31), 5)
        patches = Patches(photos((40, 40), (40, 40)), 32, seed=3, augment=True)
        drawn = batches(patches, Phase(2, 32, 2), 0, World(torch.device("cpu")), accumulate=1, workers=1)
        drawn._timeout = 60  # type: ignore[attr-defined]
        assert len(list(drawn)) == 2
    finally:
        cv2.setNumThreads(before)


def test_any_number_of_workers_gives_the_same_batches():
    patches, world = Patches(photos((70, 90)), 32, 5), World(torch.device("cpu"))
    alone, apart = (
        list(batches(patches, Phase(3, 32, 2), 0, world, accumulate=1, workers=n)) for n in (0, 2)
    )
    assert len(alone) == 3
    for one, other in zip(alone, apart, strict=True):
        assert same(one, other)


def test_photographs_smaller_than_a_patch_are_enlarged():
    item = Patches(photos((33, 40)), 48, seed=0)[0]
    assert item["rainy"].shape == item["clean"].shape == (3, 48, 48)


def test_patches_are_not_changed_by_the_photographs_memory_order():
    photo = pictures((80, 60))[0]
    turned = np.ascontiguousarray(photo.transpose(1, 0, 2)).transpose(1, 0, 2)
    for index in range(8):
        assert same(*(Patches(Held([(p,)]), 32, seed=1)[index] for p in (photo, turned)))


def test_validation_pairs_are_fixed_whole_and_apart():
    sizes = (70, 100), (64, 64), (33, 32)
    found = validation_pairs(photos(*sizes), 9)
    assert [tuple(clean.shape) for _, clean in found] == [(3, 64, 96), (3, 64, 64), (3, 32, 32)]
    for ours, again in zip(found, validation_pairs(photos(*sizes), 9), strict=True):
        assert all(map(torch.equal, ours, again))
    # A pair does not depend on the others, so that it stays comparable when photographs are added.
    assert torch.equal(validation_pairs(photos(sizes[0]), 9)[0][0], found[0][0])
    other = validation_pairs(photos(*sizes), 10)
    assert any(not torch.equal(a[0], b[0]) for a, b in zip(found, other, strict=True))
    ((rainy, clean),) = validation_pairs(pairs((70, 100)), 9)
    assert rainy.shape == (3, 64, 96)
    torch.testing.assert_close(rainy, 1 - clean, rtol=0, atol=1e-6)


def test_tensors_are_channels_first_copies():
    image = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    tensor = to_tensor(image)
    assert tensor.shape == (3, 2, 4) and tensor.is_contiguous()
    for y, x, c in itertools.product(range(2), range(4), range(3)):
        assert tensor[c, y, x] == image[y, x, c]


def test_training_pairs_come_by_their_shares_in_steps_of_a_file():
    assert sum(TRAINING_SHARES) == pytest.approx(1) and len(TRAINING_SHARES) == len(KINDS)
    clean, dry = pictures((24, 24))[0].astype(np.float32) / 255, 0
    for seed in range(300):
        rainy, truth = rainy_pair(clean, np.random.default_rng(seed))
        assert rainy.dtype == np.float32
        np.testing.assert_allclose(rainy * 255, np.round(rainy * 255), atol=1e-4)
        dry += bool(np.abs(rainy - truth).max() <= 0.5 / 255 + 1e-6)
    # Dry by choice (5 %), and some drizzle misses so small a picture.
    assert 0.02 < dry / 300 < 0.2

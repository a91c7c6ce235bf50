"""Pictures through an engine: order, failures, what is written, and how much is in memory."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from derain_engine.base.errors import InputError, MediaError
from derain_engine.base.files import atomic_write
from derain_engine.engine.runtime import Engine
from derain_engine.media.pictures import clean, images
from derain_engine.media.pictures.clean import clean_pictures
from derain_engine.media.pictures.images import read_picture
from derain_engine.media.pictures.jobs import Job, find_pictures

from ..clips import MANIFEST


class Halving:
    """Halves its input; cannot work on frames of ``refused`` padded pixels in width."""

    precision = "fp32"
    available_memory = None

    def __init__(self, parallelism: int = 1, refused: int = 0, error: Exception | None = None) -> None:
        self.parallelism, self.refused = parallelism, refused
        self.error = error or InputError("this engine is for other sizes")

    def run(self, batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        if batch.shape[2] == self.refused:
            raise self.error
        return batch // 2 if batch.dtype == np.uint8 else batch / 2

    def close(self) -> None:
        pass


def engine(**options) -> Engine:
    return Engine(Halving(**options), MANIFEST, tile=0)


def make(folder: Path, name: str, width: int = 12, seed: int = 0) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (9, width, 3), np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return pixels


@pytest.mark.parametrize("parallelism", [1, 3])
def test_every_result_is_its_own_pictures(tmp_path: Path, parallelism: int) -> None:
    names = [f"{number}.png" for number in range(7)]
    pixels = [make(tmp_path / "in", name, 9 + i, i) for i, name in enumerate(names)]
    jobs = find_pictures([tmp_path / "in"], tmp_path / "out" / "deep")
    told = []
    with engine(parallelism=parallelism) as runs:
        assert clean_pictures(runs, jobs, progress=lambda *each: told.append(each)) == []
    for name, expected in zip(names, pixels, strict=True):
        assert np.array_equal(read_picture(tmp_path / "out" / "deep" / name).pixels, expected // 2)
    assert told[0] == ("Cleaning", 0.0)
    assert [fraction for _, fraction in told[1:]] == pytest.approx([n / 7 for n in range(1, 8)])


def test_what_belongs_to_a_picture_goes_with_it(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (9, 12, 4), np.uint8)
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    Image.fromarray(rgba).save(tmp_path / "in.png", exif=exif, icc_profile=_profile())
    with engine() as runs:
        assert clean_pictures(runs, [Job(tmp_path / "in.png", tmp_path / "out.png")]) == []
    rainy, result = read_picture(tmp_path / "in.png"), read_picture(tmp_path / "out.png")
    assert np.array_equal(result.pixels, rgba[..., :3] // 2)
    assert result.alpha is not None
    assert np.array_equal(result.alpha, rgba[..., 3])
    assert (result.icc, result.exif) == (rainy.icc, rainy.exif)
    assert result.icc
    assert b"Maker" in (result.exif or b"")


def _profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_side_by_side_and_rain_layer_replace_the_clean_picture(tmp_path: Path) -> None:
    pixels = make(tmp_path, "in.png")
    with engine() as runs:
        clean_pictures(runs, [Job(tmp_path / "in.png", tmp_path / "both.png")], show="side-by-side")
        clean_pictures(runs, [Job(tmp_path / "in.png", tmp_path / "rain.png")], show="rain-layer")
    assert np.array_equal(read_picture(tmp_path / "both.png").pixels, np.hstack([pixels, pixels // 2]))
    assert np.array_equal(read_picture(tmp_path / "rain.png").pixels, pixels - pixels // 2)


@pytest.mark.parametrize("parallelism", [1, 3])
@pytest.mark.parametrize("error", [None, MemoryError()])
def test_failures_of_every_kind_are_named_and_the_others_finished(
    tmp_path: Path, parallelism: int, error: Exception | None
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    good = {name: make(folder, name, 12, i) for i, name in enumerate(["a.png", "d.png", "f.png", "h.png"])}
    for name in ("b.png", "c.png", "g.png"):
        make(folder, name, 30)  # padded to 32, which the engine refuses; the first two in a row
    (folder / "e.png").write_bytes(b"not a picture")
    make(folder, "i.png")
    (out / "i.png").mkdir(parents=True)  # cannot be written
    jobs = find_pictures([folder], out)
    with engine(parallelism=parallelism, refused=32, error=error) as runs:
        failures = clean_pictures(runs, jobs)
    assert [failure.job.input.name for failure in failures] == ["b.png", "c.png", "e.png", "g.png", "i.png"]
    for failure in failures:
        assert failure.job.input.name in str(failure.error)
    assert ("memory" in str(failures[0].error)) is (error is not None)
    for name, pixels in good.items():
        assert np.array_equal(read_picture(out / name).pixels, pixels // 2)
    assert sorted(path.name for path in out.iterdir()) == [*good, "i.png"]


def test_a_full_disk_ends_the_work_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png", "c.png"):
        make(tmp_path / "in", name)
    jobs = find_pictures([tmp_path / "in"], tmp_path / "out")
    tried = []

    def full(path: Path):
        tried.append(path)
        if len(tried) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return atomic_write(path)

    monkeypatch.setattr(images, "atomic_write", full)
    with engine() as runs, pytest.raises(MediaError, match="the disk is full"):
        clean_pictures(runs, jobs)
    assert len(tried) == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_memory_is_bounded_by_what_the_session_works_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        make(tmp_path / "in", f"{number:02}.png")
    events = []
    monkeypatch.setattr(clean, "read_picture", lambda path: (events.append(1), read_picture(path))[1])
    monkeypatch.setattr(clean, "write_picture", lambda *_, **__: events.append(-1))
    with engine(parallelism=2) as runs:
        clean_pictures(runs, find_pictures([tmp_path / "in"], tmp_path / "out"))
    assert sum(events) == 0
    assert max(np.cumsum(events)) <= 2 + 2  # parallelism + 1 drawn, and the result being written


def test_a_wrong_quality_is_refused_before_any_work(tmp_path: Path) -> None:
    with engine() as runs, pytest.raises(InputError, match="quality"):
        clean_pictures(runs, [Job(tmp_path / "no.png", tmp_path / "out.png")], quality=0)
    with engine() as runs:
        assert clean_pictures(runs, []) == []

"""Engines clean images of any size and kind, whole or in tiles, and are loaded from their files."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derain_engine.base.errors import BundleError, InputError
from derain_engine.engine import runtime
from derain_engine.engine.bundle import write_bundle
from derain_engine.engine.frames import quantise, to_float
from derain_engine.engine.runtime import load

from ..helpers import a_fake_manifest, pad_frame
from .sessions import ColumnSums, FakeSession, an_engine, cleaned, noise

SIZES = [(1, 1), (7, 13), (33, 65), (321, 481)]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
def test_any_size_and_kind_comes_back_clean(size, dtype):
    session = FakeSession()
    image = noise(*size, 3, dtype=dtype)
    before = image.copy()
    clean = an_engine(session)(image)
    assert clean.shape == image.shape and clean.dtype == image.dtype
    assert not np.shares_memory(clean, image)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(clean, cleaned(image))
    ((shape, given_dtype),) = session.seen
    assert all(side % 32 == 0 for side in shape[1:3])
    assert given_dtype == ("uint8" if dtype == "uint8" else "float32")


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_batches_run_together_in_either_layout(dtype):
    session = FakeSession()
    engine = an_engine(session)
    batch = noise(3, 7, 13, 3, dtype=dtype)
    np.testing.assert_array_equal(engine(batch), cleaned(batch))
    channels_first = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(engine(channels_first), cleaned(channels_first))
    assert session.seen == [((3, 32, 32, 3), dtype)] * 2


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 80),
    st.integers(1, 80),
    st.integers(1, 2),
    st.sampled_from([(1, 1), (16, 16), (32, 32), (8, 40)]),
    st.sampled_from(["uint8", "uint16", "float32"]),
)
def test_a_frame_is_padded_run_and_cropped(height, width, count, network, dtype):
    granularity, smallest = network
    batch = noise(count, height, width, 3, dtype=dtype)
    session = ColumnSums()
    clean = an_engine(session, granularity=granularity, smallest_side=smallest)(batch)
    padded, _ = pad_frame(batch, granularity, smallest)
    expected = session.network(to_float(padded))[:, :height, :width]
    if dtype != "float32":
        expected = quantise(expected, batch.dtype)
    np.testing.assert_array_equal(clean, expected)


def test_torch_tensors_come_back_as_tensors():
    torch = pytest.importorskip("torch")
    tensor = torch.rand(1, 3, 33, 65)
    clean = an_engine()(tensor)
    assert isinstance(clean, torch.Tensor)
    np.testing.assert_array_equal(clean.numpy(), cleaned(tensor.numpy()))


def test_images_that_are_none_never_reach_the_session():
    session = FakeSession()
    for image in (
        noise(8, 8),
        noise(8, 8, 4),
        np.full((8, 8, 3), np.nan),
        np.zeros((0, 8, 3), np.uint8),
        "rain.jpg",
    ):
        with pytest.raises(InputError):
            an_engine(session)(image)
    assert session.seen == []


def test_warmup_runs_the_frame_that_will_come():
    session = FakeSession()
    an_engine(session).warmup(321, 481)
    assert session.seen == [((1, 352, 512, 3), "uint8")]


# Tiling


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("size", [(33, 65), (97, 350), (321, 481)])
def test_tiles_do_not_show_in_what_a_pointwise_network_makes(size, dtype):
    session = FakeSession()
    image = noise(*size, 3, dtype=dtype)
    clean = an_engine(session, tile=96)(image)
    assert clean.dtype == image.dtype
    tolerance = 2e-6 if dtype == "float32" else 1  # a rounding tie may fall to the other side
    np.testing.assert_allclose(clean.astype(float), cleaned(image).astype(float), rtol=0, atol=tolerance)
    assert len({shape for shape, _ in session.seen}) == 1
    assert all(max(shape[1:3]) <= 96 for shape, _ in session.seen)


def test_the_tile_is_rounded_up_and_frames_within_it_run_whole():
    session = FakeSession()
    engine = an_engine(session, tile=97)
    engine(noise(128, 100, 3))
    assert session.seen == [((1, 128, 128, 3), "uint8")]
    engine(noise(128, 129, 3))
    assert session.seen[1:] == [((1, 128, 128, 3), "float32")] * 2


def test_auto_tiles_only_what_exceeds_the_memory():
    session = FakeSession()
    engine = an_engine(session, tile="auto", memory_limit_bytes=1000 * 256 * 256)
    engine(noise(256, 256, 3))
    engine(noise(128, 512, 3))
    engine(noise(2, 128, 256, 3))
    assert [shape for shape, _ in session.seen] == [(1, 256, 256, 3), (1, 128, 512, 3), (2, 128, 256, 3)]
    session.seen.clear()
    batch = noise(3, 128, 256, 3)  # too much together, not one by one
    np.testing.assert_array_equal(engine(batch), cleaned(batch))
    assert session.seen == [((1, 128, 256, 3), "uint8")] * 3
    session.seen.clear()
    batch = noise(2, 256, 288, 3, dtype="float32")
    np.testing.assert_allclose(engine(batch), cleaned(batch), atol=2e-6)
    assert session.seen == [((1, 256, 256, 3), "float32")] * 4


def test_auto_counts_the_frames_in_flight_and_an_unknown_need():
    session = FakeSession(parallelism=4)
    engine = an_engine(session, tile="auto", memory_limit_bytes=1000 * 256 * 256)
    engine(noise(128, 128, 3))
    engine(noise(128, 129, 3))
    assert {shape for shape, _ in session.seen} == {(1, 128, 128, 3)} and len(session.seen) == 3

    session = FakeSession()
    an_engine(session, tile="auto", memory_limit_bytes=4096 * 256 * 256, bytes_per_pixel=0)(
        noise(256, 257, 3)
    )
    assert {shape for shape, _ in session.seen} == {(1, 256, 256, 3)}


def test_auto_takes_the_least_tile_where_not_even_that_fits():
    session = FakeSession()
    an_engine(session, tile="auto", memory_limit_bytes=1)(noise(100, 200, 3))
    assert {shape for shape, _ in session.seen} == {(1, 96, 96, 3)}
    session.seen.clear()
    an_engine(session, tile="auto", memory_limit_bytes=1)(noise(2, 96, 64, 3))
    assert session.seen == [((1, 96, 64, 3), "uint8")] * 2


def test_auto_measures_the_memory_of_this_machine(monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * 1000 * 128 * 128))
    session = FakeSession()
    engine = an_engine(session, tile="auto", memory_limit_bytes=None)
    engine(noise(128, 128, 3))
    engine(noise(128, 129, 3))
    assert [shape[1:3] for shape, _ in session.seen] == [(128, 128)] * 3


def test_zero_never_tiles():
    session = FakeSession()
    an_engine(session, tile=0, memory_limit_bytes=1)(noise(2, 200, 300, 3))
    assert session.seen == [((2, 224, 320, 3), "uint8")]


class Neighbours(FakeSession):
    """Every pixel becomes the mean of its neighbours 40 pixels to the left and right (zeros outside)."""

    def network(self, x):
        wide = np.pad(x, [(0, 0), (0, 0), (40, 40), (0, 0)])
        return np.float32(0.5) * (wide[:, :, :-80] + wide[:, :, 80:])


def test_a_known_reach_makes_tiling_exact():
    image = noise(64, 600, 3, dtype="float32")
    options = {"exact_tiling_halo": 40, "tile_overlap": 0}
    whole = an_engine(Neighbours(), **options)(image)
    np.testing.assert_allclose(an_engine(Neighbours(), tile=224, **options)(image), whole, atol=1e-6)
    rough = an_engine(Neighbours(), tile=224, tile_overlap=32)(image)
    assert np.abs(rough - whole).max() > 0.1


@pytest.mark.parametrize(
    ("tile", "message"),
    [
        (64, "exceed twice its overlap of 32 px; use at least 96"),
        (1, "use at least 96"),
        (-1, "not -1"),
        (True, "not True"),
        (96.0, "not 96.0"),
        ("always", "not 'always'"),
        (None, "not None"),
    ],
)
def test_tiles_that_cannot_be_are_refused(tile, message):
    with pytest.raises(InputError, match=message):
        an_engine(tile=tile)


def test_a_memory_limit_is_positive():
    with pytest.raises(InputError, match="limit of 0 bytes"):
        an_engine(tile="auto", memory_limit_bytes=0)


# Loading


class FakeBackend:
    name = "fake"
    on_gpu = False

    def __init__(self):
        self.opened = []
        self.session = FakeSession()

    def open(self, artefact, options):
        self.opened.append((artefact, options))
        return self.session


@pytest.fixture
def backend(monkeypatch, tmp_path):
    backend = FakeBackend()
    monkeypatch.setattr(runtime.backends, "names", lambda: ["fake"])
    monkeypatch.setattr(runtime.backends, "get", {"fake": backend}.__getitem__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime.files, "cache_dir", lambda *parts: tmp_path.joinpath("cache", *parts))
    return backend


@pytest.fixture
def engine_file(tmp_path):
    path = tmp_path / "fake.derain"
    write_bundle(path, a_fake_manifest(), {"fake/net.bin": b"weights", "fake/net.xml": b"graph"})
    return path


def test_load_hands_the_payloads_to_the_backend(backend, engine_file, tmp_path):
    with load(engine_file, mode="throughput", threads=2) as engine:
        image = noise(7, 13, 3)
        np.testing.assert_array_equal(engine(image), cleaned(image))
        assert engine.manifest.source == "fake"
    ((artefact, options),) = backend.opened
    assert (artefact.backend, artefact.backend_version, artefact.precision) == ("fake", "1", "fp32")
    # The session may go on using them: nothing is unmapped under it.
    assert {name: bytes(view) for name, view in artefact.payloads.items()} == {
        "fake/net.bin": b"weights",
        "fake/net.xml": b"graph",
    }
    assert (options.mode, options.threads) == ("throughput", 2)
    assert options.cache_dir.parent == tmp_path / "cache" / "fake"
    assert backend.session.closed == 1


def test_caches_are_apart_for_different_payloads_and_optional(backend, engine_file, tmp_path, monkeypatch):
    other = tmp_path / "other.derain"
    write_bundle(other, a_fake_manifest(), {"fake/net.bin": b"other", "fake/net.xml": b"graph"})
    for path in (engine_file, other, engine_file):
        load(path).close()
    first, second, again = (options.cache_dir for _, options in backend.opened)
    assert first == again != second

    load(engine_file, cache=False).close()
    assert backend.opened[-1][1].cache_dir is None

    def read_only(*_):
        raise PermissionError("read-only home")

    monkeypatch.setattr(runtime.files, "cache_dir", read_only)
    load(engine_file).close()
    assert backend.opened[-1][1].cache_dir is None


def test_load_refuses_options_and_files_by_name(backend, engine_file, tmp_path):
    with pytest.raises(InputError, match="latency, throughput, not 'fast'"):
        load(engine_file, mode="fast")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one thread, not 0"):
        load(engine_file, threads=0)
    with pytest.raises(BundleError, match="absent"):
        load(tmp_path / "absent.derain")
    other = tmp_path / "other.derain"
    write_bundle(other, a_fake_manifest(backend="abacus"), {})
    with pytest.raises(BundleError, match=r"other\.derain needs the backend 'abacus'.*\(fake\)"):
        load(other)
    assert backend.opened == []
    with pytest.raises(InputError, match="use at least 96"):
        load(engine_file, tile=64)
    assert backend.session.closed == 1

"""Engines that take frames of a range of sizes: what the range is, and what becomes of other frames."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from derain_engine.base.errors import BundleError, InputError
from derain_engine.base.sizes import FrameSizes
from derain_engine.engine.backends.base import Artefact
from derain_engine.engine.frames import pad_to
from derain_engine.engine.manifest import Manifest
from derain_engine.engine.options import BuildOptions
from derain_engine.models.spec import ModelSpec

from ..helpers import a_fake_manifest
from .sessions import ColumnSums, FakeSession, an_engine, cleaned, noise

RANGE = FrameSizes((64, 96), ((128, 128),), (160, 192), 32)
SPEC = ModelSpec("some", granularity=32, smallest_side=64)


def an_edge(sizes: FrameSizes) -> dict[str, Any]:
    return {"sizes": sizes.to_json()}


def test_a_range_survives_json() -> None:
    several = FrameSizes((32, 64), ((64, 96), (128, 96)), (160, 192))
    assert FrameSizes.from_json(json.loads(json.dumps(several.to_json()))) == several
    only = FrameSizes.only((64, 96))
    assert only.fixed and FrameSizes.from_json(only.to_json()) == only and not several.fixed


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (((64, 64), ((32, 64),), (96, 96)), "from 64x64 over 32x64 to 96x96 are no range"),
        (((64, 64), ((64, 64), (64, 128)), (96, 96)), "over 64x128 to 96x96"),
        (((0, 64), ((64, 64),), (96, 96)), "from 0x64"),
        (((64, 64), ((64, 64),), (96, 32768)), "1 to 16384 pixels"),
        (((64, 64), (), (96, 96)), "fast for one size"),
    ],
)
def test_what_is_no_range(sizes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FrameSizes(*sizes)


@pytest.mark.parametrize(
    "record",
    [
        [],
        {},
        {"least": [1, 1], "most": [2, 2]},
        {"least": [1], "usual": [[1, 1]], "most": [2, 2]},
        {"least": [1, 1], "usual": [[1, True]], "most": [2, 2]},
        {"least": [1, 1], "usual": [[1, 1.5]], "most": [2, 2]},
        {"least": [3, 1], "usual": [[1, 1]], "most": [2, 2]},
        {"least": None, "usual": [[1, 1]], "most": [2, 2]},
    ],
)
def test_manifests_with_sizes_that_are_none_are_refused(record: Any) -> None:
    good = a_fake_manifest(input=an_edge(RANGE), output=an_edge(RANGE))
    assert Manifest.from_json(good.to_json(), "a.derain").sizes == RANGE
    text = a_fake_manifest(input={"sizes": record}).to_json()
    with pytest.raises(BundleError, match="field 'input' that is not an object of what a frame is"):
        Manifest.from_json(text, "a.derain")


@pytest.mark.parametrize(
    ("least", "usual", "most", "wanted"),
    [
        (None, [], None, FrameSizes((64, 64), ((512, 512),), (1088, 1920), 32)),
        (None, [(720, 1280)], None, FrameSizes((64, 64), ((736, 1280),), (1088, 1920), 32)),
        (None, [(2160, 3840)], None, FrameSizes((64, 64), ((2176, 3840),), (2176, 3840), 32)),
        (None, [], (256, 3000), FrameSizes((64, 64), ((256, 512),), (256, 3008), 32)),
        ((600, 600), [], None, FrameSizes((608, 608), ((608, 608),), (1088, 1920), 32)),
        (
            (1, 1),
            [(90, 90), (96, 96), (128, 64)],
            (128, 128),
            FrameSizes((64, 64), ((96, 96), (128, 64)), (128, 128), 32),
        ),
    ],
)
def test_the_range_of_a_build(least: Any, usual: Any, most: Any, wanted: FrameSizes) -> None:
    options = BuildOptions(backend="tensorrt", min_shape=least, opt_shapes=usual, max_shape=most)
    assert options.sizes_for(SPEC) == wanted


def test_the_only_size_of_a_build() -> None:
    for backend in ("tensorrt", "openvino"):
        options = BuildOptions(backend=backend, shape=(90, 128))
        assert options.sizes_for(SPEC) == FrameSizes.only((96, 128), 32)
    several: tuple[dict[str, Any], ...] = (
        {"min_shape": (64, 64)},
        {"opt_shapes": ((64, 64),)},
        {"max_shape": (64, 64)},
    )
    for given in several:
        with pytest.raises(InputError, match="has no --min, --opt or --max"):
            BuildOptions(backend="tensorrt", shape=(96, 128), **given)
    with pytest.raises(InputError, match="1 to 16384 pixels, not 0x5"):
        BuildOptions(backend="tensorrt", min_shape=(0, 5))
    with pytest.raises(InputError, match="from 128x128 over 64x64 to 1088x1920 are no range"):
        BuildOptions(backend="tensorrt", min_shape=(128, 128), opt_shapes=((64, 64),)).sizes_for(SPEC)


def test_all_sizes_of_a_build() -> None:
    assert BuildOptions().sizes_for(SPEC) == FrameSizes((64, 64), alignment=32)
    only = ModelSpec("onnx", {"size": [33, 47]})
    assert BuildOptions().sizes_for(only) == FrameSizes.only((33, 47))
    assert BuildOptions(shape=(33, 47)).sizes_for(only) == FrameSizes.only((33, 47))
    with pytest.raises(InputError, match=r"a\.onnx was made for frames of 33x47 alone"):
        BuildOptions(shape=(34, 47)).sizes_for(only, "a.onnx")


@pytest.mark.parametrize(
    ("sizes", "written"),
    [
        (FrameSizes((32, 32), alignment=32), {"size": None}),
        (FrameSizes((32, 32), ((64, 96),), alignment=32), {"size": [64, 96]}),
        (RANGE, {"size": None, "sizes": RANGE.to_json()}),
        (
            FrameSizes.only((64, 96), 32),
            {"size": [64, 96], "sizes": {"least": [64, 96], "usual": [[64, 96]], "most": [64, 96]}},
        ),
    ],
    ids=["all", "all, one preferred", "range", "one"],
)
def test_sizes_survive_the_manifest(sizes: FrameSizes, written: dict[str, Any]) -> None:
    spec = ModelSpec("some", granularity=32, smallest_side=32)
    made = Manifest.of(spec, Artefact("fused", "1", "fp32", {}, sizes=sizes), source="some")
    read = Manifest.from_json(made.to_json(), "a.derain")
    assert read.sizes == made.sizes == sizes
    for edge in (read.input, read.output):
        assert {key: edge[key] for key in ("size", "sizes") if key in edge} == written


def test_files_of_version_0_1_0_are_read() -> None:
    """OpenVINO's engines of one size name no ``sizes``, and take no other; those of other backends take all."""
    edge = {"name": "rainy", "layout": "NHWC", "size": [64, 96]}
    old = a_fake_manifest(backend="openvino", input=edge, output=edge)
    assert Manifest.from_json(old.to_json(), "a.derain").sizes == FrameSizes.only((64, 96), 32)
    for backend in ("fused", "reference"):
        sizes = a_fake_manifest(backend=backend, input=edge, output=edge).sizes
        assert sizes == FrameSizes((32, 32), ((64, 96),), alignment=32)
    assert a_fake_manifest().sizes == FrameSizes((32, 32), alignment=32)
    with pytest.raises(BundleError, match="field 'input' that is not an object of what a frame is"):
        Manifest.from_json(a_fake_manifest(input={"size": [64]}).to_json(), "a.derain")


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    ("frame", "padded"),
    [((1, 1), (64, 96)), ((33, 65), (64, 96)), ((65, 10), (96, 96)), ((160, 192), (160, 192))],
)
def test_smaller_frames_are_padded(frame: tuple[int, int], padded: tuple[int, int], dtype: str) -> None:
    session = ColumnSums()
    image = noise(*frame, 3, dtype=dtype)
    clean = an_engine(session, tile="auto", input=an_edge(RANGE))(image)
    assert [shape for shape, _ in session.seen] == [(1, *padded, 3)]
    whole = pad_to(image[None], padded)
    expected = ColumnSums().run(whole)[0, : frame[0], : frame[1]]
    np.testing.assert_array_equal(clean, expected)


@pytest.mark.parametrize("sizes", [RANGE, FrameSizes.only((128, 96)), FrameSizes.only((96, 192))])
@pytest.mark.parametrize("frame", [(300, 400), (33, 1000), (500, 40)])
def test_larger_frames_are_tiled(frame: tuple[int, int], sizes: FrameSizes) -> None:
    session = FakeSession()
    image = noise(*frame, 3)
    engine = an_engine(session, tile="auto", input=an_edge(sizes))
    clean = engine(image)
    shapes = {shape[1:3] for shape, _ in session.seen}
    assert len(session.seen) > 1 and len(shapes) == 1 and all(sizes.take(*shape) for shape in shapes)
    assert np.abs(clean.astype(int) - cleaned(image)).max() <= 1
    # Batches too, and sizes that fit go on running whole.
    assert engine(np.stack([image, image])).shape == (2, *frame, 3)
    session.seen.clear()
    engine(noise(*sizes.largest, 3))
    assert session.seen == [((1, *sizes.largest, 3), "uint8")]


def test_given_tiles_are_kept_within_the_range() -> None:
    session = FakeSession()
    an_engine(session, tile=96, input=an_edge(RANGE))(noise(300, 400, 3))
    assert {shape for shape, _ in session.seen} == {(1, 96, 96, 3)}
    session.seen.clear()
    an_engine(session, tile=1024, input=an_edge(RANGE))(noise(300, 400, 3))
    assert {shape for shape, _ in session.seen} == {(1, *RANGE.largest, 3)}
    # One axis within the tile, the other one not.
    session.seen.clear()
    an_engine(session, tile=128, input=an_edge(RANGE))(noise(70, 400, 3))
    assert {shape for shape, _ in session.seen} == {(1, 96, 128, 3)}


def test_memory_still_decides_within_the_range() -> None:
    session = FakeSession()
    an_engine(session, tile="auto", memory_limit_bytes=1000 * 96 * 96, input=an_edge(RANGE))(
        noise(160, 192, 3)
    )
    assert {shape for shape, _ in session.seen} == {(1, 96, 96, 3)}


def test_larger_frames_without_tiles_are_refused() -> None:
    engine = an_engine(tile=0, input=an_edge(RANGE))
    engine(noise(160, 192, 3))
    for frame in ((161, 192), (160, 193)):
        with pytest.raises(InputError, match=r"larger than the 160x192 .*--tile auto.*--max or --shape"):
            engine(noise(*frame, 3))


def test_engines_too_small_for_tiles_say_so() -> None:
    """Tiles share 32 pixels with each neighbour; 64 leave none to themselves."""
    engine = an_engine(tile="auto", input=an_edge(FrameSizes.only((64, 128))))
    with pytest.raises(InputError, match="sides have to be 96 px or more"):
        engine(noise(65, 128, 3))
    assert engine(noise(64, 300, 3)).shape == (64, 300, 3)


def test_frames_on_the_gpu_are_padded_alike_and_never_tiled() -> None:
    class Session(FakeSession):
        def run_on_gpu(self, image: Any, padded: Any, stream: Any = None) -> Any:
            return padded(*image.shape[:2])

    class Array(SimpleNamespace):
        __cuda_array_interface__: ClassVar = {"shape": (1,)}

    engine = an_engine(Session(), tile="auto", input=an_edge(RANGE))
    assert engine(Array(shape=(1, 100, 3))) == (64, 128)
    assert an_engine(Session())(Array(shape=(1, 100, 3))) == (32, 128)
    with pytest.raises(InputError, match="larger than the 160x192"):
        engine(Array(shape=(161, 1, 3)))

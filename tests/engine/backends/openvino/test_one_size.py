"""Engines of one size on OpenVINO: other frames are padded to it, or run in tiles of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import derain_engine
from derain_engine.base.errors import InputError
from derain_engine.base.sizes import FrameSizes
from derain_engine.engine.bundle import open_bundle, write_bundle
from derain_engine.engine.frames import pad_to, quantise, to_float
from derain_engine.engine.verify import reference_output
from derain_engine.models.checkpoint import save_checkpoint
from derain_engine.models.registry import spec_of
from derain_engine.models.ssid_kd import SSIDKDConfig

from ....helpers import strong

SHAPE = (64, 96)
#: It sees 12 pixels far, so that tiles of 64 pixels which share 24 give what the whole frame does.
SPEC = spec_of("prn", {"stages": 1})


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return strong(SPEC, gain=1.2)


@pytest.fixture(scope="module")
def engine_file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prn")
    save_checkpoint(folder / "prn.safetensors", network, "prn", metadata={})
    built = derain_engine.build(
        folder / "prn.safetensors", folder / "prn.derain", precision="fp32", shape=SHAPE
    )
    assert built.manifest.sizes == FrameSizes.only(SHAPE) and built.timed_size == SHAPE
    return built.path


@pytest.fixture(scope="module")
def engine(engine_file: Path) -> Iterator[derain_engine.Engine]:
    with derain_engine.load(engine_file, threads=1) as engine:
        yield engine


def image(height: int, width: int, dtype: str = "float32") -> np.ndarray:
    values = np.random.default_rng((height, width)).random((height, width, 3), dtype=np.float32)
    return quantise(values, np.uint8) if dtype == "uint8" else values


def expected(network: nn.Module, rainy: np.ndarray, padded: tuple[int, int]) -> np.ndarray:
    """Return what the reference makes of the padded frame, cropped."""
    height, width = rainy.shape[:2]
    clean = reference_output(network, to_float(pad_to(rainy[None], padded)))[0, :height, :width]
    assert np.abs(clean - to_float(rainy)).max() > 0.01
    return clean


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize(
    ("frame", "padded"),
    [
        ((64, 96), (64, 96)),
        ((20, 60), (64, 96)),
        ((1, 1), (64, 96)),
        ((100, 200), (100, 200)),
        ((20, 300), (64, 300)),
        ((150, 7), (150, 96)),
    ],
    ids=["its own", "smaller", "a pixel", "larger", "wide but short", "high but narrow"],
)
def test_every_frame_is_cleaned_as_the_padded_frame_is(
    engine: derain_engine.Engine,
    network: nn.Module,
    frame: tuple[int, int],
    padded: tuple[int, int],
    dtype: str,
) -> None:
    rainy = image(*frame, dtype)
    clean, wanted = engine(rainy), expected(network, rainy, padded)
    if dtype == "uint8":
        assert np.abs(clean.astype(int) - quantise(wanted, np.uint8)).max() <= 1
    else:
        assert np.abs(clean - wanted).max() <= 1e-5 * max(1.0, float(np.abs(wanted).max()))


def test_batches_too(engine: derain_engine.Engine, network: nn.Module) -> None:
    rainy = np.stack([image(20, 60), image(20, 60)[::-1]])
    clean = engine(rainy)
    for each, one in zip(rainy, clean, strict=True):
        assert np.abs(one - expected(network, each, SHAPE)).max() <= 1e-5


def test_files_of_version_0_1_0_pad_too(engine_file: Path, network: nn.Module, tmp_path: Path) -> None:
    """They name the size, but no ``sizes``."""
    with open_bundle(engine_file) as bundle:
        manifest, payloads = bundle.manifest, {name: bundle.read(name) for name in bundle.names}
        edges = {
            edge: {key: value for key, value in getattr(manifest, edge).items() if key != "sizes"}
            for edge in ("input", "output")
        }
        write_bundle(tmp_path / "old.derain", dataclasses.replace(manifest, **edges), payloads)
    with derain_engine.load(tmp_path / "old.derain", threads=1) as engine:
        rainy = image(20, 60)
        assert np.abs(engine(rainy) - expected(network, rainy, SHAPE)).max() <= 1e-5


def test_tiles_too_small_to_overlap_are_refused(tmp_path: Path) -> None:
    """SSID-KD's tiles share 96 pixels with each neighbour, which one of 64 does not have."""
    network = strong(SSIDKDConfig((2, 2, 2), (1, 1, 1), blocks="mffb"))
    save_checkpoint(tmp_path / "small.safetensors", network, "ssid-kd", metadata={})
    built = derain_engine.build(
        tmp_path / "small.safetensors", tmp_path / "small.derain", precision="fp32", shape=(64, 64)
    )
    with derain_engine.load(built.path, threads=1) as engine:
        rainy = image(20, 60)
        assert np.abs(engine(rainy) - expected(network, rainy, (64, 64))).max() <= 1e-5
        least = 2 * built.manifest.tile_overlap + 32
        with pytest.raises(InputError, match=rf"larger than the 64x64 .*sides have to be {least} px or more"):
            engine(image(100, 200))

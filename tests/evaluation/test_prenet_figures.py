"""PReNet with its authors' weights on Rain100H: what precisions cost against the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from derain_engine.base.errors import BackendUnavailable
from derain_engine.engine import backends, metrics
from derain_engine.engine.backends.base import Artefact, CompileOptions, RunOptions
from derain_engine.engine.frames import to_float
from derain_engine.export.emulation import CpuGraph, fp32_emulation
from derain_engine.export.half import to_half
from derain_engine.export.onnx import export_onnx
from derain_engine.media.pictures.images import read_picture
from derain_engine.models.checkpoint import Checkpoint, load_checkpoint
from derain_engine.models.spec import clean_image

pytestmark = pytest.mark.slow

#: In dB against the truth, of any of these little pieces. On the mean over whole pictures the precisions cost far less
#: (``derain-engine eval``): of bf16, pieces vary by some tenths, and the 50 pairs lose a hundredth.
MOST_LOST = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.3}
_NAMES = ("001", "011")
#: Of each picture, so that a network of 265 GMAC at 512x512 takes seconds.
_SIDES = slice(64, 256), slice(64, 320)


@pytest.fixture(scope="module")
def pairs(shared_data: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut (rainy, truth), 1 x height x width x 3."""
    found = []
    for name in _NAMES:
        rainy, clean = (
            to_float(read_picture(shared_data / "rain100h" / kind / f"{name}.png").pixels)[_SIDES][None]
            for kind in ("rainy", "clean")
        )
        found.append((np.ascontiguousarray(rainy), clean))
    return found


@pytest.fixture(scope="module")
def checkpoint(shared_data: Path) -> Checkpoint:
    return load_checkpoint(shared_data / "weights" / "prenet" / "Rain100H_PReNet6.pth")


def quality(pairs: list[tuple[np.ndarray, np.ndarray]], run) -> list[float]:
    return [metrics.psnr(np.clip(run(rainy)[0], 0, 1), clean[0]) for rainy, clean in pairs]


@pytest.fixture(scope="module")
def exact(checkpoint: Checkpoint, pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    import torch

    def run(rainy: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            image = torch.from_numpy(rainy.transpose(0, 3, 1, 2).copy())
            return clean_image(checkpoint.network(image)).permute(0, 2, 3, 1).numpy()

    found = quality(pairs, run)
    rainy = quality(pairs, lambda image: image)
    assert all(after > before + 10 for before, after in zip(rainy, found, strict=True))
    return found


def test_fp16_as_tensorrt_computes_it(
    checkpoint: Checkpoint, pairs: list[tuple[np.ndarray, np.ndarray]], exact: list[float]
) -> None:
    model = to_half(export_onnx(checkpoint.network, checkpoint.spec)).model
    graph = CpuGraph(fp32_emulation(model))
    found = quality(pairs, lambda rainy: graph.run(rainy.transpose(0, 3, 1, 2))[0].transpose(0, 2, 3, 1))
    assert found != exact
    assert np.abs(np.subtract(found, exact)).max() < MOST_LOST["fp16"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino(
    checkpoint: Checkpoint, pairs: list[tuple[np.ndarray, np.ndarray]], exact: list[float], precision: str
) -> None:
    backend = backends.get("openvino")
    try:
        artefact: Artefact = backend.compile(checkpoint.network, checkpoint.spec, CompileOptions(precision))
    except BackendUnavailable as error:
        if precision != "bf16":
            raise
        pytest.skip(f"this CPU does not compute in bf16: {error}")
    session = backend.open(artefact, RunOptions(threads=1))
    try:
        found = quality(pairs, session.run)
    finally:
        session.close()
    assert np.abs(np.subtract(found, exact)).max() < MOST_LOST[precision]

"""The example pycuda_pipeline.py, run whole with stand-ins for PyCUDA and the driver."""

from __future__ import annotations

import gc
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import derain_engine
from derain_engine.engine.runtime import Engine

from ...device.conftest import StandIn
from ...device.pycuda_stand_in import install
from .fused.test_frames import engine, frame

__all__ = ["engine"]

PROGRAM = Path(__file__).resolve().parents[3] / "examples" / "pycuda_pipeline.py"


@pytest.fixture
def program(cuda: StandIn, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Load the names of the example, for which PyCUDA is there and this GPU's engine file."""
    install(cuda, monkeypatch)
    cuda.cuDevicePrimaryCtxRetain(0)
    cuda.cuCtxPushCurrent(cuda.CUcontext(500))
    monkeypatch.setattr(derain_engine, "load", lambda path: engine)
    yield runpy.run_path(str(PROGRAM))
    engine.close()
    gc.collect()
    cuda.cuCtxPopCurrent()
    cuda.cuDevicePrimaryCtxRelease(0)


@pytest.mark.parametrize("count", [0, 2, 5])
def test_a_folder_is_cleaned(
    cuda: StandIn, engine: Engine, program: dict[str, Any], tmp_path: Path, count: int
) -> None:
    (tmp_path / "rainy").mkdir()
    (tmp_path / "rainy" / "notes.txt").touch()
    expected = {}
    for i in range(count):
        # Sizes change within a lane as well.
        picture = frame(7, 13, 3) if i % 2 else frame(1 + i, 33, 3)
        Image.fromarray(picture).save(tmp_path / "rainy" / f"{i}.png")
        expected[f"{i}.png"] = engine(picture)
    cuda.calls.clear()
    program["main"]([str(tmp_path / name) for name in ("model.derain", "rainy", "clean")])
    found = {file.name: np.asarray(Image.open(file)) for file in (tmp_path / "clean").iterdir()}
    assert found.keys() == expected.keys()
    for name, clean in found.items():
        np.testing.assert_array_equal(clean, expected[name])
    assert cuda.called("cuEventSynchronize") == count
    # At the end of the engine.
    assert cuda.called("cuStreamSynchronize") == 1


def test_pictures_overlap(cuda: StandIn, program: dict[str, Any], engine: Engine) -> None:
    """Work on three pictures is in streams of their own before the host waits for the first."""
    drawn = []

    def pictures() -> Any:
        for i in range(5):
            drawn.append(i)
            yield str(i), frame(7, 13, 3)

    cuda.calls.clear()
    cleaned = program["clean_all"](engine, pictures())
    name, _ = next(cleaned)
    assert (name, drawn) == ("0", [0, 1, 2, 3])
    uploads = [call for call in cuda.calls if call[0] == "cuMemcpyHtoDAsync"]
    assert len({int(call[4]) for call in uploads}) == len({call[1] for call in uploads}) == 3
    first = [call[0] for call in cuda.calls].index("cuEventSynchronize")
    assert sum(call[0] == "cuMemcpyDtoHAsync" for call in cuda.calls[:first]) == 3
    assert [name for name, _ in cleaned] == ["1", "2", "3", "4"]

"""Frames that lie on the GPU, through the session and the engine: read where they are, in whatever layout."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from derain_engine.base.errors import InputError
from derain_engine.device.interop import DeviceArray
from derain_engine.device.memory import download
from derain_engine.device.stream import Stream
from derain_engine.engine.backends.base import Artefact, RunOptions
from derain_engine.engine.backends.fused import network
from derain_engine.engine.backends.fused.backend import backend
from derain_engine.engine.backends.gpu_session import GpuSession
from derain_engine.engine.runtime import Engine
from derain_engine.plan import Plan

from ....device.conftest import StandIn
from ....device.test_interop import WithDLPack, WithInterface
from ....helpers import a_fake_manifest
from ...sessions import FakeSession


@pytest.fixture
def engine(fused_session: GpuSession) -> Iterator[Engine]:
    engine = Engine(fused_session, a_fake_manifest(backend="fused"), tile=0)
    yield engine
    vars(engine).clear()


def frame(*shape: int, dtype: str = "uint8") -> np.ndarray:
    values = np.random.default_rng(shape).random(shape)
    return np.round(255 * values).astype(np.uint8) if dtype == "uint8" else values.astype(dtype)


def on_host(array: DeviceArray) -> np.ndarray:
    host = np.empty(array.shape, array.dtype)
    with array.context.current():
        stream = Stream(array.context)
        download(array.region, host, stream)
        stream.synchronise()
    return host


def test_a_picture_beyond_the_kernels_counting_is_refused(
    engine: Engine, fused_plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    widest = max(each.elements(32, 64) // each.slabs for each in fused_plan.buffers if each.tile is None)
    monkeypatch.setattr(network, "_MOST_ELEMENTS", widest)
    engine(frame(32, 64, 3))
    with pytest.raises(InputError, match=r"64x64 pixels .* in tiles"):
        engine(frame(64, 64, 3))


@pytest.mark.parametrize(
    ("shape", "dtype", "make"),
    [
        ((33, 65, 3), "uint8", WithInterface),
        ((33, 65, 3), "float32", WithDLPack),
        ((1, 1, 3), "uint8", WithDLPack),
        ((1, 3, 1, 1), "float32", WithInterface),
        ((2, 7, 13, 3), "float32", WithInterface),
        ((2, 7, 13, 3), "uint8", WithDLPack),
        ((2, 3, 7, 40), "uint8", WithInterface),
        ((1, 3, 33, 13), "float32", WithDLPack),
        ((1, 3, 32, 3), "uint8", WithDLPack),
        ((32, 64, 3), "float32", WithInterface),
    ],
    ids=str,
)
def test_a_frame_on_the_gpu_is_cleaned_as_one_on_the_host(
    cuda: StandIn, engine: Engine, fused_plan: Plan, shape: tuple[int, ...], dtype: str, make: type
) -> None:
    array = frame(*shape, dtype=dtype)
    before = array.copy()
    clean = engine(make(cuda, array))
    assert isinstance(clean, DeviceArray) and (clean.shape, clean.dtype) == (array.shape, dtype)
    np.testing.assert_array_equal(on_host(clean), engine(array))
    np.testing.assert_array_equal(array, before)
    assert clean.pointer != array.ctypes.data and not np.array_equal(on_host(clean), array)
    assert engine._session.launches == len(fused_plan.steps) + 2  # type: ignore[attr-defined]


def test_a_result_is_finished_when_it_is_given(cuda: StandIn, engine: Engine) -> None:
    """Whoever takes it need not know our stream, and may free or change the source at once."""
    cuda.calls.clear()
    clean: Any = engine(WithInterface(cuda, frame(32, 32, 3)))
    names = [call[0] for call in cuda.calls]
    assert "cuStreamSynchronize" in names[len(names) - names[::-1].index("cuLaunchKernel") :]
    assert clean.stream is None
    assert "cuMemcpyHtoDAsync" not in names and "cuMemcpyDtoHAsync" not in names


def test_a_result_outlives_its_engine(cuda: StandIn, fused_artefact: Artefact) -> None:
    with Engine(backend.open(fused_artefact, RunOptions()), a_fake_manifest(), tile=0) as engine:
        array = frame(7, 13, 3)
        clean: Any = engine(WithInterface(cuda, array))
        expected = engine(array)
    del engine
    gc.collect()
    assert set(cuda.left()) == {"memory", "contexts"}
    np.testing.assert_array_equal(on_host(clean), expected)
    del clean
    gc.collect()
    assert cuda.left() == {}


def test_results_come_as_their_librarys_own_arrays(
    cuda: StandIn, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Array(WithDLPack):
        __module__ = "somelibrary.core"

    library = ModuleType("somelibrary")
    library.from_dlpack = lambda array: ("an array of some library", array)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somelibrary", library)
    array = frame(32, 32, 3)
    given: Any = engine(Array(cuda, array))
    kind, clean = given
    assert kind == "an array of some library"
    np.testing.assert_array_equal(on_host(clean), engine(array))


@pytest.mark.parametrize("make", [WithInterface, WithDLPack])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (frame(16, 16, 3)[:, ::2], "make it contiguous"),
        (frame(16, 16, 3).transpose(1, 0, 2), "make it contiguous"),
        (frame(8, 8, 3, dtype="float16"), "uint8, or float32 in .* not float16"),
        (frame(3, 8, 8), "channels come first"),
        (frame(8, 8), "height x width x 3"),
        (frame(8, 8, 4), "height x width x 3"),
        (frame(2, 4, 8, 8), "height x width x 3"),
        (frame(1, 2, 8, 8, 3), "height x width x 3"),
        (frame(3), "height x width x 3"),
        (frame(0, 8, 8, 3), "height x width x 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "x".join(map(str, value.shape)),
)
def test_other_arrays_on_the_gpu_are_refused(
    cuda: StandIn, engine: Engine, make: type, array: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        engine(make(cuda, array))


def test_arrays_of_another_gpu_are_refused(cuda: StandIn, engine: Engine) -> None:
    there = WithDLPack(cuda, frame(8, 8, 3))
    there.device = (there.device[0], 1)
    with pytest.raises(InputError, match="lies on GPU 1, the engine on GPU 0"):
        engine(there)


def test_an_engine_on_the_cpu_refuses_them(cuda: StandIn) -> None:
    engine = Engine(FakeSession(), a_fake_manifest(), tile=0)
    with pytest.raises(InputError, match="WithInterface is on a GPU and this engine runs on the CPU"):
        engine(WithInterface(cuda, frame(8, 8, 3)))


def test_the_gpus_memory_decides_what_is_tiled(cuda: StandIn, fused_artefact: Artefact) -> None:
    session = backend.open(fused_artefact, RunOptions())
    engine = Engine(session, a_fake_manifest(bytes_per_pixel=cuda.total // (128 * 128)), tile="auto")
    sizes = []
    run = session.run
    session.run = lambda batch, out=None: sizes.append(batch.shape) or run(batch, out)  # type: ignore[method-assign]
    engine(frame(96, 100, 3))
    assert len(sizes) > 1 and {shape[1:3] for shape in sizes} == {(96, 96)}
    engine.close()
    vars(session).clear()

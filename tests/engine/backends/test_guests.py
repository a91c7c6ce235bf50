"""Programs of other libraries around the engine: their arrays back, and order by their streams alone."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from derain_engine.base.errors import DerainError, InputError
from derain_engine.device.interop import DeviceArray
from derain_engine.device.stream import LEGACY_DEFAULT
from derain_engine.engine.backends.gpu_session import GpuSession
from derain_engine.engine.runtime import Engine

from ...device.conftest import StandIn
from ...device.pycuda_stand_in import install
from ...device.test_interop import WithDLPack, WithInterface
from ...helpers import a_fake_manifest
from ..sessions import FakeSession
from .fused.test_frames import engine, frame, on_host

__all__ = ["engine"]


@pytest.fixture
def theirs(cuda: StandIn, engine: Engine) -> Iterator[int]:
    """Return the number of a stream of somebody else's."""
    context = engine._session._context  # type: ignore[attr-defined]
    with context.current():
        number = int(cuda.cuStreamCreate(0)[1])
    cuda.calls.clear()
    yield number
    cuda.streams.pop(number, None)


def waits(cuda: StandIn) -> list[tuple[str, int]]:
    """Record what is put into streams, in order: (function, stream), and waits on the host."""
    names = {"cuStreamWaitEvent": 1, "cuEventRecord": 2, "cuLaunchKernel": 9, "cuGraphLaunch": 2}
    return [(call[0], int(call[names[call[0]]])) for call in cuda.calls if call[0] in names]


def pycuda_array(pycuda: Any, array: np.ndarray, cuda: StandIn) -> Any:
    class Allocation:
        def __init__(self) -> None:
            cuda.adopt(array.ctypes.data, array.nbytes, 500)
            self.array = array

        def __int__(self) -> int:
            return array.ctypes.data

    return pycuda.gpuarray.GPUArray(array.shape, array.dtype, gpudata=Allocation())


@pytest.mark.parametrize(("shape", "dtype"), [((33, 65, 3), "uint8"), ((2, 3, 7, 13), "float32")], ids=str)
def test_pycuda_gets_its_own_arrays(
    cuda: StandIn, engine: Engine, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: str
) -> None:
    pycuda, array = install(cuda, monkeypatch), frame(*shape, dtype=dtype)
    given = pycuda_array(pycuda, array, cuda)
    given.allocator = object()
    clean = engine(given)
    assert type(clean) is pycuda.gpuarray.GPUArray
    assert (clean.shape, clean.dtype, clean.allocator) == (shape, np.dtype(dtype), given.allocator)
    # In kernels' arguments PyCUDA takes what has the protocol, in copies what has its base.
    assert isinstance(clean.gpudata, pycuda.driver.PointerHolderBase)
    assert clean.gpudata.__cuda_array_interface__["data"] == (int(clean.gpudata), False)
    assert int(clean.gpudata) == clean.base.pointer
    np.testing.assert_array_equal(on_host(clean.base), engine(array))
    again = engine(clean)
    expected: Any = engine(WithInterface(cuda, on_host(clean.base)))
    np.testing.assert_array_equal(on_host(again.base), on_host(expected))
    del expected
    before = len(cuda.allocations)
    pointer = clean.gpudata
    del clean, again
    gc.collect()
    # What has nothing but the address keeps the memory.
    assert cuda.holder(int(pointer)) and len(cuda.allocations) == before - 1
    del pointer
    gc.collect()
    assert len(cuda.allocations) == before - 2


def test_a_subclass_gets_an_array_of_its_library(
    cuda: StandIn, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pycuda = install(cuda, monkeypatch)
    given = pycuda_array(pycuda, frame(8, 8, 3), cuda)
    given.__class__ = type("Mine", (pycuda.gpuarray.GPUArray,), {"__module__": "a_program"})
    result: Any = engine(given)
    assert type(result) is pycuda.gpuarray.GPUArray
    # Not an array of PyCUDA's, although of a class of PyCUDA's.
    assert type(engine(result.gpudata)) is DeviceArray


@pytest.mark.parametrize("package", ["numba", "numba_cuda"])
def test_numba_gets_its_own_arrays_without_a_wait(
    cuda: StandIn, engine: Engine, theirs: int, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    numba, module = ModuleType("numba"), ModuleType("numba.cuda")
    vars(numba).update(cuda=module)
    vars(module).update(as_cuda_array=lambda array, sync: ("Numba's", array, sync))
    monkeypatch.setitem(sys.modules, "numba", numba)
    kind: Any = type("DeviceNDArray", (WithInterface,), {"__module__": f"{package}.cuda.devicearray"})
    name, clean, sync = engine(kind(cuda, frame(8, 8, 3)), stream=theirs)
    assert (name, sync) == ("Numba's", False)
    assert clean.__cuda_array_interface__["stream"] == theirs


@pytest.mark.parametrize("make", [WithInterface, WithDLPack])
def test_with_a_stream_the_gpu_waits_and_the_host_does_not(
    cuda: StandIn, engine: Engine, theirs: int, make: type
) -> None:
    array = frame(33, 65, 3)
    # The first frame of a size prepares it.
    engine(make(cuda, array))
    ours = engine._session._stream.number  # type: ignore[attr-defined]
    cuda.calls.clear()
    clean: Any = engine(make(cuda, array), stream=theirs)
    found = waits(cuda)
    work = [i for i, (name, _) in enumerate(found) if name in ("cuLaunchKernel", "cuGraphLaunch")]
    assert {found[i][1] for i in work} == {ours}
    assert found[: work[0]] == [("cuEventRecord", theirs), ("cuStreamWaitEvent", ours)]
    assert found[work[-1] + 1 : -1] == [("cuEventRecord", ours), ("cuStreamWaitEvent", theirs)]
    # The one that tells when the frame has been read.
    assert found[-1] == ("cuEventRecord", ours)
    assert not cuda.called("cuStreamSynchronize") and not cuda.called("cuEventSynchronize")
    np.testing.assert_array_equal(on_host(clean), engine(array))
    cuda.calls.clear()
    clean.__dlpack__(stream=2)
    assert waits(cuda) == [("cuEventRecord", theirs), ("cuStreamWaitEvent", 2)]
    assert clean.__cuda_array_interface__["stream"] == theirs


@pytest.mark.parametrize("number", [0, LEGACY_DEFAULT])
def test_the_default_stream_is_a_stream(cuda: StandIn, engine: Engine, number: int) -> None:
    clean: Any = engine(WithInterface(cuda, frame(8, 8, 3)), stream=number)
    assert clean.stream.number == LEGACY_DEFAULT


def test_a_frame_is_kept_until_it_has_been_read(cuda: StandIn, engine: Engine, theirs: int) -> None:
    alive = []
    for i in range(3):
        given = WithInterface(cuda, frame(8, 8, 3, dtype="float32") * 0 + i)
        alive.append(weakref.ref(given))
        if i:
            cuda.fail("cuEventQuery", "NOT_READY")
        engine(given, stream=theirs)
        del given
    assert all(ref() is not None for ref in alive)
    # The first has been read, the second not.
    cuda.fail("cuEventQuery", "NOT_READY", after=1)
    engine(WithInterface(cuda, frame(8, 8, 3)))
    assert [ref() is not None for ref in alive] == [False, True, True]
    cuda.calls.clear()
    engine.close()
    assert [ref() is not None for ref in alive] == [False, False, False]
    assert cuda.called("cuStreamSynchronize") and not cuda.events


def test_what_failed_under_way_is_told_by_the_next_call(cuda: StandIn, engine: Engine, theirs: int) -> None:
    engine(WithInterface(cuda, frame(8, 8, 3)), stream=theirs)
    cuda.fail("cuEventQuery", "ILLEGAL_ADDRESS")
    with pytest.raises(DerainError, match="started again"):
        engine(WithInterface(cuda, frame(8, 8, 3)), stream=theirs)


@pytest.mark.parametrize("function", ["cuLaunchKernel", "cuStreamWaitEvent"])
def test_a_frame_that_fails_half_way_is_not_read_when_that_is_told(
    cuda: StandIn, engine: Engine, theirs: int, function: str
) -> None:
    given = WithInterface(cuda, frame(8, 8, 3))
    engine(given)
    memory = len(cuda.allocations)
    cuda.calls.clear()
    cuda.fail(function, "INVALID_VALUE", after=1)
    with pytest.raises(DerainError, match="INVALID_VALUE"):
        engine(given, stream=theirs)
    assert cuda.called("cuStreamSynchronize") == 1
    gc.collect()
    assert len(cuda.allocations) == memory


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3), np.uint8), [[1]]], ids=["array", "list"])
def test_streams_are_for_frames_on_the_gpu(cuda: StandIn, engine: Engine, image: Any) -> None:
    with pytest.raises(InputError, match=rf"A stream orders work .* {type(image).__name__} is not there"):
        engine(image, stream=1)
    with pytest.raises(InputError, match="engine runs on the CPU"):
        Engine(FakeSession(), a_fake_manifest(), tile=0)(WithInterface(cuda, frame(8, 8, 3)), stream=1)


def test_what_is_no_stream_is_refused(cuda: StandIn, fused_session: GpuSession, engine: Engine) -> None:
    with pytest.raises(InputError, match="A str is not a CUDA stream"):
        engine(WithInterface(cuda, frame(8, 8, 3)), stream="main")

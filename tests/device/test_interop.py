from __future__ import annotations

import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from derain_engine.base.errors import DerainError, InputError
from derain_engine.device import dlpack
from derain_engine.device.interop import DeviceArray, on_gpu, view
from derain_engine.device.memory import DeviceBuffer, copy, download
from derain_engine.device.stream import LEGACY_DEFAULT, Stream

KINDS = {"uint8": (1, 8, 1), "float16": (2, 16, 1), "bfloat16": (4, 16, 1), "float32": (2, 32, 1)}
PRIMARY, OF_ANOTHER_GPU, OF_PYCUDA = 500, 501, 700


class Foreign:
    """Another library's array: numpy memory that the stand-in driver takes for a GPU's."""

    def __init__(self, cuda, array, context=PRIMARY):
        self.array = array
        if array.nbytes:
            root = array if array.base is None else array.base
            cuda.adopt(root.ctypes.data, root.nbytes, context)


class WithInterface(Foreign):
    """An array like PyCUDA's GPUArray, which says that there is nothing to wait for."""

    changes: Mapping[str, Any] = MappingProxyType({})

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.array.shape,
            "strides": self.array.strides,
            "data": (self.array.ctypes.data, False),
            "typestr": self.array.dtype.str,
            "stream": None,
            "version": 3,
            **self.changes,
        }


class WithDLPack(Foreign):
    """An array like CuPy's ndarray or PyTorch's Tensor."""

    device: tuple[int, int] = (dlpack.CUDA, 0)
    kind: tuple[int, int, int] | None = None
    asked: int | None = None

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream=None):
        self.asked = stream
        kind = self.kind or KINDS[self.array.dtype.name]
        strides = tuple(step // self.array.itemsize for step in self.array.strides)
        pointer = self.array.ctypes.data
        return dlpack.make_capsule(
            dlpack.Tensor(pointer, self.array.shape, strides, kind, self.device, self.array)
        )


@pytest.fixture
def stream(context):
    return Stream(context)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("make", [WithInterface, WithDLPack])
@pytest.mark.parametrize("shape", [(1, 1), (7, 13, 3), (33, 65), (0, 4)])
def test_arrays_come_in_without_a_copy(cuda, context, stream, make, dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    found = view(make(cuda, array), stream)
    assert (found.shape, found.strides, found.dtype) == (array.shape, array.strides, dtype)
    assert found.contiguous and (found.pointer == array.ctypes.data or not array.size)
    target, back = DeviceBuffer(context, array.nbytes), np.empty_like(array)
    copy(found.region, target, stream)
    download(target, back, stream)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("make", [WithInterface, WithDLPack])
def test_strides_come_along_and_gaps_are_only_refused_for_copies(cuda, stream, make):
    array = np.zeros((7, 13, 3), np.float32)
    for strided in (array.transpose(2, 0, 1), array[:, ::2], array[:, :5]):
        found = view(make(cuda, strided), stream)
        assert (found.shape, found.strides) == (strided.shape, strided.strides)
        assert not found.contiguous
        with pytest.raises(InputError, match="make it contiguous"):
            _ = found.region
    # The stride of an axis that has one element says nothing.
    one = array[:1:2]
    assert one.strides[0] == 2 * array.strides[0] and view(make(cuda, one), stream).contiguous


@pytest.mark.parametrize("make", [WithInterface, WithDLPack])
def test_an_array_is_kept_alive_by_its_view_alone(cuda, stream, make):
    foreign = make(cuda, np.ones(3, np.float32))
    alive = weakref.ref(foreign.array)
    found = view(foreign, stream)
    del foreign
    assert alive() is not None
    region = found.region
    del found
    assert alive() is not None
    del region
    assert alive() is None


def test_a_missing_stride_means_row_major(cuda, stream):
    foreign = WithInterface(cuda, np.zeros((4, 5), np.float16))
    foreign.changes = {"strides": None}
    assert view(foreign, stream).strides == (10, 2)


def test_bfloat16_comes_by_dlpack(cuda, stream):
    foreign = WithDLPack(cuda, np.zeros((4, 5), np.uint16))
    foreign.kind = KINDS["bfloat16"]
    assert view(foreign, stream).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("changes", "waited_for"),
    [({"stream": 1}, 1), ({"stream": 2}, 2), ({"stream": None}, 1), ({"version": 2}, 1)],
)
def test_reading_waits_for_the_stream_that_writes(cuda, stream, changes, waited_for):
    foreign = WithInterface(cuda, np.zeros(4, np.uint8))
    foreign.changes = changes
    view(foreign, stream)
    (recorded,) = (call for call in cuda.calls if call[0] == "cuEventRecord")
    (waiting,) = (call for call in cuda.calls if call[0] == "cuStreamWaitEvent")
    assert int(recorded[2]) == waited_for and waiting[1] is stream.handle
    assert not cuda.called("cuStreamSynchronize")


@pytest.mark.parametrize(
    ("changes", "waited_for"), [({"stream": None}, [77]), ({"stream": 2}, [2, 77]), ({"version": 2}, [77])]
)
def test_a_caller_who_names_the_stream_need_not_wait_for_the_default_one(
    cuda, context, stream, changes, waited_for
):
    foreign = WithInterface(cuda, np.zeros(4, np.uint8))
    foreign.changes = changes
    view(foreign, stream, Stream(context, 77))
    assert [int(call[2]) for call in cuda.calls if call[0] == "cuEventRecord"] == waited_for
    assert {call[1] for call in cuda.calls if call[0] == "cuStreamWaitEvent"} == {stream.handle}


def test_dlpack_is_told_the_stream_that_reads(cuda, context, stream):
    foreign = WithDLPack(cuda, np.zeros(4, np.uint8))
    view(foreign, stream)
    assert foreign.asked == stream.number
    view(foreign, Stream(context, 0))
    assert foreign.asked == LEGACY_DEFAULT


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"mask": object()}, "Masked arrays"),
        ({"version": 1}, "version 1 is too old"),
        ({"typestr": "<f8"}, "Arrays of '<f8' are not understood; convert them to uint8, float16"),
        ({"typestr": ">f4"}, "Arrays of '>f4'"),
        ({"data": None}, "interface__ of the WithInterface is damaged"),
        ({"shape": 3}, "damaged"),
        ({"data": (0x10, False)}, "address 0x10 is not in the memory of a GPU"),
    ],
)
def test_arrays_that_are_not_understood_are_refused(cuda, stream, changes, problem):
    foreign = WithInterface(cuda, np.zeros(4, np.float32))
    foreign.changes = changes
    with pytest.raises(InputError, match=problem):
        view(foreign, stream)


@pytest.mark.parametrize("kind", [(2, 64, 1), (0, 32, 1), (2, 32, 4)])
def test_other_types_of_dlpack_are_refused_and_given_back(cuda, stream, kind):
    foreign = WithDLPack(cuda, np.zeros(4, np.float64))
    foreign.kind = kind
    with pytest.raises(InputError, match=rf"type {kind[0]} with {kind[1]} bits in {kind[2]} lanes"):
        view(foreign, stream)


@pytest.mark.parametrize("array", [np.zeros(3), torch.zeros(3), [1, 2], None])
def test_arrays_on_the_cpu_are_refused(stream, array):
    assert not on_gpu(array)
    with pytest.raises(InputError, match=rf"{type(array).__name__} does not lie on a GPU"):
        view(array, stream)


def test_what_lies_on_a_gpu_is_known_before_it_is_taken(cuda):
    array = np.zeros(3, np.float32)
    assert on_gpu(WithInterface(cuda, array)) and on_gpu(WithDLPack(cuda, array))
    managed, pinned = WithDLPack(cuda, array), WithDLPack(cuda, array)
    managed.device, pinned.device = (dlpack.CUDA_MANAGED, 0), (3, 0)
    assert on_gpu(managed) and not on_gpu(pinned)


def test_a_library_that_refuses_is_quoted(cuda, stream):
    class Refusing(WithDLPack):
        def __dlpack__(self, *, stream=None):
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")

    with pytest.raises(InputError, match=r"cannot be handed over by DLPack: Can't export.*detach"):
        view(Refusing(cuda, np.zeros(3, np.float32)), stream)


@pytest.mark.parametrize("make", [WithInterface, WithDLPack])
@pytest.mark.parametrize(
    ("owner", "problem"),
    [(OF_ANOTHER_GPU, "lies on GPU 1, the engine on GPU 0"), (OF_PYCUDA, "pycuda.autoprimaryctx")],
)
def test_arrays_of_another_gpu_or_context_are_refused(cuda, stream, make, owner, problem):
    foreign = make(cuda, np.zeros(3, np.float32), context=owner)
    with pytest.raises(InputError, match=problem):
        view(foreign, stream)


def test_a_library_is_not_asked_for_an_array_on_another_gpu(cuda, stream):
    foreign = WithDLPack(cuda, np.zeros(3, np.float32))
    foreign.device = (dlpack.CUDA, 1)
    with pytest.raises(InputError, match="lies on GPU 1, the engine on GPU 0"):
        view(foreign, stream)
    assert foreign.asked is None


def test_a_lost_gpu_is_not_taken_for_a_wrong_address(cuda, stream):
    foreign = WithInterface(cuda, np.zeros(3, np.float32))
    cuda.fail("cuPointerGetAttribute", "ILLEGAL_ADDRESS")
    with pytest.raises(DerainError, match=r"looking where an array lies.*started again"):
        view(foreign, stream)


def test_memory_of_a_pool_belongs_to_no_context(cuda, stream):
    foreign = WithInterface(cuda, np.zeros(3, np.float32), context=0)
    assert view(foreign, stream).shape == (3,)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (7, 13, 3), (), (0, 4)])
def test_results_go_out_by_dlpack_and_come_back(context, stream, dtype, shape):
    result = DeviceArray.over(DeviceBuffer(context, 4 * 273), shape, dtype, stream)
    assert result.__dlpack_device__() == (dlpack.CUDA, 0)
    back = view(result, stream)
    assert (back.shape, back.dtype, back.contiguous) == (shape, dtype, True)
    assert back.strides == result.strides or 0 in shape or 1 in shape
    assert back.pointer == result.pointer


@pytest.mark.parametrize(
    ("asked", "waits"),
    [({}, 1), ({"stream": None}, 1), ({"stream": 1}, 1), ({"stream": 2}, 2), ({"stream": -1}, None)],
)
def test_the_consumer_of_a_result_waits_for_the_stream_that_writes_it(cuda, context, stream, asked, waits):
    result = DeviceArray.over(DeviceBuffer(context, 12), (3,), "float32", stream)
    result.__dlpack__(max_version=(1, 1), **asked)
    waiting = [int(call[1]) for call in cuda.calls if call[0] == "cuStreamWaitEvent"]
    assert waiting == ([] if waits is None else [waits])
    assert all(call[2] is stream.handle for call in cuda.calls if call[0] == "cuEventRecord")


def test_results_are_handed_over_where_they_lie_or_not_at_all(context, stream):
    result = DeviceArray.over(DeviceBuffer(context, 12), (3,), "float32", stream)
    wishes: list[dict[str, Any]] = [{"copy": True}, {"dl_device": (1, 0)}, {"dl_device": (2, 1)}]
    for wish in wishes:
        with pytest.raises(BufferError, match="not copied"):
            result.__dlpack__(**wish)
    assert result.__dlpack__(dl_device=(2, 0), copy=False) is not None


def test_results_go_out_by_the_array_interface(context, stream):
    buffer = DeviceBuffer(context, 1000)
    result = DeviceArray.over(buffer.part(16, 900), (7, 13, 3), "float16", stream)
    assert result.__cuda_array_interface__ == {
        "version": 3,
        "shape": (7, 13, 3),
        "typestr": "<f2",
        "data": (buffer.pointer + 16, False),
        "strides": None,
        "stream": stream.number,
    }
    assert not hasattr(DeviceArray.over(buffer, (3,), "bfloat16", stream), "__cuda_array_interface__")


def test_a_strided_view_says_its_strides_on(cuda, stream):
    array = np.zeros((4, 6), np.float32).T
    found = view(WithInterface(cuda, array), stream)
    interface = found.__cuda_array_interface__
    assert (interface["strides"], interface["stream"]) == (array.strides, None)
    assert view(found, stream).strides == array.strides


def test_a_result_keeps_its_memory_until_its_consumer_is_done(cuda, context, stream):
    result = DeviceArray.over(DeviceBuffer(context, 12), (3,), "float32", stream)
    taken = dlpack.consume(result.__dlpack__())
    del result
    assert len(cuda.allocations) == 1
    del taken
    assert not cuda.allocations


def test_results_must_fit_their_memory(context, stream):
    buffer = DeviceBuffer(context, 11)
    with pytest.raises(InputError, match=r"11 bytes are too few for \(3,\) elements of float32"):
        DeviceArray.over(buffer, (3,), "float32", stream)
    with pytest.raises(InputError, match="Arrays of float64 are not known"):
        DeviceArray.over(buffer, (1,), "float64", stream)

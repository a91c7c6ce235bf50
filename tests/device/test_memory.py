from __future__ import annotations

import numpy as np
import pytest

from derain_engine.base.errors import DerainError, InputError
from derain_engine.device.memory import DeviceBuffer, PinnedBuffer, copy, download, fill, upload
from derain_engine.device.stream import Stream


@pytest.fixture
def stream(context):
    return Stream(context)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 13, 3), (33, 65)])
def test_arrays_come_back_as_they_went(context, stream, shape, dtype):
    array = (np.random.default_rng(1).random(shape) * 255).astype(dtype)
    first, second = DeviceBuffer(context, array.nbytes), DeviceBuffer(context, array.nbytes)
    back = np.zeros_like(array)
    upload(array, first, stream)
    copy(first, second, stream)
    download(second, back, stream)
    np.testing.assert_array_equal(back, array)


def test_parts_are_copied_alone(context, stream):
    buffer = DeviceBuffer(context, 10)
    fill(buffer, 7, stream)
    upload(np.arange(4, dtype=np.uint8), buffer.part(3, 4), stream)
    copy(buffer.part(4, 2), buffer.part(8, 2), stream)
    back = np.zeros(10, np.uint8)
    download(buffer, back, stream)
    assert back.tolist() == [7, 7, 7, 0, 1, 2, 3, 7, 1, 2]
    for offset, nbytes in ((-1, 2), (3, 8), (11, 0), (2, -1)):
        with pytest.raises(InputError, match="not in a buffer of 10 bytes"):
            buffer.part(offset, nbytes)


def test_a_part_keeps_its_buffer(cuda, context):
    part = DeviceBuffer(context, 10).part(2, 3)
    assert len(cuda.allocations) == 1
    del part
    assert not cuda.allocations


def test_pinned_memory_is_a_numpy_array_that_keeps_it(cuda, context, stream):
    pinned = PinnedBuffer(context, 100)
    frame = pinned.array((2, 3, 4), np.float32, offset=4)
    assert frame.ctypes.data == pinned.handle + 4 and frame.flags.writeable
    frame[...] = np.arange(24).reshape(2, 3, 4)
    again = pinned.array((24,), np.float32, 4)
    np.testing.assert_array_equal(again, np.arange(24))

    buffer = DeviceBuffer(context, 96)
    upload(frame, buffer, stream)
    back = PinnedBuffer(context, 96).array((2, 3, 4), np.float32)
    download(buffer, back, stream)
    np.testing.assert_array_equal(back, frame)

    del pinned
    assert len(cuda.pinned) == 2
    del frame, again, back
    assert not cuda.pinned


@pytest.mark.parametrize(("shape", "offset"), [((101,), 0), ((100,), 1), ((0,), 101), ((1,), -1)])
def test_views_beyond_the_pinned_memory_are_refused(context, shape, offset):
    with pytest.raises(InputError, match="not in a buffer of 100 bytes"):
        PinnedBuffer(context, 100).array(shape, np.uint8, offset)


def test_a_closed_buffer_gives_no_address_and_no_view(context):
    buffer, pinned = DeviceBuffer(context, 8), PinnedBuffer(context, 8)
    buffer.close()
    pinned.close()
    for use in (lambda: buffer.pointer, lambda: buffer.part(0, 1), lambda: pinned.array((8,), np.uint8)):
        with pytest.raises(InputError, match="closed"):
            use()


def test_nothing_is_allocated_or_copied_for_nothing(cuda, context, stream):
    buffer, other, pinned = DeviceBuffer(context, 0), DeviceBuffer(context, 0), PinnedBuffer(context, 0)
    nothing = pinned.array((0, 3), np.float32)
    assert nothing.shape == (0, 3) and buffer.pointer == 0
    before = len(cuda.calls)
    upload(nothing, buffer, stream)
    download(buffer, nothing, stream)
    copy(buffer, other, stream)
    fill(buffer, 1, stream)
    for each in (buffer, pinned):
        each.close()
    called = {call[0] for call in cuda.calls[before:]}
    assert called <= {"cuCtxPushCurrent", "cuCtxPopCurrent"}
    assert not cuda.called("cuMemAlloc") and not cuda.called("cuMemHostAlloc")


@pytest.mark.parametrize("make", [DeviceBuffer, PinnedBuffer])
def test_negative_sizes_are_refused(context, make):
    with pytest.raises(InputError, match="no buffer of -1 bytes"):
        make(context, -1)


def test_copies_that_do_not_fit_are_refused_before_the_driver_sees_them(cuda, context, stream):
    buffer, array = DeviceBuffer(context, 12), np.zeros((4, 3), np.uint8)
    locked = np.zeros(12, np.uint8)
    locked.flags.writeable = False
    for work, problem in (
        (lambda: upload(array[:3], buffer, stream), "9 bytes .* 12 bytes"),
        (lambda: upload(array.T, buffer, stream), "contiguous"),
        (lambda: download(buffer, np.zeros(13, np.uint8), stream), "13 bytes .* 12 bytes"),
        (lambda: download(buffer, array.T, stream), "contiguous"),
        (lambda: download(buffer, locked, stream), "read-only"),
        (lambda: copy(buffer, buffer.part(0, 11), stream), "12 bytes .* 11 bytes"),
    ):
        with pytest.raises(InputError, match=problem):
            work()
    assert not any("cpy" in call[0] for call in cuda.calls)


@pytest.mark.parametrize(
    ("function", "doing"),
    [
        ("cuMemcpyHtoDAsync", "copying 2.0 MiB to the GPU"),
        ("cuMemcpyDtoHAsync", "copying 2.0 MiB from the GPU"),
        ("cuMemcpyDtoDAsync", "copying 2.0 MiB on the GPU"),
        ("cuMemsetD8Async", "filling 2.0 MiB on the GPU"),
    ],
)
def test_failing_copies_say_what_failed(cuda, context, stream, function, doing):
    array = np.zeros(2 << 20, np.uint8)
    with DeviceBuffer(context, array.nbytes) as buffer:
        cuda.fail(function, "INVALID_VALUE")
        with pytest.raises(DerainError, match=doing):
            upload(array, buffer, stream)
            download(buffer, array, stream)
            copy(buffer, buffer, stream)
            fill(buffer, 0, stream)
    assert not cuda.allocations

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from derain_engine.base.errors import DerainError, InputError
from derain_engine.device.stream import LEGACY_DEFAULT, Event, Stream


def test_own_streams_do_not_wait_for_the_default_stream(cuda, context):
    stream = Stream(context)
    assert ("cuStreamCreate", int(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)) in cuda.calls
    assert stream.number in cuda.streams
    stream.synchronise()
    assert cuda.calls[-1] == ("cuStreamSynchronize", stream.handle)


class CudaStream:
    """Any library's stream that speaks the protocol between libraries."""

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, 77


@pytest.mark.parametrize(
    ("foreign", "number"),
    [
        (77, 77),
        (0, LEGACY_DEFAULT),
        (2, 2),
        (CudaStream(), 77),
        (SimpleNamespace(cuda_stream=77), 77),
        (SimpleNamespace(cuda_stream=0), LEGACY_DEFAULT),
        (SimpleNamespace(handle=77), 77),
        (SimpleNamespace(ptr=77), 77),
        (SimpleNamespace(handle=ctypes.c_void_p(77)), 77),
        (SimpleNamespace(handle=ctypes.c_void_p(0)), LEGACY_DEFAULT),
    ],
)
def test_streams_of_other_libraries_are_used_and_never_destroyed(cuda, context, foreign, number):
    with Stream(context, foreign) as stream:
        assert stream.number == number
    assert not cuda.called("cuStreamDestroy") and not cuda.called("cuStreamCreate")
    with pytest.raises(InputError, match="closed"):
        stream.synchronise()


def test_what_is_no_stream_is_refused(context):
    with pytest.raises(InputError, match="A str is not a CUDA stream"):
        Stream(context, "legacy")


def test_a_stream_waits_for_another_but_not_for_itself(cuda, context):
    first, second = Stream(context), Stream(context)
    second.wait_for(first)
    names = [call[0] for call in cuda.calls[-7:]]
    assert names.index("cuEventRecord") < names.index("cuStreamWaitEvent") < names.index("cuEventDestroy")
    assert next(call for call in cuda.calls if call[0] == "cuEventRecord")[2] == first.handle
    assert next(call for call in cuda.calls if call[0] == "cuStreamWaitEvent")[1] == second.handle
    before = len(cuda.calls)
    first.wait_for(first)
    assert len(cuda.calls) == before


@pytest.mark.parametrize("function", ["cuEventRecord", "cuStreamWaitEvent"])
def test_a_failing_wait_leaves_no_event(cuda, context, function):
    first, second = Stream(context), Stream(context)
    cuda.fail(function, "INVALID_HANDLE")
    with pytest.raises(DerainError, match="CUDA_ERROR_INVALID_HANDLE"):
        second.wait_for(first)
    assert not cuda.events


def test_events_measure_time_only_when_made_for_it(context):
    stream = Stream(context)
    start, end = Event(context, timing=True), Event(context, timing=True)
    start.record(stream)
    end.record(stream)
    end.synchronise()
    assert end.elapsed_ms(start) == 0.5
    untimed = Event(context)
    untimed.record(stream)
    with pytest.raises(DerainError, match="measuring time"):
        untimed.elapsed_ms(start)


def test_an_event_tells_whether_it_happened(cuda, context):
    event = Event(context)
    cuda.fail("cuEventQuery", "NOT_READY")
    assert [event.happened(), event.happened()] == [False, True]
    assert not cuda.called("cuEventSynchronize")
    cuda.fail("cuEventQuery", "ILLEGAL_ADDRESS")
    with pytest.raises(DerainError, match=r"how far the GPU is.*started again"):
        event.happened()


def test_work_that_failed_is_told_when_it_is_waited_for(cuda, context):
    stream, event = Stream(context), Event(context)
    cuda.fail("cuStreamSynchronize", "ILLEGAL_ADDRESS")
    with pytest.raises(DerainError, match=r"waiting for the GPU.*started again"):
        stream.synchronise()
    cuda.fail("cuEventSynchronize", "LAUNCH_FAILED")
    with pytest.raises(DerainError, match=r"waiting for the GPU.*started again"):
        event.synchronise()

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from derain_engine.base.errors import DerainError, InputError
from derain_engine.device.context import Context
from derain_engine.device.memory import DeviceBuffer, PinnedBuffer
from derain_engine.device.stream import Event, Stream


def test_the_context_is_current_inside_blocks_only(cuda):
    with Context() as context:
        assert cuda.current == []
        with context.current():
            with context.current():
                assert cuda.current == [500, 500]
            assert cuda.current == [500]
        assert cuda.current == []
        with pytest.raises(ZeroDivisionError), context.current():
            raise ZeroDivisionError
        assert cuda.current == []


def test_a_context_is_retained_and_released_once(cuda):
    first, second = Context(), Context()
    assert cuda.retained == {0: 2}
    first.close()
    first.close()
    assert cuda.retained == {0: 1}
    del second
    gc.collect()
    assert cuda.retained == {0: 0}
    for use in (lambda: first.handle, lambda: Stream(first), first.memory, first.current().__enter__):
        with pytest.raises(InputError, match="context is closed"):
            use()


def test_a_context_that_cannot_be_had_leaves_nothing(cuda):
    cuda.fail("cuDevicePrimaryCtxRetain", "OUT_OF_MEMORY")
    with pytest.raises(DerainError, match="opening GPU 0"):
        Context()
    cuda.fail("cuCtxPushCurrent", "UNKNOWN")
    with Context() as context, pytest.raises(DerainError, match="using the GPU"):
        Stream(context)


def test_memory_is_counted(cuda, context):
    assert context.memory() == (8 << 30, 8 << 30)
    with DeviceBuffer(context, 1 << 20):
        assert context.memory() == ((8 << 30) - (1 << 20), 8 << 30)


@pytest.mark.parametrize(
    ("make", "function", "noun"),
    [
        (lambda context: DeviceBuffer(context, 64), "cuMemAlloc", "DeviceBuffer"),
        (lambda context: PinnedBuffer(context, 64), "cuMemHostAlloc", "PinnedBuffer"),
        (Stream, "cuStreamCreate", "Stream"),
        (Event, "cuEventCreate", "Event"),
    ],
)
def test_resources_are_freed_once_however_they_end(cuda, make, function, noun):
    with Context() as context:
        before = cuda.left()
        # Nothing is current: making and freeing see to that themselves.
        with make(context) as resource:
            assert resource.context is context and cuda.left() != before
        assert cuda.left() == before
        resource.close()
        with pytest.raises(InputError, match=f"This {noun} is closed"):
            _ = resource.handle

        forgotten = make(context)
        assert cuda.left() != before
        del forgotten
        gc.collect()
        assert cuda.left() == before

        cuda.fail(function, "UNKNOWN")
        with pytest.raises(DerainError, match="meaning of 999"):
            make(context)
        assert cuda.left() == before
        left_open = make(context)
    assert cuda.left() == {}
    left_open.close()


def test_a_resource_keeps_its_context_open(cuda):
    stream = Stream(Context())
    gc.collect()
    assert cuda.retained == {0: 1}
    stream.close()
    del stream


def test_freeing_never_hides_the_error_that_came_before(cuda):
    with pytest.raises(ZeroDivisionError), Context() as context, Stream(context):
        cuda.fail("cuCtxPushCurrent", "ILLEGAL_ADDRESS")
        raise ZeroDivisionError
    # The context was lost: there is nothing to give the stream back to.
    assert cuda.left() == {"streams": cuda.streams}
    cuda.streams.clear()


_FORGETFUL = """
import sys
sys.path.insert(0, sys.argv[1])
import conftest
from cuda.bindings import driver as real
from derain_engine.device import driver
from derain_engine.device.context import Context
from derain_engine.device.memory import DeviceBuffer, PinnedBuffer
import atexit
cuda = conftest.StandIn(real)
# Registered before ours, therefore run after.
atexit.register(lambda: print(cuda.left()))
driver.bindings = lambda: cuda
context = Context()
kept = [DeviceBuffer(context, 10), PinnedBuffer(context, 10)]
view = kept[1].array((10,), "uint8")
"""


def test_what_is_open_at_the_end_of_the_process_is_freed(request):
    pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    here = str(request.path.parent)
    done = subprocess.run(
        [sys.executable, "-c", _FORGETFUL, here], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("{}\n", "")

from __future__ import annotations

import gc

import numpy as np
import pytest

from derain_engine.base.errors import DerainError, InputError
from derain_engine.device.graph import Graph
from derain_engine.device.memory import DeviceBuffer, copy, download, fill, upload
from derain_engine.device.module import Arguments, Module, launch
from derain_engine.device.stream import Stream


@pytest.fixture
def stream(context):
    return Stream(context)


@pytest.fixture
def buffer(context):
    return DeviceBuffer(context, 16)


@pytest.fixture
def add_one(cuda, context, cubin, buffer):
    """Puts a kernel that adds 1 to every byte of the buffer into a stream."""

    def kernel(grid, pointer):
        memory = cuda.allocations[int.from_bytes(pointer, "little")]
        memory[:] = bytes((byte + 1) % 256 for byte in bytes(memory))

    cuda.kernels["add_one"] = ((8,), kernel)
    function = Module(context, cubin(), "m").function("add_one")
    arguments = Arguments(("*u8",), (buffer,))
    return lambda stream: launch(function, (1, 1, 1), 32, arguments, stream)


def bytes_of(buffer, stream):
    back = np.zeros(buffer.nbytes, np.uint8)
    download(buffer, back, stream)
    return back


def test_captured_work_runs_when_the_graph_does(cuda, context, stream, buffer, add_one):
    other = DeviceBuffer(context, 16)

    def work():
        fill(buffer, 5, stream)
        add_one(stream)
        add_one(stream)
        copy(buffer, other, stream)

    upload(np.zeros(16, np.uint8), buffer, stream)
    with Graph(stream, work) as graph:
        assert not bytes_of(buffer, stream).any()
        assert graph.kernels == 2 and context.launches == 2
        for _ in range(2):
            graph.launch(stream)
            assert set(bytes_of(other, stream)) == {7}
        assert not cuda.graphs and len(cuda.executables) == 1
    with pytest.raises(InputError, match="Graph is closed"):
        graph.launch(stream)
    mode = next(call for call in cuda.calls if call[0] == "cuStreamBeginCapture")[2]
    assert mode.name == "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"


def test_forked_streams_take_part_when_they_are_joined(context, stream, buffer, add_one):
    side = Stream(context)

    def work():
        add_one(stream)
        side.wait_for(stream)
        add_one(side)
        add_one(stream)
        stream.wait_for(side)
        add_one(stream)

    fill(buffer, 0, stream)
    with Graph(stream, work) as graph:
        assert graph.kernels == 4
        assert not bytes_of(buffer, stream).any()
        graph.launch(stream)
    assert set(bytes_of(buffer, stream)) == {4}


def test_a_fork_that_is_not_joined_is_an_error(cuda, context, stream, add_one):
    side = Stream(context)

    def work():
        side.wait_for(stream)
        add_one(side)

    with pytest.raises(DerainError, match=r"capturing a CUDA graph.*STREAM_CAPTURE_UNJOINED"):
        Graph(stream, work)
    assert not cuda.captures and not cuda.graphs


def test_the_default_stream_cannot_be_captured(context):
    with pytest.raises(DerainError, match=r"starting to capture.*STREAM_CAPTURE_UNSUPPORTED"):
        Graph(Stream(context, 0), lambda: None)


@pytest.mark.parametrize("ending", ["whole", "unjoined"])
def test_an_error_in_the_work_ends_the_capture_and_comes_through(cuda, context, stream, add_one, ending):
    side = Stream(context)

    def work():
        add_one(stream)
        if ending == "unjoined":
            side.wait_for(stream)
            add_one(side)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Graph(stream, work)
    assert not cuda.captures and not cuda.graphs
    Graph(stream, lambda: add_one(stream)).launch(stream)


@pytest.mark.parametrize(
    ("function", "after"),
    [
        ("cuStreamBeginCapture", 0),
        ("cuGraphGetNodes", 0),
        ("cuGraphGetNodes", 1),
        ("cuGraphNodeGetType", 0),
        ("cuGraphInstantiate", 0),
    ],
)
def test_failures_on_the_way_leave_no_graph(cuda, stream, add_one, function, after):
    cuda.fail(function, "OUT_OF_MEMORY", after)
    with pytest.raises(DerainError, match="CUDA graph"):
        Graph(stream, lambda: add_one(stream))
    assert not cuda.graphs and not cuda.executables and not cuda.captures


@pytest.mark.parametrize("was_on", [True, False])
def test_no_garbage_is_collected_while_work_is_captured(stream, add_one, was_on):
    """Freeing the GPU's memory in the thread that captures would end it."""
    seen = []
    (gc.enable if was_on else gc.disable)()
    try:
        Graph(stream, lambda: (seen.append(gc.isenabled()), add_one(stream)))
        assert seen == [False] and gc.isenabled() == was_on
        with pytest.raises(ZeroDivisionError):
            Graph(stream, lambda: 1 / 0)
        assert gc.isenabled() == was_on
    finally:
        gc.enable()


def test_an_empty_graph_is_a_graph(stream):
    with Graph(stream, lambda: None) as graph:
        assert graph.kernels == 0
        graph.launch(stream)


def test_a_graph_that_does_not_start_says_so(cuda, stream, add_one):
    with Graph(stream, lambda: add_one(stream)) as graph:
        cuda.fail("cuGraphLaunch", "LAUNCH_FAILED")
        with pytest.raises(DerainError, match="launching a CUDA graph"):
            graph.launch(stream)

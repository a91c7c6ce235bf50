"""CUDA graphs: work captured once and put into a stream as a whole, for one launch rather than hundreds."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

from . import driver
from .context import Resource
from .stream import Stream


class Graph(Resource):
    """The work that ``work()`` puts into ``stream``, captured and not run.

    work: called once, from this thread, with the context current. Other streams may take part where
        :meth:`Stream.wait_for` forks them from ``stream`` and joins them again. Arguments and addresses are captured
        as they are: memory and modules must stay open while the graph is used.
    kernels: launches that running the graph once makes, counted in the graph itself.

    Raises:
        DerainError: something in ``work`` cannot be captured, or a forked stream was not joined.
    """

    def __init__(self, stream: Stream, work: Callable[[], object]) -> None:
        cuda = driver.bindings()
        with stream.context.current():
            graph = _capture(cuda, stream, work)
            try:
                self.kernels = _count_kernels(cuda, graph)
                executable = driver.check(cuda.cuGraphInstantiate(graph, 0), "preparing a CUDA graph")
            finally:
                cuda.cuGraphDestroy(graph)
        super().__init__(stream.context, executable, cuda.cuGraphExecDestroy)

    def launch(self, stream: Stream) -> None:
        """Put the whole graph into ``stream``, behind the launches of it that are under way."""
        driver.check(driver.bindings().cuGraphLaunch(self.handle, stream.handle), "launching a CUDA graph")


def _capture(cuda: Any, stream: Stream, work: Callable[[], object]) -> Any:
    # Of this thread alone: that others allocate at the same time neither fails nor spoils the capture.
    mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    with _without_garbage_collection():
        driver.check(cuda.cuStreamBeginCapture(stream.handle, mode), "starting to capture a CUDA graph")
        try:
            work()
        except BaseException:
            _, graph = cuda.cuStreamEndCapture(stream.handle)
            if graph is not None and int(graph):
                cuda.cuGraphDestroy(graph)
            raise
        return driver.check(cuda.cuStreamEndCapture(stream.handle), "capturing a CUDA graph")


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Switch garbage collection off: memory that is freed in this thread, the GPU's among it, would end a capture."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _count_kernels(cuda: Any, graph: Any) -> int:
    _, count = driver.check(cuda.cuGraphGetNodes(graph), "counting the steps of a CUDA graph")
    nodes, _ = driver.check(cuda.cuGraphGetNodes(graph, count), "reading the steps of a CUDA graph")
    kernel = cuda.CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL
    kinds = [driver.check(cuda.cuGraphNodeGetType(node), "reading a step of a CUDA graph") for node in nodes]
    return kinds.count(kernel)

"""A few round trips on a real GPU; elsewhere they say why they are skipped."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import numpy as np
import pytest

from derain_engine.base.errors import DerainError, InputError
from derain_engine.device import driver
from derain_engine.device.context import Context
from derain_engine.device.graph import Graph
from derain_engine.device.interop import DeviceArray, view
from derain_engine.device.memory import DeviceBuffer, PinnedBuffer, copy, download, fill, upload
from derain_engine.device.module import Arguments, Module, launch
from derain_engine.device.stream import Event, Stream

from .assemblers import assemblers

#: y[i] += a for i < n, in blocks of 32 threads.
_ADD = """
.version 7.8
.target {target}
.address_size 64
.visible .entry add(.param .u64 y, .param .u32 n, .param .f32 a)
{{
    .reg .pred %p; .reg .b32 %r<5>; .reg .b64 %d<3>; .reg .f32 %f<2>;
    mov.u32 %r0, %ctaid.x; mov.u32 %r1, %tid.x; shl.b32 %r2, %r0, 5; add.u32 %r3, %r2, %r1;
    ld.param.u32 %r4, [n]; setp.ge.u32 %p, %r3, %r4; @%p ret;
    ld.param.u64 %d0, [y]; cvta.to.global.u64 %d0, %d0; mul.wide.u32 %d1, %r3, 4; add.u64 %d2, %d0, %d1;
    ld.param.f32 %f0, [a]; ld.global.f32 %f1, [%d2]; add.f32 %f1, %f1, %f0; st.global.f32 [%d2], %f1;
    ret;
}}
"""


@pytest.fixture
def gpu() -> Iterator[Context]:
    """Open a context on a real GPU and make it current."""
    if (reason := driver.unavailable()) is not None:
        pytest.skip(reason)
    with Context() as opened, opened.current():
        yield opened


@pytest.fixture
def assemble(tmp_path):
    """Make the cubin of the kernel above."""

    def make(target: str) -> bytes:
        if not assemblers():
            pytest.skip("no ptxas is here, neither CUDA's nor Triton's")
        (tmp_path / "add.ptx").write_text(_ADD.format(target=target))
        made = tmp_path / "add.cubin"
        command = [assemblers()[-1], f"-arch={target}", tmp_path / "add.ptx", "-o", made]
        subprocess.run(command, check=True, timeout=60)
        return made.read_bytes()

    return make


def test_the_kernel_assembles_for_every_gpu(assemble):
    assert b"add" in assemble("sm_80") and b"add" in assemble("sm_90")


def test_copies_come_back(gpu):
    stream = Stream(gpu)
    frame = PinnedBuffer(gpu, 33 * 65 * 3).array((33, 65, 3), np.uint8)
    frame[...] = np.random.default_rng(1).integers(0, 256, frame.shape)
    first, second = DeviceBuffer(gpu, frame.nbytes + 5), DeviceBuffer(gpu, frame.nbytes)
    fill(first, 7, stream)
    upload(frame, first.part(5, frame.nbytes), stream)
    copy(first.part(5, frame.nbytes), second, stream)
    back, start = np.zeros_like(frame), np.zeros(5, np.uint8)
    download(second, back, stream)
    download(first.part(0, 5), start, stream)
    stream.synchronise()
    np.testing.assert_array_equal(back, frame)
    assert set(start) == {7}


def test_a_graph_of_kernels_on_two_streams_runs(gpu, assemble):
    stream, side = Stream(gpu), Stream(gpu)
    function = Module(gpu, assemble(gpu.gpu.target), "add.cubin").function("add")
    assert function.parameters in (None, (8, 4, 4))
    buffer, values = DeviceBuffer(gpu, 4 * 1000), np.zeros(1000, np.float32)
    arguments = Arguments(("*fp32", "i32", "fp32"), (buffer, 900, 0.5))

    def work():
        launch(function, (32, 1, 1), 32, arguments, stream)
        side.wait_for(stream)
        launch(function, (32, 1, 1), 32, arguments, side)
        stream.wait_for(side)

    with Graph(stream, work) as graph, Event(gpu, timing=True) as start, Event(gpu, timing=True) as end:
        assert graph.kernels == 2
        fill(buffer, 0, stream)
        start.record(stream)
        for _ in range(3):
            graph.launch(stream)
        end.record(stream)
        download(buffer, values, stream)
        stream.synchronise()
        assert end.elapsed_ms(start) > 0
    assert set(values[:900]) == {3.0} and not values[900:].any()
    with pytest.raises(InputError, match="takes 3 arguments"):
        launch(function, (1, 1, 1), 32, Arguments(("*fp32",), (buffer,)), stream)


def test_errors_of_the_driver_are_told(gpu):
    free, total = gpu.memory()
    assert 0 < free <= total and gpu.gpu in driver.gpus()
    with pytest.raises(DerainError, match="ran out of memory while allocating"):
        DeviceBuffer(gpu, total * 2)
    with pytest.raises(DerainError, match="STREAM_CAPTURE"):
        Graph(Stream(gpu, 0), lambda: None)


def test_tensors_of_pytorch_pass_both_ways(gpu):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch was built without CUDA")
    stream = Stream(gpu)
    for dtype in (torch.uint8, torch.float16, torch.bfloat16, torch.float32):
        tensor = (torch.rand(7, 13, 3, device="cuda") * 255).to(dtype)
        found = view(tensor, stream)
        assert found.pointer == tensor.data_ptr()
        buffer = DeviceBuffer(gpu, found.region.nbytes)
        copy(found.region, buffer, stream)
        result = DeviceArray.over(buffer, found.shape, found.dtype, stream)
        assert torch.equal(torch.from_dlpack(result), tensor)

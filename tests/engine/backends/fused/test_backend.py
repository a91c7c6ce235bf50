"""Whole networks through the GPU's path: loading, memory, streams, graphs and copies run as on a GPU, on the stand-in
driver with kernels that compute what the real ones do."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from derain_engine.base.errors import BundleError, DerainError, InputError
from derain_engine.engine import verify
from derain_engine.engine.backends import graphs
from derain_engine.engine.backends.base import Artefact, CompileOptions, RunOptions
from derain_engine.engine.backends.fused.backend import backend
from derain_engine.engine.backends.fused.emulation import FusedEmulation
from derain_engine.engine.backends.gpu_session import GpuSession
from derain_engine.models.ssid_kd import SSIDKD
from derain_engine.plan import Plan
from derain_engine.plan.arena import arrange
from derain_engine.plan.program import ITEMSIZE, View

from ....device.conftest import StandIn
from ....plan.networks import picture
from ..conftest import SPEC


def pictures(count: int, height: int, width: int, dtype: str = "float32") -> np.ndarray:
    """Waves and grain, each picture brighter than the one before."""
    batch = np.stack([picture(height, width).numpy() * (1 - 0.2 * i) for i in range(count)][::-1])
    return np.round(255 * batch).astype(np.uint8) if dtype == "uint8" else np.ascontiguousarray(batch)


def fp16_of(network: SSIDKD, batch: np.ndarray, clean: np.ndarray, clean_uint8: np.ndarray) -> list[str]:
    """Return what misses the bounds of fp16 against the fp32 module."""
    reference = verify.reference_output(network, batch)
    return verify.Report("fp16", (verify.compare("waves", clean, clean_uint8, reference),)).missed()


@pytest.mark.parametrize("shape", [(2, 32, 32), (1, 64, 96)], ids=str)
def test_it_is_the_plan_to_the_bit_and_the_network_within_fp16(
    fused_session: GpuSession, fused_plan: Plan, fused_network: SSIDKD, shape: tuple[int, int, int]
) -> None:
    emulation = FusedEmulation(fused_plan)
    # Steps of 1/255, so that both kinds of pictures are the same ones.
    levels = pictures(*shape, "uint8")
    batch = levels.astype(np.float32) / 255
    clean, clean_uint8 = fused_session.run(batch), fused_session.run(levels)
    np.testing.assert_array_equal(clean, emulation.run(batch))
    np.testing.assert_array_equal(clean_uint8, emulation.run(levels))
    assert fp16_of(fused_network, batch, clean, clean_uint8) == []
    assert np.abs(clean - batch).std() > 0.05, "a network that does nothing shows nothing"


def test_the_result_lies_where_it_was_asked_for(fused_session: GpuSession) -> None:
    batch = pictures(1, 32, 32, "uint8")
    out = np.empty_like(batch)
    assert fused_session.run(batch, out) is out
    np.testing.assert_array_equal(out, fused_session.run(batch))
    with pytest.raises(InputError, match="share memory"):
        fused_session.run(batch, batch)


def test_every_launch_of_a_frame_is_counted(fused_session: GpuSession, fused_plan: Plan) -> None:
    for batch in (pictures(1, 32, 32), pictures(2, 32, 32, "uint8")):
        fused_session.run(batch)
        assert fused_session.launches == len(fused_plan.steps) + 2


def test_a_size_is_captured_once_and_again_after_the_memory_has_moved(
    cuda: StandIn, fused_session: GpuSession, fused_plan: Plan
) -> None:
    emulation, expected = FusedEmulation(fused_plan), {}

    def run(height: int, width: int) -> int:
        before = cuda.called("cuGraphInstantiate")
        batch = pictures(1, height, width)
        if batch.shape not in expected:
            expected[batch.shape] = emulation.run(batch)
        np.testing.assert_array_equal(fused_session.run(batch), expected[batch.shape])
        return cuda.called("cuGraphInstantiate") - before

    assert [run(32, 32), run(32, 32)] == [1, 0]
    # A larger picture moves the memory that graphs point to.
    assert [run(32, 64), run(32, 32), run(32, 64), run(32, 32)] == [1, 1, 0, 0]
    assert len(cuda.executables) == 2
    # As large: the memory stays.
    assert [run(64, 32), run(32, 64), run(32, 32)] == [1, 0, 0]
    assert len(cuda.executables) == 3


def test_of_many_sizes_those_used_last_are_kept(
    cuda: StandIn, fused_session: GpuSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_SIZES", 2)
    sizes = [(64, 32), (32, 64), (64, 32), (32, 32), (32, 64)]
    made = []
    for size in sizes:
        before = cuda.called("cuGraphInstantiate")
        fused_session.run(pictures(1, *size))
        made.append(cuda.called("cuGraphInstantiate") - before)
        assert len(cuda.executables) <= 2
    assert made == [1, 1, 0, 1, 1]


def test_steps_that_share_memory_are_ordered(
    cuda: StandIn, fused_session: GpuSession, fused_plan: Plan
) -> None:
    """Find no two launches beside each other of which one writes what lies in the other's memory."""
    cuda.calls.clear()
    fused_session.run(pictures(1, 64, 96))
    names = [call[0] for call in cuda.calls]
    captured = cuda.calls[names.index("cuStreamBeginCapture") : names.index("cuStreamEndCapture")]
    done: dict[int, int] = {}
    marks: dict[int, int] = {}
    before: list[int] = []
    for name, *arguments in captured:
        if name == "cuLaunchKernel":
            stream = int(arguments[-3])
            before.append(done.get(stream, 0))
            done[stream] = before[-1] | 1 << (len(before) - 1)
        elif name == "cuEventRecord":
            marks[int(arguments[0])] = done.get(int(arguments[1]), 0)
        elif name == "cuStreamWaitEvent":
            stream = int(arguments[0])
            done[stream] = done.get(stream, 0) | marks[int(arguments[1])]
    assert len(before) == len(fused_plan.steps) and len(done) == 2
    arena, item = arrange(fused_plan, 64, 96), ITEMSIZE[fused_plan.dtype]

    def places(step: int, only: set[int]) -> list[tuple[int, int]]:
        pointers = fused_plan.steps[step].pointers
        found = {p.buffer for i, p in enumerate(pointers) if isinstance(p, View) and i in only}
        sizes = {b: fused_plan.buffers[b].elements(64, 96) * item for b in found}
        return [(arena.offsets[b], arena.offsets[b] + size) for b, size in sizes.items()]

    def meet(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> bool:
        return any(start < end_b and start_b < end for start, end in a for start_b, end_b in b)

    beside = 0
    for later in range(len(before)):
        for earlier in range(later):
            if before[later] >> earlier & 1:
                continue
            beside += 1
            for writer, other in ((later, earlier), (earlier, later)):
                written = places(writer, set(fused_plan.steps[writer].writes))
                everything = places(other, set(range(len(fused_plan.steps[other].pointers))))
                assert not meet(written, everything), (fused_plan.steps[writer], fused_plan.steps[other])
    assert beside > 20, "nothing runs beside anything"


def test_threads_keep_their_frames_apart(fused_artefact: Artefact, fused_plan: Plan) -> None:
    session = backend.open(fused_artefact, RunOptions(mode="throughput"))
    assert session.parallelism == 3
    batches = [pictures(1 + i // 2, 32, 32, "uint8") + np.uint8(i) for i in range(3)]
    batches += batches
    together = threading.Barrier(3)

    def clean(batch: np.ndarray) -> np.ndarray:
        together.wait(20)
        return session.run(batch)

    with ThreadPoolExecutor(3) as pool:
        cleaned = list(pool.map(clean, batches))
    session.close()
    emulation = FusedEmulation(fused_plan)
    for i in range(3):
        expected = emulation.run(batches[i])
        np.testing.assert_array_equal(cleaned[i], expected)
        np.testing.assert_array_equal(cleaned[i + 3], expected)


def test_closing_frees_everything_and_twice_is_harmless(cuda: StandIn, fused_artefact: Artefact) -> None:
    session = backend.open(fused_artefact, RunOptions(mode="throughput"))
    assert session.available_memory == cuda.cuMemGetInfo.__wrapped__(cuda)[0] > 0
    session.run(pictures(1, 32, 32))
    session.close()
    session.close()
    assert set(cuda.left()) <= {"contexts"}, "the context goes with the last thing that lies in it"
    with pytest.raises(InputError, match="closed"):
        session.run(pictures(1, 32, 32))
    with pytest.raises(InputError, match="closed"):
        session.run_on_gpu(pictures(1, 32, 32), lambda *sides: sides)
    del session
    gc.collect()
    assert cuda.left() == {}


@pytest.mark.parametrize(
    ("call", "after"),
    [
        ("cuModuleLoadData", 5),
        ("cuModuleGetFunction", 0),
        ("cuMemAlloc", 0),
        ("cuMemcpyHtoDAsync", 0),
        ("cuStreamCreate", 0),
        ("cuStreamCreate", 1),
        ("cuStreamCreate", 2),
    ],
)
def test_what_fails_while_opening_leaves_nothing(
    cuda: StandIn, fused_artefact: Artefact, call: str, after: int
) -> None:
    cuda.fail(call, "OUT_OF_MEMORY", after)
    with pytest.raises(DerainError, match="ran out of memory"):
        backend.open(fused_artefact, RunOptions())
    gc.collect()
    assert cuda.left() == {}


@pytest.mark.parametrize(
    ("call", "after"), [("cuMemHostAlloc", 0), ("cuMemAlloc", 0), ("cuMemAlloc", 1), ("cuMemAlloc", 2)]
)
def test_a_picture_that_is_too_large_leaves_the_session_usable(
    cuda: StandIn, fused_session: GpuSession, fused_plan: Plan, call: str, after: int
) -> None:
    """Allocate the three buffers of the lane, then the arena."""
    small = pictures(1, 32, 32)
    expected = fused_session.run(small)
    cuda.fail(call, "OUT_OF_MEMORY", after)
    with pytest.raises(DerainError, match="memory"):
        fused_session.run(pictures(1, 32, 64))
    np.testing.assert_array_equal(fused_session.run(small), expected)
    large = pictures(1, 32, 64)
    np.testing.assert_array_equal(fused_session.run(large), FusedEmulation(fused_plan).run(large))


def test_a_capture_that_fails_leaves_the_session_usable(cuda: StandIn, fused_session: GpuSession) -> None:
    cuda.fail("cuLaunchKernel", "INVALID_VALUE", 10)
    with pytest.raises(DerainError, match="launching the kernel"):
        fused_session.run(pictures(1, 32, 32))
    fused_session.run(pictures(1, 32, 32))
    assert len(cuda.executables) == 1 and not cuda.captures


@pytest.mark.parametrize("name", ["chain.chain", "pixels.frame_in", "pixels.frame_out"])
def test_an_engine_that_lacks_a_kernel_says_which(fused_artefact: Artefact, name: str) -> None:
    from derain_engine.engine.backends.fused import payload

    kernels = payload.read_kernels(fused_artefact.payloads, "sm_90")
    fewer = payload.pack_kernels("sm_90", [each for each in kernels if each.call.kernel != name])
    session = None
    with pytest.raises(BundleError, match=f"no code for its kernel {name}"):
        session = backend.open(
            replace(fused_artefact, payloads={**fused_artefact.payloads, **fewer}), RunOptions()
        )
        session.run(pictures(1, 32, 32))
    if session is not None:
        session.close()


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_emulation_keeps_the_bounds_of_other_precisions(fused_network: SSIDKD, precision: str) -> None:
    artefact = backend.compile(fused_network, SPEC, CompileOptions(precision))
    session = backend.emulate(artefact)
    assert artefact.precision == precision and artefact.gpus == () and session is not None
    levels = pictures(1, 64, 64, "uint8")
    batch = levels.astype(np.float32) / 255
    clean = verify.compare(
        "waves", session.run(batch), session.run(levels), verify.reference_output(fused_network, batch)
    )
    assert verify.Report(precision, (clean,)).missed() == []
    assert session.precision == precision
    session.close()
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.run(batch)

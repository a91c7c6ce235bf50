"""The TensorRT backends on the stand-ins for the library and the driver: built, opened, run, refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto
from torch import nn

from derain_engine.base import files
from derain_engine.base.errors import BackendUnavailable, BuildError, BundleError, DerainError, InputError
from derain_engine.base.sizes import FrameSizes
from derain_engine.device import driver
from derain_engine.engine import backends
from derain_engine.engine.backends.base import Artefact, CompileOptions, RepairGoal, RunOptions
from derain_engine.engine.backends.gpu_session import GpuSession
from derain_engine.engine.backends.tensorrt.backend import TensorRTBackend
from derain_engine.export import nvinfer, onnx
from derain_engine.export.nvinfer import FLAVOURS
from derain_engine.models.spec import ModelSpec

from ....device.conftest import StandIn
from ..tensorrt_stand_in import SCRATCH, VERSION, StandInTensorRT, install

SPEC = ModelSpec("tiny", {}, 8, 8, None, 8, 100)
RANGE = FrameSizes((8, 8), ((16, 16), (48, 64)), (48, 72))
ONLY = FrameSizes.only((16, 24))


class Tiny(nn.Module):
    """A network of three convolutions; gain: by how much the maps are larger between them."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        torch.manual_seed(3)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 3, 3, padding=1)
        with torch.no_grad():
            self.first.weight.mul_(gain)
            self.first.bias.mul_(gain)  # type: ignore[union-attr]
            self.second.weight.div_(gain)
        self.eval().requires_grad_(False)

    def forward(self, rainy: torch.Tensor) -> torch.Tensor:
        return rainy - self.third(torch.relu(self.second(torch.relu(self.first(rainy)))))


@pytest.fixture(scope="module", autouse=True)
def exported_once() -> Iterator[None]:
    """Build from one graph for every gain in all tests."""
    export, known = onnx.export_onnx, dict[float, ModelProto]()

    def export_once(network: Tiny, spec: ModelSpec, progress: object) -> ModelProto:
        if network.gain not in known:
            known[network.gain] = export(network, spec)
        return known[network.gain]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "export_onnx", export_once)
        yield


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def trt(
    request: pytest.FixtureRequest, cuda: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[StandInTensorRT]:
    """Put a stand-in into the place of the library of one of the flavours, on a GPU that both can build for."""
    cuda.capability = (8, 9)
    monkeypatch.setattr(files, "cache_dir", lambda *parts: _folder(tmp_path.joinpath("cache", *parts)))
    trt = install(monkeypatch, cuda, FLAVOURS[request.param])
    trt.capability = "sm_89"
    yield trt
    nvinfer.logger.cache_clear()


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def backend(trt: StandInTensorRT) -> TensorRTBackend:
    found = backends.get("tensorrt-rtx" if trt.rtx else "tensorrt")
    assert isinstance(found, TensorRTBackend)
    return found


Compile = Callable[..., Artefact]


@pytest.fixture
def compile_(backend: TensorRTBackend) -> Compile:
    def compile_(sizes: FrameSizes = RANGE, gain: float = 1.0, **options: object) -> Artefact:
        return backend.compile(Tiny(gain), SPEC, CompileOptions(sizes=sizes, **options))  # type: ignore[arg-type]

    return compile_


@pytest.fixture
def open_(backend: TensorRTBackend) -> Iterator[Callable[..., GpuSession]]:
    opened: list[GpuSession] = []

    def open_(artefact: Artefact, options: RunOptions | None = None) -> GpuSession:
        opened.append(backend.open(artefact, options or RunOptions()))
        return opened[-1]

    yield open_
    for session in opened:
        session.close()
        # pytest keeps the session; its context goes when nothing refers to it.
        vars(session).clear()


def frames(height: int, width: int, dtype: str = "uint8", count: int = 1) -> np.ndarray:
    values = np.random.default_rng((height, width)).random((count, height, width, 3))
    return np.round(255 * values).astype(np.uint8) if dtype == "uint8" else values.astype(np.float32)


def head(artefact: Artefact) -> dict:
    """Return what the stand-in's builder was told."""
    plan = bytes(artefact.payloads["tensorrt/plan.engine"])
    return json.loads(plan[4 : 4 + int.from_bytes(plan[:4], "little")])


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_an_engine_computes_what_its_emulation_does(
    trt: StandInTensorRT,
    backend: TensorRTBackend,
    compile_: Compile,
    open_: Callable,
    precision: str,
    dtype: str,
) -> None:
    artefact = compile_(precision=precision)
    assert (artefact.backend, artefact.backend_version) == (backend.name, VERSION)
    session, emulation = open_(artefact), backend.emulate(artefact)
    assert emulation is not None and session.precision == emulation.precision == precision
    for height, width in ((8, 8), (48, 64), (16, 24), (8, 8)):
        batch = frames(height, width, dtype, 2)
        clean = session.run(batch)
        np.testing.assert_array_equal(clean, emulation.run(batch))
        assert session.launches == 3
        with torch.inference_mode():
            image = torch.tensor(batch / 255 if dtype == "uint8" else batch, dtype=torch.float32)
            expected = Tiny()(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
        if dtype == "float32":
            error = np.abs(clean - expected).max()
            assert error < 1e-6 if precision == "fp32" else 1e-6 < error < 2e-3
    emulation.close()
    with pytest.raises(InputError, match="closed"):
        emulation.run(batch)


def test_sizes_share_memory_and_have_a_graph_each(
    trt: StandInTensorRT, cuda: StandIn, compile_: Compile, open_: Callable
) -> None:
    session = open_(compile_())
    small, large = frames(16, 16), frames(48, 72)
    first = session.run(small)
    session.run(large)
    assert len(cuda.executables) == 1  # what was captured before lay in memory that grew since
    np.testing.assert_array_equal(session.run(small), first)
    captures = cuda.called("cuStreamBeginCapture")
    sizes = [len(memory) for memory in cuda.allocations.values()]
    planes = 4 * 3 * 48 * 72
    assert max(sizes) == 2 * planes + SCRATCH * 48 * 72 and sorted(sizes)[-2] < planes
    for batch in (small, large, small):
        session.run(batch)
    assert cuda.called("cuStreamBeginCapture") == captures and len(cuda.executables) == 2
    for width in range(8, 73, 8):
        session.run(frames(24, width))
    assert len(cuda.executables) == 8
    np.testing.assert_array_equal(session.run(small), first)
    # The nearest of the two usual sizes.
    assert "profile 1" in trt.log and trt.log.count("profile 1") < 12


def test_frames_beyond_the_engines_are_refused(compile_: Compile, open_: Callable) -> None:
    session = open_(compile_())
    with pytest.raises(InputError, match=r"not built for frames of 56x64 .* --min, --opt and --max"):
        session.run(frames(56, 64))
    session.run(frames(48, 64))
    only = open_(compile_(ONLY))
    only.run(frames(16, 24))
    with pytest.raises(InputError, match="not built for frames of 24x16"):
        only.run(frames(24, 16))


def test_throughput_overlaps_frames(cuda: StandIn, compile_: Compile, open_: Callable) -> None:
    session = open_(compile_(), RunOptions(mode="throughput"))
    assert session.parallelism == 3
    np.testing.assert_array_equal(session.run(frames(16, 16)), open_(compile_()).run(frames(16, 16)))


def test_what_was_compiled_for_a_size_is_kept(
    trt: StandInTensorRT, compile_: Compile, open_: Callable, tmp_path: Path
) -> None:
    options = RunOptions(cache_dir=tmp_path)
    session = open_(compile_(), options)
    session.run(frames(16, 16))
    kept = list(tmp_path.glob("*.cache"))
    if not trt.rtx:
        assert not kept
        return
    assert [path.read_bytes() for path in kept] == [b"kernels:16x16"]
    session.run(frames(24, 24))
    assert kept[0].read_bytes() == b"kernels:16x16,24x24"
    open_(compile_(), options).run(frames(8, 8))
    assert kept[0].read_bytes() == b"kernels:16x16,24x24,8x8"
    # One that is damaged, or of another version, is made anew.
    kept[0].write_bytes(b"?")
    open_(compile_(), options).run(frames(8, 8))
    assert kept[0].read_bytes() == b"kernels:8x8"
    # On another GPU there is another one.
    trt.cuda.names[0] = "Stand-in 9001"
    open_(compile_(), options).run(frames(8, 8))
    assert len(list(tmp_path.glob("*.cache"))) == 2


def test_what_tensorrt_timed_is_kept(trt: StandInTensorRT, compile_: Compile, tmp_path: Path) -> None:
    compile_()
    compile_()
    kept = list(tmp_path.joinpath("cache").rglob("*.cache"))
    if trt.rtx:
        assert not kept and not trt.log
        return
    assert trt.log == ["no timing cache", "timing cache"] and kept[0].read_bytes() == b"timed"
    kept[0].write_bytes(b"of another version")
    compile_()
    assert trt.log[-1] == "no timing cache" and kept[0].read_bytes() == b"timed"


def test_the_builder_is_told_what_was_asked(trt: StandInTensorRT, compile_: Compile) -> None:
    plain = head(compile_())
    facts = {"TF32": False, "profiling_verbosity": "DETAILED"}
    assert plain["facts"] == facts
    least, most = [1, 3, 8, 8], [1, 3, 48, 72]
    assert plain["profiles"] == [[least, [1, 3, 16, 16], most], [least, [1, 3, 48, 64], most]]
    assert head(compile_(ONLY))["profiles"] == []
    assert head(compile_(workspace=5 << 20))["facts"] == {**facts, "WORKSPACE": 5 << 20}
    if not trt.rtx:
        asked = head(compile_(hardware_compatibility="ampere_plus", version_compatible=True))["facts"]
        assert asked == {**facts, "hardware_compatibility_level": "AMPERE_PLUS", "VERSION_COMPATIBLE": True}


def test_gpus_to_build_for(trt: StandInTensorRT, compile_: Compile, open_: Callable) -> None:
    if not trt.rtx:
        assert compile_().gpus == compile_(gpu="current").gpus == ("sm_89",)
        for gpu in ("all", "sm_89"):
            with pytest.raises(InputError, match="builds for this machine's GPU alone; leave --gpu out"):
                compile_(gpu=gpu)
        return
    everything = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120")
    assert compile_().gpus == compile_(gpu="all").gpus == everything == tuple(head(compile_())["gpus"])
    assert compile_(gpu="sm_120, sm_75").gpus == ("sm_120", "sm_75")
    assert compile_(gpu="current").gpus == ("sm_89",) == tuple(head(compile_(gpu="current"))["gpus"])
    for gpu in ("sm_90", "", "sm_89,sm_12"):
        with pytest.raises(
            InputError, match="is not a GPU that can be built for; give all, or some of sm_75"
        ):
            compile_(gpu=gpu)
    with pytest.raises(BackendUnavailable, match=r"does not open the engine.*sm_89\): .*not built for sm_89"):
        open_(compile_(gpu="sm_120"))


def test_notes_tell_how_the_graph_was_typed(compile_: Compile) -> None:
    notes = compile_().notes
    assert notes["multiplying_layers"] == {"fp16": 1}  # of the stand-in's inspector
    assert notes["nodes"] == 6 and len(notes["kept_in_fp32"]) == 1 and notes["saturated_weights"] == {}
    assert "repair" not in notes
    json.dumps(notes, allow_nan=False)
    assert compile_(precision="fp32").notes["multiplying_layers"] == {"fp32": 1}


def test_overflow_is_repaired_where_that_is_asked(backend: TensorRTBackend, compile_: Compile) -> None:
    judged = RepairGoal(frames(16, 16, "float32", 2).transpose(0, 3, 1, 2).copy(), 50.0, 2e-2)
    batch = frames(16, 16, "float32")
    broken = backend.emulate(compile_(gain=1e6))
    assert broken is not None and not np.isfinite(broken.run(batch)).all()
    artefact = compile_(gain=1e6, repair=judged)
    mended = backend.emulate(artefact)
    assert mended is not None and np.isfinite(mended.run(batch)).all()
    repair = artefact.notes["repair"]
    assert (
        repair["psnr_db_before"] is None
        and (repair["psnr_db_after"] or 999) > 50
        and len(repair["nodes"]) == 3
    )
    json.dumps(artefact.notes, allow_nan=False)
    assert "repair" not in compile_(repair=judged).notes
    assert "repair" not in compile_(repair=judged, precision="fp32", gain=1e6).notes


@pytest.mark.parametrize("what", ["context", "shape", "execute", "switch"])
def test_failures_of_the_library_carry_its_reason(
    trt: StandInTensorRT, compile_: Compile, open_: Callable, what: str
) -> None:
    session = open_(compile_())
    trt.broken = {what}
    with pytest.raises(DerainError, match=r"as the test wants it\.?\)?"):
        session.run(frames(48, 64))
    trt.broken = set()
    session.run(frames(48, 64))


def test_plans_that_the_library_refuses(trt: StandInTensorRT, compile_: Compile, open_: Callable) -> None:
    artefact = compile_()
    trt.broken = {"deserialize"}
    with pytest.raises(
        BackendUnavailable, match=r"does not open the engine.*as the test wants it.*Build it again"
    ):
        open_(artefact)
    trt.broken = {"build"}
    with pytest.raises(BuildError, match=r"could not build the engine: .*as the test wants it"):
        compile_()
    trt.broken, trt.said = {"build"}, "Out of memory"
    with pytest.raises(BuildError, match=r"Out of memory\. Lower the largest frames"):
        compile_()
    trt.broken = {"profile"}
    with pytest.raises(BuildError, match="Frames from 8x8 to 48x72 are not possible"):
        compile_()


def test_other_versions_are_refused_before_anything_is_opened(
    trt: StandInTensorRT, backend: TensorRTBackend, compile_: Compile, open_: Callable
) -> None:
    artefact = compile_()
    older = Artefact(backend.name, "1.0", "fp16", artefact.payloads)
    assert backend.unavailable() is None and backend.unavailable(artefact) is None
    if not trt.rtx:
        # Whether it runs is in the plan.
        assert backend.unavailable(older) is None
        return
    with pytest.raises(BackendUnavailable, match=rf"built by TensorRT-RTX 1\.0, and {VERSION} is here"):
        open_(older)


def test_engines_that_are_not_whole(backend: TensorRTBackend, compile_: Compile, open_: Callable) -> None:
    artefact = compile_()
    for missing in artefact.payloads:
        rest = {name: data for name, data in artefact.payloads.items() if name != missing}
        broken = Artefact(backend.name, VERSION, "fp16", rest)
        with pytest.raises(BundleError, match=f"has no {missing}"):
            open_(broken) if "plan" in missing else backend.emulate(broken)
    junk = Artefact(backend.name, VERSION, "fp16", {**artefact.payloads, "tensorrt/model.onnx": b"\x01junk"})
    with pytest.raises(BundleError, match="graph cannot be read"):
        backend.emulate(junk)


def test_options_that_cannot_be(backend: TensorRTBackend, compile_: Compile) -> None:
    with pytest.raises(InputError, match="has no precision 'bf16'; it has fp16, fp32"):
        compile_(precision="bf16")
    with pytest.raises(InputError, match="needs to know the sizes of frames"):
        backend.compile(Tiny(), SPEC, CompileOptions())


def test_without_a_gpu_tensorrt_neither_builds_nor_runs(
    trt: StandInTensorRT, backend: TensorRTBackend, compile_: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = compile_()

    def initialise() -> None:
        raise BackendUnavailable("No GPU is at hand.")

    monkeypatch.setattr(driver, "initialise", initialise)
    with pytest.raises(BackendUnavailable, match="No GPU is at hand"):
        backend.open(artefact, RunOptions())
    if trt.rtx:
        with pytest.raises(
            InputError, match="no GPU that could be meant by current; give all, or some of sm_75"
        ):
            compile_(gpu="current")
        assert compile_().gpus == artefact.gpus
        return
    for gpu in (None, "current"):
        with pytest.raises(
            BackendUnavailable, match=r"builds on the GPU that it builds for.*tensorrt-rtx builds"
        ):
            compile_(gpu=gpu)

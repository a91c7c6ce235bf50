"""Plans of TensorRT-RTX, built here for named GPUs, and what is refused on the way."""

from __future__ import annotations

import re
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from derain_engine.base.errors import BuildError, InputError
from derain_engine.base.sizes import FrameSizes
from derain_engine.export.half import to_half
from derain_engine.export.nvinfer import FLAVOURS, logger
from derain_engine.export.tensorrt import build as tensorrt
from derain_engine.export.tensorrt.build import BuiltPlan, PlanOptions, build_plan, require_images

from ..graphs import convolution, graph, residual

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

RTX = FLAVOURS["tensorrt-rtx"]
STATIC = FrameSizes.only((64, 96))
RANGE = FrameSizes((32, 32), ((64, 64), (96, 128)), (128, 160))


def build(model: onnx.ModelProto, sizes: FrameSizes = STATIC, **options: object) -> BuiltPlan:
    return build_plan(model, RTX, sizes, PlanOptions(**{"gpus": RTX.gpus, **options}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def half() -> onnx.ModelProto:
    return to_half(residual()).model


@pytest.mark.parametrize("sizes", [STATIC, RANGE], ids=["static", "dynamic"])
def test_a_plan_is_what_the_graph_says_for_every_gpu(half: onnx.ModelProto, sizes: FrameSizes) -> None:
    plan = build(half, sizes)
    # A cast at either edge, the subtraction between pictures; the rest is fp16.
    assert plan.products == {"fp16": 2} and plan.layers["fp32"] == 2 and plan.layers["fp16"] >= 3
    # The library's mark, and one bit for each GPU (as found in its plans).
    assert plan.data[:4] == b"vtrt" and int.from_bytes(plan.data[32:36], "little") == 0b11111
    assert build(half, sizes).data == plan.data


@pytest.mark.parametrize(("gpu", "bit"), list(zip(RTX.gpus, (1, 2, 4, 8, 16), strict=True)))
def test_a_plan_for_one_gpu(half: onnx.ModelProto, gpu: str, bit: int) -> None:
    assert int.from_bytes(build(half, gpus=(gpu,)).data[32:36], "little") == bit


def test_fp32_and_mixed_graphs(half: onnx.ModelProto) -> None:
    assert build(residual(), precision="fp32").products == {"fp32": 2}
    assert build(to_half(residual(), {"Conv_0"}).model).products == {"fp32": 1, "fp16": 1}
    with pytest.raises(
        BuildError, match="another precision than fp16: of the layers that multiply there are 2 in fp32"
    ):
        build(residual())
    with pytest.raises(BuildError, match=r"another precision than fp32: .* 2 in fp16"):
        build(half, precision="fp32")


def test_gpus_that_it_cannot_build_for(half: onnx.ModelProto) -> None:
    for gpus, named in ((("sm_90",), "sm_90"), (("sm_80", "sm_12"), "sm_12"), ((), "no GPU")):
        with pytest.raises(InputError, match=f"cannot build for {named}; it knows sm_75, sm_80"):
            build(half, gpus=gpus)


def test_progress_goes_from_nothing_to_everything_and_can_stop_the_build(half: onnx.ModelProto) -> None:
    told: list[float] = []
    build_plan(half, RTX, STATIC, PlanOptions(RTX.gpus), lambda stage, done: told.append(done))
    assert len(set(told)) > 10 and told == sorted(told) and 0 <= told[0] < 0.2 and told[-1] == 1

    def interrupt(stage: str, done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(half, RTX, STATIC, PlanOptions(RTX.gpus), interrupt)


def test_ctrl_c_ends_the_build(half: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """It arrives in the main thread, which waits, while the library works in another one."""
    import signal
    import threading

    main = threading.main_thread().ident
    assert main is not None
    calls: list[float] = []

    def progress(stage: str, done: float) -> None:
        calls.append(time.monotonic())
        if len(calls) == 3:
            signal.pthread_kill(main, signal.SIGINT)
        time.sleep(0.02)

    many = "\n".join(f"c{i + 1} = Conv <pads = [1, 1, 1, 1]> (c{i}, w)" for i in range(40))
    model = to_half(graph(f"c0 = Relu (rainy)\n{many}\nclean = Relu (c40)", w=convolution(3, 3))).model
    with pytest.raises(KeyboardInterrupt):
        build_plan(model, RTX, STATIC, PlanOptions(RTX.gpus), progress)
    # It was told to stop at the next step.
    assert len(calls) < 10


def test_too_little_memory_says_what_to_lower() -> None:
    wide = graph(
        """
        a = Conv <pads = [1, 1, 1, 1]> (rainy, w1)
        b = Conv <pads = [1, 1, 1, 1]> (a, w2)
        clean = Conv <pads = [1, 1, 1, 1]> (b, w3)
        """,
        w1=convolution(64, 3),
        w2=convolution(64, 64),
        w3=convolution(3, 64),
    )
    with pytest.raises(BuildError, match=r"within workspace limit.* Raise --workspace, or lower the largest"):
        build(to_half(wide).model, FrameSizes.only((1088, 1920)), workspace=1 << 10)


@pytest.mark.parametrize(
    ("told", "advice"),
    [
        ("Out of memory", r"Out of memory\. Lower the largest frames \(--max, --shape\) or --workspace"),
        ("cudaMalloc failed to allocate", "or free memory of the GPU"),
        ("It broke", r"It broke\.$"),
    ],
)
def test_advice_after_a_failed_build(told: str, advice: str) -> None:
    assert re.search(advice, tensorrt._advice(told))


def test_operators_that_the_library_does_not_know_are_named() -> None:
    odd = residual()
    odd.graph.node[1].name, odd.graph.node[1].op_type = "the_odd_one", "Fancy"
    with pytest.raises(BuildError, match=r"does not take the graph: Fancy \(the_odd_one\)"):
        build(odd, precision="fp32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.input.append(g.input[0]), r"has 2 inputs \(rainy, rainy\)"),
        (lambda g: g.input.pop(), r"has 0 inputs \(none\)"),
        (lambda g: g.output.append(g.output[0]), r"has 2 outputs"),
        (
            lambda g: g.input[0].type.tensor_type.ClearField("shape"),
            "rank of the graph's input rainy is not fixed",
        ),
        (lambda g: g.output[0].type.tensor_type.shape.dim.pop(), "output clean is batch x 3 x height float"),
        (
            lambda g: g.input[0].CopyFrom(
                helper.make_tensor_value_info("rainy", TensorProto.UINT8, [1, 3, 4, 4])
            ),
            "input rainy is 1 x 3 x 4 x 4 uint8",
        ),
        (
            lambda g: g.input[0].CopyFrom(
                helper.make_tensor_value_info("rainy", TensorProto.FLOAT, [1, 4, 4, 4])
            ),
            "input rainy is 1 x 4 x 4 x 4 float",
        ),
        (
            lambda g: g.input[0].CopyFrom(
                helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])
            ),
            "leads from x to clean; it must lead from rainy to clean",
        ),
    ],
)
def test_graphs_that_are_not_from_images_to_images(change: object, message: str) -> None:
    model = residual()
    change(model.graph)  # type: ignore[operator]
    with pytest.raises(BuildError, match=message):
        require_images(model)
    with pytest.raises(BuildError, match=message):
        build(model)


def test_weights_of_the_graph_are_no_inputs() -> None:
    model = residual()
    model.graph.input.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, [8, 3, 3, 3]))
    require_images(model)


def test_what_the_library_logs_is_heard_once_and_by_who_listens() -> None:
    from derain_engine.export.nvinfer import errors, reason

    trt = RTX.bindings()
    log = logger(RTX)
    with errors(RTX) as outer:
        with errors(RTX) as inner:
            log.log(
                trt.ILogger.ERROR,
                "IRuntime::x: Error Code 3: API Usage Error (it is wrong. In load at /src/a.cpp:3 (why))",
            )
            log.log(trt.ILogger.WARNING, "nothing to mention")
        log.log(trt.ILogger.INTERNAL_ERROR, "\nworse")
    log.log(trt.ILogger.ERROR, "too late")
    assert len(inner) == 1 and len(outer) == 2
    assert reason(inner) == "API Usage Error (it is wrong. (why))"
    assert reason(outer[1:]) == "worse" and reason([]) == reason(["\n"]) == "it gave no reason"


def test_a_plan_is_not_opened_without_a_gpu(half: onnx.ModelProto) -> None:
    """Take the reason from the library's log, where the library itself gives None."""
    from derain_engine.device import driver
    from derain_engine.export.nvinfer import diagnosis, errors

    if driver.unavailable() is None:
        pytest.skip("this machine has a GPU")
    plan = build(half).data
    trt = RTX.bindings()
    with errors(RTX) as heard:
        runtime = trt.Runtime(logger(RTX))
        assert runtime.deserialize_cuda_engine(plan) is None
    assert "CUDA driver version is insufficient" in diagnosis(RTX, runtime, plan, heard)
    assert "/_src" not in diagnosis(RTX, runtime, plan, heard)
    junk = np.random.default_rng(0).bytes(4096)
    with errors(RTX) as heard:
        assert runtime.deserialize_cuda_engine(junk) is None
    assert diagnosis(RTX, runtime, junk, heard) == "it is damaged"

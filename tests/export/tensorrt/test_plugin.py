"""Our kernels as TensorRT's plugins: the graph, the kernels' code, and what TensorRT is told (a stand-in for it)."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from derain_engine.base.errors import BackendUnavailable, BuildError
from derain_engine.export.half import to_half
from derain_engine.export.tensorrt import blocks
from derain_engine.export.tensorrt.blocks import with_plugins
from derain_engine.export.tensorrt.plugin import (
    NAMESPACE,
    Plugin,
    make_plugin,
    register,
    with_parameters,
)
from derain_engine.kernels import mffb
from derain_engine.kernels.aot import Compiled, distinct
from derain_engine.kernels.aot.pool import compile_calls
from derain_engine.kernels.launch import Call
from derain_engine.kernels.plain import run_plain
from derain_engine.kernels.record import heuristic

from ...device.assemblers import assemblers
from ..graphs import convolution, graph, pictures

TARGET = "sm_90"


def weights(outputs: int, inputs: int, size: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed).standard_normal((outputs, inputs, size, size))
    return (1.4 * random / size / np.sqrt(inputs)).astype(np.float32)


def network(
    activation: str = "LeakyRelu <alpha = 0.2>", channels: int = 16, shared: bool = True
) -> ModelProto:
    """Make two MFFBs of one set of weights, or of two, between convolutions."""
    c, text, values = channels, ["x0 = Conv <pads = [1, 1, 1, 1]> (rainy, first)"], {}
    for i in (1, 2):
        w = 1 if shared else i
        x = f"x{i - 1}"
        for stage, source, width in ((1, x, c), (2, f"m{i}", 2 * c)):
            for size in (3, 5):
                name, pad = f"c{size}_{stage}_{w}", f"<pads = {[size // 2] * 4}>"
                text.append(f"a{i}{stage}{size} = Conv {pad} ({source}, {name}, {name}_b)")
                text.append(f"b{i}{stage}{size} = {activation} (a{i}{stage}{size})")
                values[name] = weights(width, width, size, 10 * stage + size + 100 * w)
                values[f"{name}_b"] = weights(width, 1, 1, size + w)[:, 0, 0, 0] / 4
            text.append(f"{'mn'[stage - 1]}{i} = Concat <axis = 1> (b{i}{stage}3, b{i}{stage}5)")
        values[f"last_{w}"] = weights(c, 4 * c, 1, 7 + w)
        values[f"last_{w}_b"] = weights(c, 1, 1, w)[:, 0, 0, 0] / 4
        text.append(f"y{i} = Conv (n{i}, last_{w}, last_{w}_b)")
        text.append(f"x{i} = Add ({f'y{i}, {x}' if i == 1 else f'{x}, y{i}'})")
    text += ["rain = Conv <pads = [1, 1, 1, 1]> (x2, end)", "clean = Sub (rainy, rain)"]
    return graph("\n".join(text), first=convolution(c, 3), end=convolution(3, c), **values)


def run(model: ModelProto, image: np.ndarray, plugins: tuple[Plugin, ...] = ()) -> np.ndarray:
    """Run a model by ONNX's reference, plugins by the PyTorch executor's launches: with flat memory and sizes, as a
    GPU's."""

    def operator(plugin: Plugin) -> type[OpRun]:
        def compute(self: OpRun, *inputs: np.ndarray) -> tuple[np.ndarray]:
            _, height, width, _ = inputs[0].shape
            out = np.full((1, height, width, plugin.channels), np.nan, inputs[0].dtype)
            flat = [torch.from_numpy(np.array(each)).flatten() for each in inputs]
            # Matrices as they were packed: rows of k.
            flat = [t.view(each.shape) if each.ndim == 2 else t for t, each in zip(flat, inputs, strict=True)]
            run_plain(plugin.call, [*flat, torch.from_numpy(out).view(-1)], [height, width])
            return (out,)

        return type(plugin.name, (OpRun,), {"op_domain": NAMESPACE, "_run": compute})

    evaluator = ReferenceEvaluator(model, new_ops=[operator(plugin) for plugin in plugins])
    (clean,) = evaluator.run(None, {"rainy": image})
    return np.asarray(clean)


def compile_nothing(calls: Iterable[Call], dtype: str, targets: Sequence[str], **_: Any) -> list[Compiled]:
    """Stand in for ``compile_calls``, with kernels that have parameters and no more."""

    def made(call: Call, target: str) -> Compiled:
        symbol, pointers = f"{call.kernel[5:]}_kernel", 5 if call.kernel == "mffb.stage1" else 8
        kinds = [".u64"] * pointers + [".u32"] * 2 + [".u64"] * 2
        parameters = ",\n".join(f".param {kind} {symbol}_param_{i}" for i, kind in enumerate(kinds))
        ptx = f".visible .entry {symbol}(\n{parameters}\n)\n{{ ret; }}\n"
        warps = call.config.warps
        return Compiled(call, dtype, target, b"", symbol, (), warps, 1024, 1, 0, {}, "stand-in", ptx)

    return [made(call, target) for target in targets for call in distinct(calls)]


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "compile_calls", compile_nothing)
        yield


@pytest.fixture(scope="module")
def changed() -> tuple[ModelProto, tuple[Plugin, ...]]:
    return with_plugins(to_half(network()).model, TARGET)


@pytest.mark.parametrize("size", [(1, 1), (7, 13)])
def test_a_graph_with_plugins_computes_what_it_did(
    changed: tuple[ModelProto, tuple[Plugin, ...]], size: tuple[int, int]
) -> None:
    image = pictures(1, *size)
    full, half = network(), to_half(network()).model
    reference, plain, ours = run(full, image), run(half, image), run(*_with(changed, image))
    bound = 2 * np.abs(plain - reference).max() + 1e-5 * np.abs(reference).max()
    assert np.abs(ours - reference).max() <= bound
    assert np.abs(reference - image).max() > 20 * bound


def _with(
    changed: tuple[ModelProto, tuple[Plugin, ...]], image: np.ndarray
) -> tuple[ModelProto, np.ndarray, Any]:
    return changed[0], image, changed[1]


def test_blocks_become_two_nodes_and_share_what_they_shared(
    changed: tuple[ModelProto, tuple[Plugin, ...]],
) -> None:
    model, plugins = changed
    assert [plugin.call.kernel for plugin in plugins] == ["mffb.stage1", "mffb.stage2"]
    ours = [node for node in model.graph.node if node.domain == NAMESPACE]
    assert [node.op_type for node in ours] == [plugin.name for plugin in plugins] * 2
    assert [len(node.input) for node in ours] == [4, 7, 4, 7]
    assert list(ours[0].input[1:]) == list(ours[2].input[1:])
    assert ours[1].input[1] == ours[0].input[0] and ours[1].input[0] == ours[0].output[0]
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 2 and kinds.count("Transpose") == 4 and "Concat" not in kinds
    used = {name for node in model.graph.node for name in node.input}
    assert {each.name for each in model.graph.initializer} <= used
    onnx.checker.check_model(model)
    two, again = with_plugins(to_half(network(shared=False)).model, TARGET)
    assert again == plugins
    nodes = [node for node in two.graph.node if node.domain == NAMESPACE]
    packed = {each.name: numpy_helper.to_array(each) for each in two.graph.initializer}
    assert not np.array_equal(packed[nodes[0].input[1]], packed[nodes[2].input[1]])
    assert {packed[name].dtype.name for name in nodes[1].input[2:]} == {"float16", "float32"}


def test_what_is_no_block_in_fp16_is_left_alone() -> None:
    model = network()
    kept = next(node.name for node in model.graph.node if node.op_type == "Concat")
    mixed, plugins = with_plugins(to_half(model, {kept}).model, TARGET)
    nodes = [node.op_type for node in mixed.graph.node]
    assert len([node for node in mixed.graph.node if node.domain == NAMESPACE]) == len(plugins) == 2
    assert nodes.count("Conv") == 7
    for other in (model, to_half(network("Sigmoid")).model):
        with pytest.raises(
            BuildError, match=r"no block in fp16 that there are plugins for.*without --plugins"
        ):
            with_plugins(other, TARGET)
    with pytest.raises(BuildError, match="cannot tile 20 channels"):
        with_plugins(to_half(network(channels=20)).model, TARGET)


def test_relu_is_a_slope_of_nothing() -> None:
    _, plugins = with_plugins(to_half(network("Relu")).model, TARGET)
    assert {plugin.call.constants["SLOPE"] for plugin in plugins} == {0.0}


@pytest.fixture(scope="module")
def stages() -> list[Compiled]:
    calls = [
        mffb.stage1_call(16, heuristic("mffb.stage1", 16)),
        mffb.stage2_call(16, heuristic("mffb.stage2", 16)),
    ]
    return compile_calls(calls, "fp16", ["sm_80", "sm_90"])


@pytest.mark.parametrize(("stage", "inputs"), [(0, 4), (1, 7)])
def test_the_code_takes_inputs_sizes_and_then_the_output(
    stages: list[Compiled], tmp_path: Path, stage: int, inputs: int
) -> None:
    for compiled in (stages[stage], stages[2 + stage]):
        plugin = make_plugin(compiled, [f"i{n}" for n in range(inputs)], 16)
        (entry,) = re.findall(r"\.entry (\w+)\(([^)]*)\)", plugin.ptx)
        assert entry[0] == plugin.name
        declared = [each.split() for each in entry[1].split(",")]
        order = [int(each[-1].rpartition("_")[2]) for each in declared]
        assert order == [*range(inputs), inputs + 1, inputs + 2, inputs]
        assert [each[1] for each in declared] == [".u64"] * inputs + [".u32", ".u32", ".u64"]
        # Nothing else has changed.
        before, after = (ptx.partition(".reqntid")[2] for ptx in (compiled.ptx, plugin.ptx))
        assert after and after == before.replace(compiled.symbol, plugin.name)
        # Drivers as old as the GPU read it.
        assert {"sm_80": ".version 7.0\n", "sm_90": ".version 8.0\n"}[compiled.target] in plugin.ptx
        (tmp_path / "a.ptx").write_text(plugin.ptx)
        made = tmp_path / "a.cubin"
        target = re.findall(r"\.target (\w+)", plugin.ptx)[0]
        for assembler in assemblers():
            command = [assembler, f"-arch={target}", str(tmp_path / "a.ptx"), "-o", str(made)]
            subprocess.run(command, check=True, timeout=60)
            assert plugin.name.encode() in made.read_bytes()


def test_kernels_that_tensorrt_cannot_launch_are_refused(stages: list[Compiled]) -> None:
    with pytest.raises(BuildError, match=r"reads its parameter 6, which a plugin cannot give"):
        with_parameters(stages[0].ptx, stages[0].symbol, "p", (0, 1, 2, 3, 4, 5))
    with pytest.raises(BuildError, match="no PTX for the kernel other"):
        with_parameters(stages[0].ptx, "other", "p", ())
    inputs = ("x", "inner", "outer", "bias")
    with pytest.raises(BuildError, match=r"needs 49153 bytes of shared memory for sm_80.*--plugins"):
        make_plugin(replace(stages[0], shared=(48 << 10) + 1), inputs, 32)
    assert len({make_plugin(each, inputs, 32).name for each in (stages[0], stages[2])}) == 2


class Expression:
    """A number that TensorRT would compute from shapes, by the operations that it has for them alone."""

    def __init__(self, value: Any) -> None:
        self.value = getattr(value, "value", value)

    def __mul__(self, other: Any) -> Expression:
        return Expression(self.value * Expression(other).value)


class Described:
    def __init__(self, *shape: int) -> None:
        self.shape_expr = [Expression(side) for side in shape]

    def like(self) -> Described:
        return Described(*(side.value for side in self.shape_expr))


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``tensorrt`` with its ``plugin``, which checks functions as the library's own Python code does."""
    library, trtp = ModuleType("tensorrt"), ModuleType("tensorrt.plugin")

    class SymIntExprs(list):
        def __init__(self, length: int) -> None:
            super().__init__([None] * length)

    class KernelLaunchParams:
        __slots__ = ("block_x", "grid_x", "shared_mem")

    known: dict[str, dict[str, Any]] = {}
    space = SimpleNamespace()

    def add(plugin_id: str) -> Any:
        def decorate(describe: Any) -> Any:
            signature = inspect.signature(describe)
            assert {p.annotation for p in signature.parameters.values()} == {Described}
            assert signature.return_annotation is Described
            namespace, name = plugin_id.split("::")
            assert re.fullmatch(r"\w+", name) and not hasattr(space, name)
            setattr(trtp.op, namespace, space)
            setattr(space, name, True)
            known[name] = {"describe": describe, "names": list(signature.parameters)}
            return describe

        return decorate

    def compiled(plugin_id: str) -> Any:
        def decorate(launch: Any) -> Any:
            found, signature = known[plugin_id.split("::")[1]], inspect.signature(launch)
            assert list(signature.parameters) == [*found["names"], "outputs", "tactic"]
            assert typing.get_origin(signature.parameters["outputs"].annotation) is tuple
            kinds = typing.get_args(signature.return_annotation)
            assert kinds == (str, str, KernelLaunchParams, SymIntExprs)
            found["launch"] = launch
            return launch

        return decorate

    members: dict[str, Any] = {
        "op": SimpleNamespace(),
        "register": add,
        "aot_impl": compiled,
        "TensorDesc": Described,
        "SymIntExprs": SymIntExprs,
        "SymInt32": Expression,
        "KernelLaunchParams": KernelLaunchParams,
        "cdiv": lambda left, right: Expression(-(-left.value // right)),
        "known": known,
    }
    vars(trtp).update(members)
    vars(library).update(plugin=trtp, __version__="10.7")
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", trtp)
    return library


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (33, 65), (1088, 1920)])
def test_tensorrt_is_told_shapes_grid_and_sizes(
    trt: Any, changed: tuple[ModelProto, tuple[Plugin, ...]], size: tuple[int, int]
) -> None:
    for plugin in changed[1]:
        register(plugin, trt)
        register(plugin, trt)
        told = trt.plugin.known[plugin.name]
        assert told["names"] == list(plugin.inputs)
        inputs = [Described(1, *size, 16 if plugin.call.kernel == "mffb.stage1" else 32)]
        inputs += [Described(64, 16)] * (len(plugin.inputs) - 1)
        out = told["describe"](*inputs)
        expected = (1, *size, 32 if plugin.call.kernel == "mffb.stage1" else 16)
        assert tuple(getattr(side, "value", side) for side in out.shape_expr) == expected
        name, ptx, launch, sizes = told["launch"](*inputs, (out,), 0)
        assert (name, ptx) == (plugin.name, plugin.ptx)
        assert (launch.grid_x.value, 1, 1) == plugin.call.grid(*size)
        assert launch.block_x == 32 * plugin.warps and launch.shared_mem == plugin.shared
        assert [each.value for each in sizes] == list(size)


def test_a_tensorrt_without_such_plugins_is_told(
    trt: Any, changed: tuple[ModelProto, tuple[Plugin, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    del trt.plugin.aot_impl
    with pytest.raises(BackendUnavailable, match=r"TensorRT 10\.7 takes no plugins.*without --plugins"):
        register(changed[1][0], trt)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", None)
    with pytest.raises(BackendUnavailable, match="plugins in Python do not load"):
        register(changed[1][0], trt)

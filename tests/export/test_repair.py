"""Nodes that fp16 breaks are found, and no more than these are kept in fp32."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from derain_engine.base.errors import BuildError
from derain_engine.export.emulation import CpuGraph, SwitchableGraph, fp32_emulation
from derain_engine.export.half import to_half
from derain_engine.export.repair import find_fragile

from .graphs import convolution, graph, pictures, residual

PSNR, MAX_ABS = 50.0, 2e-2


def chain(length: int, gains: dict[int, float] | None = None) -> onnx.ModelProto:
    """Chain convolutions of 8 maps, each with an activation, between two edges; ``gains`` are of some of them."""
    gains = gains or {}
    weights = {"w0": convolution(8, 3, 0, gains.get(0, 1.4))}
    lines = ["a0 = Conv <pads = [1, 1, 1, 1]> (rainy, w0)"]
    for i in range(1, length):
        weights[f"w{i}"] = convolution(8, 8, i, gains.get(i, 1.4))
        lines += [f"r{i} = Relu (a{i - 1})", f"a{i} = Conv <pads = [1, 1, 1, 1]> (r{i}, w{i})"]
    weights["last"] = convolution(3, 8, length, gains.get(length, 0.3))
    lines += [f"rain = Conv <pads = [1, 1, 1, 1]> (a{length - 1}, last)", "clean = Sub (rainy, rain)"]
    return graph("\n".join(lines), **weights)


def noisy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add a large constant after the first convolution and take it away again, which leaves fp16 few digits."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(3000, np.float32), "much"))
    first = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Relu")
    source = model.graph.node[first].input[0]
    model.graph.node[first].input[0] = "restored"
    for op, names in (("Sub", ("lifted", "restored")), ("Add", (source, "lifted"))):
        node = onnx.helper.make_node(op, [names[0], "much"], [names[1]], name=f"{op}_much")
        model.graph.node.insert(first, node)
    onnx.checker.check_model(model, full_check=True)
    return model


def halved(model: onnx.ModelProto, keep: tuple[str, ...] = ()) -> np.ndarray:
    return CpuGraph(fp32_emulation(to_half(model, keep).model)).run(pictures())[0]


def test_what_is_good_enough_is_left_alone() -> None:
    found = find_fragile(residual(), pictures(), PSNR, MAX_ABS)
    assert found.keep == () and found.before == found.after > 60 and found.tried == 1


@pytest.mark.parametrize("at", [0, 2, 4])
def test_overflow_is_mended_with_the_nodes_around_it(at: int) -> None:
    """Scaled up by 10^6 in one convolution and down again in the next: the same network in fp32."""
    model = chain(6, {at: 1.4e6, at + 1: 1.4e-6})
    before = model.SerializeToString()
    assert not np.isfinite(halved(model)).all()
    told: list[tuple[str, float]] = []
    found = find_fragile(model, pictures(), PSNR, MAX_ABS, lambda *of: told.append(of))
    names = [node.name for node in model.graph.node]
    first = names.index(f"Conv_{2 * at}")
    # The two convolutions and what is between them.
    assert found.keep == tuple(names[first : first + 3])
    assert found.before == -math.inf and found.after >= PSNR and found.tried < 20
    assert np.abs(halved(model, found.keep) - CpuGraph(model).run(pictures())[0]).max() < MAX_ABS
    assert told[0][1] == 0 and told[-1][1] == 1 and all("fp16" in stage for stage, _ in told)
    assert model.SerializeToString() == before


def test_lost_digits_are_mended_where_they_are_lost() -> None:
    model = noisy(chain(5))
    reference = CpuGraph(model).run(pictures())[0]
    error = halved(model) - reference
    assert np.isfinite(error).all() and -10 * np.log10(np.mean(error**2)) < PSNR
    found = find_fragile(model, pictures(), PSNR, MAX_ABS)
    assert {"Add_much", "Sub_much"} <= set(found.keep) and len(found.keep) <= 4
    assert found.before < PSNR <= found.after
    # None of them can be spared.
    for name in found.keep:
        rest = tuple(each for each in found.keep if each != name)
        error = halved(model, rest) - reference
        worst = np.square(error).mean(axis=(1, 2, 3)).max()
        assert not (-10 * np.log10(worst) >= PSNR and np.abs(error).max() <= MAX_ABS)


def test_the_largest_error_counts_too() -> None:
    """Count one pixel that is wrong, though it is lost in the mean."""
    good = find_fragile(chain(4), pictures(), 20, MAX_ABS)
    assert good.keep == ()
    reference = CpuGraph(chain(4)).run(pictures())[0]
    peak = float(np.abs(halved(chain(4)) - reference).max())
    strict = find_fragile(chain(4), pictures(), 20, 0.5 * peak)
    assert strict.keep and np.abs(halved(chain(4), strict.keep) - reference).max() <= 0.5 * peak


def test_a_network_that_fails_in_fp32_is_refused() -> None:
    with pytest.raises(BuildError, match="itself gives NaN or infinity in fp32"):
        find_fragile(residual(np.inf), pictures(), PSNR, MAX_ABS)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_trying_equals_converting(share: float) -> None:
    """Compute by one graph with switches what the converted and emulated graph computes, to the bit."""
    model = noisy(chain(5, {1: 20.0, 2: 1e5, 3: 1e-6}))
    switchable = SwitchableGraph(model)
    random = np.random.default_rng(int(10 * share))
    for _ in range(3):
        keep = tuple(name for name in switchable.names if random.random() < share)
        np.testing.assert_array_equal(switchable.run(pictures(), keep), halved(model, keep))


def test_trying_knows_resizes_shared_weights_and_outputs_that_are_read_again() -> None:
    model = graph(
        """
        small = Resize <mode = "linear"> (rainy, , down)
        a = Conv <pads = [1, 1, 1, 1]> (small, w)
        b = Conv <pads = [1, 1, 1, 1]> (a, w)
        large = Resize <mode = "linear"> (b, , up)
        clean = Relu (large)
        """,
        down=np.array([1, 1, 0.5, 0.5], np.float32),
        up=np.array([1, 1, 2, 2], np.float32),
        w=convolution(3, 3, 3),
    )
    switchable = SwitchableGraph(model)
    for keep in ((), ("Conv_1",), ("Conv_2", "Relu_4"), ("Resize_0", "Resize_3"), tuple(switchable.names)):
        np.testing.assert_array_equal(switchable.run(pictures(), keep), halved(model, keep))
    # With everything kept, only what the library fuses is left.
    np.testing.assert_allclose(
        switchable.run(pictures(), switchable.names), CpuGraph(model).run(pictures())[0]
    )

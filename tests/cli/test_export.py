from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from derain_engine.export import onnx as exporter
from derain_engine.models.checkpoint import load_checkpoint


def test_the_file_runs_like_the_model_at_other_sizes_and_figures_are_printed(cli, model, tmp_path):
    file = tmp_path / "small.onnx"
    done = cli("export", str(model), "-o", str(file), "--output", "rain", "--output", "clean")
    assert done.code == 0, done.err
    written = onnx.load(file)
    onnx.checker.check_model(written, full_check=True)
    assert [o.name for o in written.graph.output] == ["rain", "clean"]
    assert "rain, clean" in done.out and "rainy" in done.out and "largest error" in done.out
    network = load_checkpoint(model).network
    assert f"{sum(p.numel() for p in network.parameters()):,}" in done.out
    image = np.random.default_rng(0).random((1, 3, 96, 160), dtype=np.float32)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    rain, clean = (np.asarray(output) for output in session.run(None, {"rainy": image}))
    expected = network(torch.from_numpy(image))
    np.testing.assert_allclose(rain, expected.rain.numpy(), atol=1e-5)
    np.testing.assert_allclose(clean, expected.clean.numpy(), atol=1e-5)


@pytest.mark.slow
def test_a_file_for_vapoursynth_takes_one_frame_and_clamps(cli, model, tmp_path):
    file = tmp_path / "vs.onnx"
    done = cli("export", str(model), "-o", str(file), "--for", "vapoursynth")
    assert done.code == 0, done.err
    assert "multiples of 32" in done.out
    graph = onnx.load(file).graph
    sides = [
        (v.name, [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim])
        for v in (*graph.input, *graph.output)
    ]
    assert sides == [("input", [1, 3, "height", "width"]), ("output", [1, 3, "height", "width"])]
    image = np.random.default_rng(0).random((1, 3, 96, 160), dtype=np.float32)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": image})
    expected = load_checkpoint(model).network(torch.from_numpy(image)).clean.numpy()
    assert expected.min() < 0 or expected.max() > 1
    np.testing.assert_allclose(np.asarray(found), expected.clip(0, 1), atol=1e-5)
    assert cli("export", str(model), "-o", str(file), "--for", "vapoursynth", "--output", "rain").code == 2


def refuse(*_, **__):
    raise AssertionError("the network was exported")


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("{model}", [], "is the model itself"),
        ("{folder}", [], "is a folder"),
        ("{folder}/missing/x.onnx", [], "does not exist"),
        ("{folder}/x.onnx", ["--colour-order", "cmy"], "cmy"),
    ],
)
def test_bad_places_are_refused_before_the_work(cli, model, tmp_path, monkeypatch, target, options, message):
    monkeypatch.setattr(exporter, "export_onnx", refuse)
    before = model.read_bytes()
    done = cli("export", str(model), "-o", target.format(model=model, folder=tmp_path), *options)
    assert done.code == 2 and message in done.err, done.err
    assert model.read_bytes() == before and not list(tmp_path.glob("*.onnx"))


def test_a_miss_and_an_unknown_output_leave_an_existing_file_alone(cli, model, tmp_path, monkeypatch):
    file = tmp_path / "x.onnx"
    file.write_bytes(b"before")
    done = cli("export", str(model), "-o", str(file), "--output", "depth")
    assert done.code == 2 and "clean, rain, code" in done.err
    image = onnx.helper.make_tensor_value_info("rainy", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])
    clean = onnx.helper.make_tensor_value_info("clean", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])
    copy = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["rainy"], ["clean"])], "x", [image], [clean]
    )
    wrong = onnx.helper.make_model(copy, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    monkeypatch.setattr(exporter, "export_onnx", lambda *_, **__: wrong)
    done = cli("export", str(model), "-o", str(file))
    assert done.code == 1 and "differs from the network" in done.err
    assert file.read_bytes() == b"before" and list(tmp_path.glob("*.onnx")) == [file]

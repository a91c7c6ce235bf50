"""``build`` and ``inspect`` of other networks than SSID-KD, and of ONNX models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from derain_engine.models.registry import create, spec_of

Cli = Callable[..., Any]


@pytest.fixture
def prn(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "net_latest.pth"
    torch.save(create(spec_of("prn-r", {})).state_dict(), path)
    return path


def test_a_recurrent_network_is_built_with_as_many_stages_as_are_told(cli: Cli, prn: Path) -> None:
    out = prn.with_suffix(".derain")
    done = cli("build", prn, "-o", out, "--precision", "fp32", "--option", "stages=2", "--arch", "prn-r")
    assert done.code == 0, done.err
    facts = json.loads(cli("inspect", out, "--json").out)
    assert (facts["architecture"], facts["config"]) == ("prn-r", {"stages": 2})
    assert (facts["granularity"], facts["exact_tiling_halo"]) == (1, 24)


def test_export_is_told_as_build_is(cli: Cli, prn: Path) -> None:
    one, two = prn.with_name("one.onnx"), prn.with_name("two.onnx")
    for path, stages in ((one, 1), (two, 2)):
        done = cli("export", prn, "-o", path, "--option", f"stages={stages}", "--arch", "prn-r")
        assert done.code == 0, done.err
    products = [sum(node.op_type == "Conv" for node in onnx.load(path).graph.node) for path in (one, two)]
    assert products == [12, 24]


def test_an_architecture_that_it_is_not_is_refused(cli: Cli, prn: Path) -> None:
    for name, words in (("prenet", "of prn-r by its keys"), ("nothing", "no architecture 'nothing'")):
        done = cli("build", prn, "-o", prn.with_suffix(".derain"), "--arch", name)
        assert done.code == 2 and words in done.err


def test_inspect_says_how_its_authors_run_it(cli: Cli, prn: Path) -> None:
    facts = json.loads(cli("inspect", prn, "--json").out)
    assert facts["published_protocol"] == {
        "colour_order": "rgb",
        "value_range": [0, 1],
        "padding": "none",
        "rounding": "truncated",
    }
    assert facts["tried_with_trained_weights"] is True and facts["macs_per_pixel"] == 568_512


def test_an_onnx_model_is_built_and_what_was_found_out_is_told(cli: Cli, tmp_path: Path) -> None:
    port = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in ("x", "y")]
    limits = [
        helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("a", 0.0), ("b", 255.0))
    ]
    graph = helper.make_graph(
        [helper.make_node("Clip", ["x", "a", "b"], ["y"])], "g", port[:1], port[1:], limits
    )
    model = tmp_path / "theirs.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), model)
    done = cli("build", model, "-o", tmp_path / "x.derain", "--precision", "fp32", "--range", "0..255")
    assert done.code == 0, done.err
    assert "theirs (onnx)" in done.out and "colour_order, granularity" in done.out
    assert cli("verify", tmp_path / "x.derain", model).code == 0
    refused = cli("inspect", model)
    assert refused.code == 2 and "build an engine of it" in refused.err

from __future__ import annotations

import copy
import json

import pytest

from derain_engine.base.errors import BackendUnavailable
from derain_engine.bench import table3
from derain_engine.bench.kernels import ceilings
from derain_engine.bench.published import TABLE


@pytest.fixture(autouse=True)
def low_ceilings(monkeypatch):
    monkeypatch.setattr(ceilings, "_COPIED", {"cpu": 1 << 16})
    monkeypatch.setattr(ceilings, "_SIDE", {"cpu": 64})


def test_the_papers_tables_alone(cli):
    done = cli("bench", "table3", "--published")
    assert done.code == 0, done.err
    for text in ("SSID-KD", "MAC/pixel", "3,946,533", "TFLOP/s", "128x128"):
        assert text in done.out
    rows = json.loads(cli("bench", "table3", "--published", "--json").out)
    assert [row["method"] for row in rows] == [each.method for each in TABLE]
    assert all("2022" in row["source"] for row in rows)


def test_what_cannot_run_is_named_and_the_rest_measured(cli, model, monkeypatch):
    ways = table3._ways

    def some(*arguments):
        yield next(iter(ways(*arguments)))
        yield "Broken", lambda: 1 / 0
        yield "Missing", lambda: table3._refuse("There is no GPU.")

    monkeypatch.setattr(table3, "_ways", some)
    command = ("bench", "table3", "--model", model, "--quick", "--size", "32x64", "--threads", "1")
    done = cli(*command)
    assert done.code == 0, done.err
    assert "Left out: Broken. ZeroDivisionError: division by zero" in done.err
    assert "Left out: Missing. There is no GPU." in done.err
    assert "Syn2Real" in done.out and "PyTorch eager fp32" in done.out and "yes, equal" in done.out
    lines = cli(*command, "--csv").out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("name,backend") and "Syn2Real" not in lines[1]
    assert cli(*command, "--markdown").out.startswith("| Engine | Runs in | Frame |")

    monkeypatch.setattr(table3, "_ways", lambda *_: [("Missing", lambda: table3._refuse("There is no GPU."))])
    done = cli(*command)
    assert done.code == BackendUnavailable.exit_code and "There is no GPU." in done.err


@pytest.mark.parametrize("at", ["open", "first", "stream"])
def test_what_fails_while_it_is_measured_is_named_and_the_rest_measured(cli, model, monkeypatch, at):
    ways = table3._ways

    def some(*arguments):
        manifest, opener = next(iter(ways(*arguments)))[1]()
        yield "Sound", lambda: (manifest, opener)
        yield "Broken", lambda: (manifest, Breaking(opener, at))

    monkeypatch.setattr(table3, "_ways", some)
    done = cli("bench", "table3", "--model", model, "--quick", "--size", "32x64", "--threads", "1", "--csv")
    assert done.code == 0, done.err
    assert "Left out: Broken, 32x64. RuntimeError: out of memory" in done.err
    assert [line.split(",")[0] for line in done.out.splitlines()[1:]] == ["Sound"]


class Breaking:
    """Opens an engine that fails: when it is opened, at its first frame, or only when it streams."""

    on_gpu = False

    def __init__(self, opener, at):
        self._opener, self._at = opener, at

    def __call__(self, mode, **options):
        if self._at == "open":
            raise RuntimeError("out of memory")
        engine = self._opener(mode, **options)
        if self._at == "first" or mode == "throughput":
            engine._session.run = self._fail
        return engine

    @staticmethod
    def _fail(*_):
        raise RuntimeError("out of memory")


def test_other_networks_are_timed_in_the_same_run(cli, model, monkeypatch):
    ways = table3._ways
    monkeypatch.setattr(table3, "_ways", lambda *arguments: [next(iter(ways(*arguments)))])
    options = "--peer prn-r --size 32x32 --runs 1 --threads 1 --json".split()
    done = cli("bench", "table3", "--model", model, *options)
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    assert [row["name"] for row in rows] == ["PyTorch eager fp32", "prn-r: PyTorch eager fp32"]
    assert [row["verified"] for row in rows] == [True, True]
    assert rows[1]["macs_per_pixel"] == 568_512
    missing = cli("bench", "table3", "--model", model, "--peer", "nothing", "--size", "32x32")
    assert missing.code == 2 and "nothing" in missing.err


def test_a_presets_weights_are_random_and_the_same_each_time():
    one, two = (table3.find_checkpoint("sid-lite") for _ in range(2))
    assert one.weights_sha256 == two.weights_sha256
    assert float(next(one.network.parameters()).std()) > 0


@pytest.fixture
def exported_once(monkeypatch):
    """Has a network exported once, not for each of the four ways of running it that begin with its graph."""
    from derain_engine.export import onnx

    export, graphs = onnx.export_onnx, {}

    def once(network, spec, **options):
        if network not in graphs:
            graphs[network] = export(network, spec, **options)
        return copy.deepcopy(graphs[network])

    monkeypatch.setattr(onnx, "export_onnx", once)


@pytest.mark.slow
def test_everything_that_runs_here_is_measured_and_verified(cli, model, tmp_path, exported_once):
    options = "--size 32x64 --size 64x96 --runs 4 --threads 1 --no-compile --json".split()
    done = cli("bench", "table3", "--model", model, *options, "--plots", tmp_path / "plots")
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    names = [row["name"] for row in rows if row["height"] == 32]
    assert names[:3] == ["PyTorch eager fp32", "PyTorch eager bf16", "ONNX Runtime fp32"]
    assert "OpenVINO fp32" in names and len(rows) == 2 * len(names)
    assert all(row["verified"] for row in rows)
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {
        "latency.png",
        "speed-up.png",
    }

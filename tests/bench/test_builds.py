"""Measuring what building takes; that it runs in a process of its own is tested in ``test_starts``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from derain_engine.base.errors import BackendUnavailable, InputError
from derain_engine.base.sizes import FrameSizes
from derain_engine.bench import builds
from derain_engine.bench.builds import EngineBuild, bench_builds
from derain_engine.cli import app
from derain_engine.export.nvinfer import FLAVOURS

from ..cli.conftest import save_model

RTX = FLAVOURS["tensorrt-rtx"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "small.safetensors", 0)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[object, ...]]]:
    """Builds in this process: what they were asked."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    asked: list[tuple[object, ...]] = []

    def build(what: str, work: object, *wanted: object) -> EngineBuild:
        assert work is builds._build
        asked.append(wanted)
        name, backend, precision, fixed = wanted
        sizes = FrameSizes.only((512, 512)) if fixed else FrameSizes((32, 32), ((512, 512),), (1088, 1920))
        facts = (sizes.to_json(), RTX.gpus, 1.25, 2.5, 3_000_000, 4_000_000, 5_000_000_000)
        return EngineBuild(str(name), 1234, 56, str(backend), "1.2", str(precision), *facts)

    monkeypatch.setattr(builds, "in_new_process", build)
    yield asked


@pytest.mark.slow
def test_a_build_is_measured(model: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    row = builds._build(str(model), "tensorrt-rtx", "fp16", True)
    assert (row.backend, row.backend_version, row.precision) == ("tensorrt-rtx", RTX.version, "fp16")
    assert row.gpus == RTX.gpus and row.takes == "512x512" and row.nodes == 168
    assert row.peak_bytes is not None and row.export_s > 0 and row.plan_s > 0
    assert 0 < 2 * row.parameters < row.graph_bytes < row.plan_bytes < row.peak_bytes


def test_every_network_is_built_for_one_size_and_for_a_range(
    here: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[float] = []
    result = bench_builds(["a", "b"], command="the command", progress=lambda _, done: told.append(done))
    assert here == [(name, "tensorrt-rtx", "fp16", fixed) for name in "ab" for fixed in (True, False)]
    assert told == [0, 0.25, 0.5, 0.75] and result.command == "the command"
    assert [row.takes for row in result.rows[:2]] == ["512x512", "32x32 to 1088x1920"]
    # Nothing of whose machine it was.
    assert "cache" not in result.environment and {"cpu", "packages"} <= set(result.environment)

    assert app.run(["bench", "builds", "a", "--precision", "fp32", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [row["plan_bytes"] for row in shown["rows"]] == [4_000_000] * 2 and here[-1][2] == "fp32"
    assert app.run(["bench", "builds"]) == 0
    text = capsys.readouterr().out
    assert "sid-lite" in text and "32x32 to 1088x1920" in text and "4 MB" in text and "sm_75, sm_80" in text


def test_what_cannot_be_built(here: list[tuple[object, ...]]) -> None:
    with pytest.raises(
        InputError, match="'openvino' builds no plans; those that do are tensorrt, tensorrt-rtx"
    ):
        bench_builds(["a"], backend="openvino")
    with pytest.raises(InputError, match="fp16 or fp32, not in 'int8'"):
        bench_builds(["a"], precision="int8")
    with pytest.raises(BackendUnavailable, match="TensorRT is not installed"):
        bench_builds(["a"], backend="tensorrt")
    assert here == []


def test_names_of_networks(model: Path) -> None:
    assert sum(each.numel() for each in builds._find("sid")[0].parameters()) == 4_433_779
    assert builds._find(str(model))[1].architecture == "ssid-kd"
    with pytest.raises(InputError, match="neither a file nor the name of shipped weights"):
        builds._find("nothing")

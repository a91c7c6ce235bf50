"""The verb collect-env: facts of this machine, and of others."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from derain_engine.base.version import __version__
from derain_engine.engine import environment

Cli = Callable[..., Any]


def test_facts_as_table_and_as_json(cli: Cli, own_cache: Path) -> None:
    done = cli("collect-env", "--json")
    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.out)
    assert facts["derain_engine"] == __version__
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["packages"]["tensorrt-rtx"] is None or facts["packages"]["tensorrt-rtx"]
    assert facts["backends"]["openvino"] == {
        "available": True,
        "reason": None,
        "precisions": ["bf16", "fp32", "int8"],
    }
    assert facts["cpu"]["threads"] >= 1
    assert facts["memory"]["total_bytes"] >= facts["memory"]["available_bytes"] > 2**20
    assert facts["cache"] == {"folder": str(own_cache), "writable": True}
    table = cli("collect-env").out
    for words in (__version__, platform.python_version(), facts["cpu"]["model"], str(own_cache)):
        assert words in table


def test_a_backend_that_lacks_something_says_what(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from derain_engine.engine.backends.openvino import backend

    monkeypatch.setattr(backend.OpenVINOBackend, "unavailable", lambda self: "no plugin here")
    assert "no plugin here" in cli("collect-env").out


@pytest.mark.parametrize(
    ("table", "model", "features"),
    [
        (
            "processor\t: 0\nmodel\t\t: 17\nmodel name\t: Fast One\nflags\t\t: fpu avx2 avx512f avx512_bf16\n"
            "model name\t: Other\n",
            "Fast One",
            ["avx2", "avx512f", "avx512_bf16"],
        ),
        ("processor\t: 0\nFeatures\t: fp asimd sve bf16\n", None, ["asimd", "bf16", "sve"]),
        ("", None, []),
    ],
)
def test_the_processor_is_read_from_the_kernels_table(
    table: str, model: str | None, features: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(table)
    monkeypatch.setattr(environment, "_CPU_TABLE", tmp_path / "cpuinfo")
    cpu = environment.cpu()
    assert cpu["features"] == features
    assert cpu["model"] == (model or platform.processor() or platform.machine())


def test_gpus_are_found_without_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    monkeypatch.setattr(environment, "_NVIDIA_TABLE", tmp_path)
    assert environment.gpus() == []
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA Example\nIRQ: 1\n")
    assert environment.gpus() == ["NVIDIA Example"]


def test_a_cache_that_cannot_be_written_is_told(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    done = cli("collect-env")
    assert done.code == 0
    assert "cannot be written" in done.out

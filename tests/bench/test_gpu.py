from __future__ import annotations

import pytest

from derain_engine.bench.gpu import GpuStatus, gpu_status


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Puts a stand-in for nvidia-smi on the path."""

    def make(script: str) -> None:
        file = tmp_path / "nvidia-smi"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return make


def test_the_first_line_is_the_gpu(tool):
    tool("echo 'NVIDIA H100, SXM, 580.65.06, 1234'; echo 'Other, 580.65.06, 5'")
    assert gpu_status() == GpuStatus("NVIDIA H100, SXM", "580.65.06", 1234)


def test_the_visible_gpu_is_asked_for(tool, monkeypatch):
    tool('echo "$3, 1, 2"')
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert gpu_status() == GpuStatus("--id=3", "1", 2)


@pytest.mark.parametrize("script", ["exit 9", "echo No devices were found", "true", "echo 'A, 1, [N/A]'"])
def test_a_failing_tool_is_no_gpu(tool, script):
    tool(script)
    assert gpu_status() is None


def test_no_tool_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_status() is None

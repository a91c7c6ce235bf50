"""The PyTorch network as a backend."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from derain_engine.base.errors import BackendUnavailable, BundleError, InputError
from derain_engine.engine.backends.base import Artefact, CompileOptions, RunOptions
from derain_engine.engine.backends.reference import backend
from derain_engine.models.registry import create, spec_of
from derain_engine.models.ssid_kd import SSIDKDConfig

SPEC = spec_of("ssid-kd", SSIDKDConfig((4, 4, 4), (2, 1, 1)))
PAYLOAD = "reference.safetensors"


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return create(SPEC).eval()


@pytest.fixture(scope="module")
def artefact(network: nn.Module) -> Artefact:
    return backend.compile(network, SPEC, CompileOptions())


def test_is_the_network(network: nn.Module, artefact: Artefact) -> None:
    image = np.random.default_rng(0).random((2, 32, 64, 3), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(image).permute(0, 3, 1, 2)).clean.permute(0, 2, 3, 1).numpy()
    session = backend.open(artefact, RunOptions())
    np.testing.assert_array_equal(session.run(image), expected)
    out = np.empty_like(image)
    assert session.run(image, out) is out
    np.testing.assert_array_equal(out, expected)


def test_bytes_in_bytes_out(network: nn.Module, artefact: Artefact) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    session = backend.open(artefact, RunOptions())
    exact = session.run(pixels.astype(np.float32) / 255)
    assert exact.max() > 1, "nothing to clamp"
    np.testing.assert_array_equal(session.run(pixels), np.floor(255 * exact.clip(0, 1) + np.float32(0.5)))


def test_payload_holds_shared_weights_once_and_repeats(network: nn.Module, artefact: Artefact) -> None:
    numbers = sum(parameter.numel() for parameter in network.parameters())
    stored = safetensors.torch.load(bytes(artefact.payloads[PAYLOAD]))
    assert sum(tensor.numel() for tensor in stored.values()) == numbers
    assert backend.compile(network, SPEC, CompileOptions("fp32")) == artefact
    assert artefact.precision == "fp32" and artefact.backend == "reference"


def test_refuses_other_precisions_sizes_and_use_after_close(network: nn.Module, artefact: Artefact) -> None:
    with pytest.raises(InputError, match="fp32 only, not in bf16"):
        backend.compile(network, SPEC, CompileOptions("bf16"))
    session = backend.open(artefact, RunOptions())
    with pytest.raises(InputError, match="multiples of 32, not 48x32"):
        session.run(np.zeros((1, 32, 48, 3), np.uint8))
    session.close()
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.run(np.zeros((1, 32, 32, 3), np.uint8))


@pytest.mark.parametrize("damage", ["absent", "empty", "truncated", "no spec", "other network", "text"])
def test_refuses_damaged_payloads(artefact: Artefact, damage: str) -> None:
    good = bytes(artefact.payloads[PAYLOAD])
    bad = {
        "empty": b"",
        "truncated": good[:-4],
        "no spec": good.replace(b"__metadata__", b"__metadatX__"),
        "other network": good.replace(b"head.convLayer_1", b"head.convLayer_9"),
        "text": b"not weights at all" * 9,
    }
    payloads = {PAYLOAD: bad[damage]} if damage in bad else {}
    with pytest.raises(BundleError, match=PAYLOAD):
        backend.open(replace(artefact, payloads=payloads), RunOptions())


def test_says_what_is_missing(
    network: nn.Module, artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backend.unavailable() is None
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert 'pip install "derain-engine[build]"' in (backend.unavailable() or "")
    with pytest.raises(BackendUnavailable, match="PyTorch"):
        backend.open(artefact, RunOptions())
    with pytest.raises(BackendUnavailable, match="PyTorch"):
        backend.compile(network, SPEC, CompileOptions())

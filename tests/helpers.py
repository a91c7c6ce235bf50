"""Helpers for tests of every folder: networks whose every block moves the output, manifests, padding, and what builds
look at."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from derain_engine.base.sizes import FrameSizes
from derain_engine.engine.frames import pad_to
from derain_engine.engine.manifest import Manifest
from derain_engine.models.registry import create, spec_of
from derain_engine.models.spec import ModelSpec
from derain_engine.models.ssid_kd import SSIDKDConfig

Network = TypeVar("Network", bound=nn.Module)

#: A manifest as JSON holds it.
RECORD: dict[str, Any] = {
    "format": 1,
    "architecture": "ssid-kd",
    "config": {"channels": [4, 4, 4], "units": [1, 1, 1]},
    "granularity": 32,
    "smallest_side": 64,
    "exact_tiling_halo": None,
    "tile_overlap": 96,
    "bytes_per_pixel": 1024,
    "source": "sid-lite",
    "weights_sha256": "0" * 64,
    "backend": "openvino",
    "backend_version": "2026.4",
    "precision": "bf16",
    "gpus": ["sm_80", "sm_90"],
    "input": {"name": "rainy", "layout": "NHWC", "colour": "RGB", "range": [0, 1]},
    "output": {"name": "clean", "layout": "NHWC", "colour": "RGB", "range": [0, 1]},
    "payloads": {"a": {"sha256": "1" * 64, "bytes": 1}},
    "verification": {"psnr": 61.25, "pictures": {"astronaut": 60.5}},
    "derain_engine": "0.1.0",
}


def a_manifest(**changes: Any) -> Manifest:
    """Return RECORD as write_bundle takes it, without payloads."""
    return dataclasses.replace(
        Manifest.from_json(json.dumps(RECORD), "RECORD"), **{"payloads": {}, **changes}
    )


def a_fake_manifest(**changes: Any) -> Manifest:
    """Return a manifest for a session that is none of a backend's, whose network takes multiples of 32 pixels."""
    fake = {
        "smallest_side": 32,
        "tile_overlap": 32,
        "bytes_per_pixel": 1000,
        "source": "fake",
        "backend": "fake",
        "backend_version": "1",
        "precision": "fp32",
    }
    return a_manifest(**{**fake, **changes})


def strengthen(network: Network, gain: float = 1.6) -> Network:
    """Scale the weights of all convolutions in place: random ones at gain 1 hardly move the output in deep blocks."""
    for each in network.modules():
        if isinstance(each, nn.Conv2d | nn.ConvTranspose2d):
            each.weight.data.mul_(gain)
    return network.eval().requires_grad_(False)


def strong(of: SSIDKDConfig | ModelSpec, seed: int = 5, gain: float = 1.6) -> Any:
    """Return a network with random weights, strengthened."""
    torch.manual_seed(seed)
    return strengthen(create(of if isinstance(of, ModelSpec) else spec_of("ssid-kd", of)), gain)


def pad_frame(
    batch: np.ndarray, granularity: int, smallest_side: int = 1
) -> tuple[np.ndarray, tuple[int, int]]:
    """Pad to multiples of ``granularity`` that are at least ``smallest_side``, as engines do.

    Returns:
        The padded batch, and (H, W) to crop to.
    """
    height, width = batch.shape[1:3]
    sizes = FrameSizes.all_from(smallest_side, granularity)
    return pad_to(batch, sizes.padded(height, width)), (height, width)

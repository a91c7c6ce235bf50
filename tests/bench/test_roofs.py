from __future__ import annotations

import pytest

from derain_engine.base.errors import InputError
from derain_engine.base.progress import no_progress
from derain_engine.bench import roofs
from derain_engine.bench.contestants import Contestant, find_checkpoint, manifest_of
from derain_engine.bench.kernels.ceilings import Ceilings
from derain_engine.bench.rivals import pytorch
from derain_engine.bench.roofs import NetworkWork, measure_roofs


@pytest.fixture
def contestants(monkeypatch):
    """Make sid-lite contestants in two precisions; ceilings are made up."""

    def ceilings(device, precision, runs):
        return Ceilings(device, precision, 10.0, 1.0 if precision == "fp32" else 2.0, 1, 1, runs, 1)

    monkeypatch.setattr(roofs, "measure_ceilings", ceilings)
    checkpoint = find_checkpoint("sid-lite")
    base = manifest_of(checkpoint.spec, checkpoint.weights_sha256, source="sid-lite")
    made = [pytorch(checkpoint, base, 1, precision=precision) for precision in ("fp32", "bf16")]
    return [Contestant("x", manifest, checkpoint, opener) for manifest, opener in made]


def test_each_precision_has_its_ceiling_and_each_network_its_work(contestants):
    found = measure_roofs(contestants, 1, no_progress)
    assert {key: each.matmul_tflop_s for key, each in found.ceilings.items()} == {
        (False, "fp32"): 1.0,
        (False, "bf16"): 2.0,
    }
    (work,) = found.work.values()
    half, full = (work.flop_per_byte(precision, 512, 512) for precision in ("bf16", "fp32"))
    assert half is not None and full is not None and half == 2 * full
    small = work.flop_per_byte("bf16", 32, 32)
    assert small is not None and small < half, "weights are moved once a frame, however small"
    assert work.flop_per_byte("int8", 512, 512) is None


def test_a_network_that_no_plan_is_made_of_has_no_intensity(contestants, monkeypatch):
    def refuse(*_):
        raise InputError("no")

    monkeypatch.setattr("derain_engine.plan.lowering.lower", refuse)
    (work,) = measure_roofs(contestants, 1, no_progress).work.values()
    assert work.macs_per_pixel > 1e5 and work.flop_per_byte("fp32", 32, 32) is None


def test_without_networks_there_is_nothing_to_measure():
    found = measure_roofs([], 1, no_progress)
    assert not found.work and not found.ceilings


def test_intensity_is_operations_over_bytes():
    work = NetworkWork(1.0, (200.0, 4.0, 1000.0))
    assert work.flop_per_byte("fp16", 10, 100) == pytest.approx(200 * 1000 / (4 * 1000 + 1000))

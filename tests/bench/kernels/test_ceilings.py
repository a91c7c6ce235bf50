from __future__ import annotations

import pytest
import torch

from derain_engine.base.errors import InputError
from derain_engine.bench.kernels import ceilings
from derain_engine.bench.kernels.ceilings import measure_ceilings


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rates_are_work_over_time(precision, monkeypatch):
    made = []

    def seconds(work, device, runs):
        made.append(work())
        return 0.5

    monkeypatch.setattr(ceilings, "_median_seconds", seconds)
    found = measure_ceilings("cpu", precision, runs=3, copied_bytes=1000, side=40)
    assert found.copy_gb_s == pytest.approx(2 * 1000 / 0.5 / 1e9)
    assert found.matmul_tflop_s == pytest.approx(2 * 40**3 / 0.5 / 1e12)
    assert (found.device, found.precision, found.side, found.copied_bytes) == ("cpu", precision, 40, 1000)
    assert found.threads == torch.get_num_threads() and found.runs == 3
    copied, product = made
    assert copied.unique().numel() > 200, "zeros would be too easy"
    assert (
        product.shape == (40, 40)
        and str(product.dtype) == f"torch.{ {'fp32': 'float32'}.get(precision, 'bfloat16') }"
    )


def test_a_cpu_is_measured_for_real():
    before = torch.get_float32_matmul_precision()
    found = measure_ceilings("cpu", "fp32", runs=2, copied_bytes=1 << 16, side=64)
    assert found.copy_gb_s > 0 and found.matmul_tflop_s > 0
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"copied_bytes": -1}, {"side": -1}])
def test_nothing_to_measure_is_refused(wrong):
    with pytest.raises(InputError, match="at least 1"):
        measure_ceilings("cpu", "fp32", **wrong)

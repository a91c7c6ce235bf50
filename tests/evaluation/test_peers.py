"""Published figures with the weights of their authors: PReNet on Rain100H (Ren et al., CVPR 2019).

On the first 50 of the 100 pairs they give 30.07 dB and 0.907 in Y, truncated to 8 bits, where the paper prints 29.46
and 0.899 for all: ``derain-engine eval Rain100H_PReNet6.pth --rainy DIR --clean DIR --native --protocol truncated``.
That takes minutes, so four of the 50 are measured here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from derain_engine.evaluation.evaluate import evaluate

NAMES = ("001", "017", "033", "049")
#: Of these four, taken from the run over 50 that the figures above are of.
MEANS = {"psnr": 31.162, "ssim": 0.9150, "psnr_y": 32.572, "ssim_y": 0.9264}


@pytest.mark.slow
def test_prenets_published_weights_give_its_figures(shared_data: Path, tmp_path: Path) -> None:
    base = tmp_path / "Rain100H"
    for kind in ("rainy", "clean"):
        (base / kind).mkdir(parents=True)
        for name in NAMES:
            (base / kind / f"{name}.png").symlink_to(shared_data / "rain100h" / kind / f"{name}.png")
    weights = shared_data / "weights" / "prenet" / "Rain100H_PReNet6.pth"
    result = evaluate(weights, base / "rainy", base / "clean", native=True, protocol="truncated")
    assert result.method == "reference network in fp32, unpadded"
    for figure, expected in MEANS.items():
        assert result.mean.output[figure] == pytest.approx(expected, abs=0.01 if "psnr" in figure else 5e-4)
    (part,) = result.sets
    assert part.share == "a part: 4 of 100 pictures"
    assert part.data_set is not None and part.data_set.name == "Rain100H"

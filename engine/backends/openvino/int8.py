"""INT8 for OpenVINO: NNCF's post-training quantisation, and back to 16 bits for what it harms.

Ranges of activations are the least and largest values that occur, not averages over pictures, which cut off what heavy
rain needs; with that, bias correction gains nothing and is left out, as it takes most of the time.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....base.errors import BuildError
from ....base.extras import importing
from ....base.progress import Progress, no_progress
from ... import quality
from ..base import Calibration

if TYPE_CHECKING:
    import openvino

#: Runs a network on N x 3 x H x W float32: (network, batch) to its output.
RunNetwork = Callable[["openvino.Model", np.ndarray], np.ndarray]

#: Stretches of the graph that are tried without quantisation, in how many smaller ones it is then tried again, and how
#: many choices are tried at most.
_PARTS, _FINER, _MOST_TRIED = 16, 8, 48
#: Share of the allowance that is to be left on the pictures of the search, since the engine is judged on others.
_SPARE = 0.3
#: NNCF's name for the quantiser of an operation's map is the operation's with this.
_SUFFIX = "/fq_output_0"
_STAGE = "Looking for what int8 harms"


@dataclass(frozen=True)
class Quantised:
    """A network in INT8.

    network: with quantised weights, and FakeQuantize operations where maps are quantised.

    kept: operations whose maps were left in 16 bits, by name, in the graph's order; what reads them runs in 16 bits.
    """

    network: openvino.Model
    kept: tuple[str, ...]


def require_nncf() -> None:
    """Raises BackendUnavailable where NNCF is not installed."""
    # Or NNCF would tell its makers of every use.
    os.environ.setdefault("NNCF_CI", "1")
    with importing("Building in int8 needs {}, which is not installed: pip install 'derain-engine[int8]'"):
        import nncf  # noqa: F401


def quantise(
    network: openvino.Model,
    calibration: Calibration,
    exact: RunNetwork,
    low: RunNetwork,
    progress: Progress = no_progress,
) -> Quantised:
    """Quantise a network, but for the parts without which it would cost more than it may.

    Args:
        network: in fp32, for batches of any size.
        exact, low: run a network in fp32, and as it will run.

    Raises:
        BackendUnavailable: NNCF is not installed.
        BuildError: it cannot be quantised.
    """
    require_nncf()
    whole = _quantised(network, calibration.frames, progress)
    search = _QuantiserSearch(whole, calibration, exact(network, calibration.rainy), low)
    progress(_STAGE, 0.0)
    dropped = () if search.margin(()) >= _SPARE else _harmful(search, progress)
    progress(_STAGE, 1.0)
    return Quantised(_without(whole, dropped), tuple(name.removesuffix(_SUFFIX) for name in dropped))


def _harmful(search: _QuantiserSearch, progress: Progress) -> tuple[str, ...]:
    """Choose the quantisers to leave out: the stretches that cost most, until the rest costs little enough, and of
    these no more than is needed."""
    names = search.names
    size = math.ceil(len(names) / _PARTS)
    parts = [names[i : i + size] for i in range(0, len(names), size)]
    gains = []
    for i, part in enumerate(parts):
        progress(_STAGE, search.tried / _MOST_TRIED)
        gains.append((-search.margin(part), i))
    dropped: set[str] = set()
    for _, i in sorted(gains):
        dropped.update(parts[i])
        if search.margin(dropped) >= _SPARE:
            break
    step = math.ceil(size / _FINER)
    for i in range(0, len(names), step):
        again = dropped.difference(names[i : i + step])
        progress(_STAGE, min(1.0, search.tried / _MOST_TRIED))
        if again != dropped and search.tried < _MOST_TRIED and search.margin(again) >= _SPARE:
            dropped = again
    return tuple(name for name in names if name in dropped)


def _quantised(network: openvino.Model, frames: np.ndarray, progress: Progress) -> openvino.Model:
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    seen = 0

    def take(frame: np.ndarray) -> np.ndarray:
        nonlocal seen
        progress("Calibrating int8", min(1.0, seen / len(frames)))
        seen += 1
        return frame[None]

    # Not by its own function, which also turns down handlers that are not its own.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    try:
        # It draws its own progress bars, on stdout.
        with contextlib.redirect_stdout(io.StringIO()):
            return nncf.quantize(
                network.clone(),
                nncf.Dataset(list(frames), take),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(frames),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                    disable_bias_correction=True,
                ),
            )
    except Exception as error:  # NNCF raises many kinds
        raise BuildError(f"NNCF cannot quantise this network: {error}") from error


class _QuantiserSearch:
    """Choices of quantisers that were left out, and what remained of the allowance then. tried: how many."""

    def __init__(
        self, whole: openvino.Model, calibration: Calibration, reference: np.ndarray, low: RunNetwork
    ) -> None:
        self.whole, self.low, self.calibration = whole, low, calibration
        self.reference = _pictures(reference)
        self.tried = 0
        self.names = [
            node.get_friendly_name()
            for node in whole.get_ordered_ops()
            if node.get_type_name() == "FakeQuantize"
        ]

    def margin(self, dropped: Collection[str]) -> float:
        self.tried += 1
        outputs = _pictures(self.low(_without(self.whole, dropped), self.calibration.rainy))
        if not np.isfinite(outputs).all():
            return -math.inf
        rainy, clean = _pictures(self.calibration.rainy), _pictures(self.calibration.clean)
        return quality.cost(
            [quality.judge(*each) for each in zip(rainy, clean, self.reference, outputs, strict=True)]
        ).margin


def _pictures(batch: np.ndarray) -> np.ndarray:
    return batch.transpose(0, 2, 3, 1)


def _without(network: openvino.Model, quantisers: Collection[str]) -> openvino.Model:
    """Return a copy without these."""
    copy = network.clone()
    for node in copy.get_ops():
        if node.get_type_name() == "FakeQuantize" and node.get_friendly_name() in quantisers:
            node.output(0).replace(node.input_value(0))
    return copy

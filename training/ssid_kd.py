"""The two stages of the SSID-KD paper (eq. 6 to 11): a network on synthetic pairs, then on real rain as well.

``official`` is what the published code does and the default: stage 2 runs one network on both inputs, keeps an L1 loss
to the truth and adds the three losses with weights of 1e-6. ``paper`` is what the text prints: a tenfold rate in
stage 1; in stage 2 eq. 7 alone, without a truth, the dark channel on rain layers (eq. 10) and the variation of real
pictures alone. The paper's teacher and student share their weights, so here too one network is both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.errors import InputError
from ..models.ssid_kd import SSIDKD, Derained
from .loop import Outcome, Recipe, train
from .losses import KLReduction, dark_channel_loss, kl_divergence, streak_dark_channel_loss, total_variation
from .objective import Objective
from .run import Phase, Run
from .sid import Supervised
from .trainer import Progress

_FIRST = {"epochs": 520, "patch": 120, "batch": 12, "milestones": (0.6, 0.8), "l1_weight": 0.0}
_SECOND = {"epochs": 10, "patch": 128, "batch": 2, "learning_rate": 1e-4, "milestones": (), "decay": 1.0}
#: What stage and recipe decide where a run does not. The paper's Rain200 schedule: milestones are the epochs 312 and
#: 416 of 520; the published code halves at them, the paper divides by ten.
DEFAULTS: Mapping[tuple[int, str], Mapping[str, Any]] = MappingProxyType(
    {
        (1, "official"): _FIRST | {"learning_rate": 5e-4, "decay": 0.5},
        (1, "paper"): _FIRST | {"learning_rate": 5e-3, "decay": 0.1},
        (2, "official"): _SECOND | {"l1_weight": 20.0},
        (2, "paper"): _SECOND | {"l1_weight": 0.0},
    }
)


@dataclass(frozen=True, kw_only=True)
class SsidKdRun(Run):
    """A run of one stage. What is None becomes the recipe's own, see :data:`DEFAULTS`.

    stage: 1 trains on pairs or photographs; 2 goes on from its weights (``start``) with ``real`` pictures beside them.
    real: folder of pictures in real rain, for stage 2.
    steps: instead of ``epochs``, which are as many steps as the scenes fill batches.
    milestones: fractions of the training after which the rate is multiplied by ``decay``.
    l1_weight: of the mean absolute error to the truth; in stage 1 beside the negative SSIM.
    kl_weight, dark_channel_weight, tv_weight: lambda 1 to 3 of eq. 7. kl_reduction: see
        :func:`training.losses.kl_divergence`; with ``mean`` and 1e-6 the divergence is numerically inert, about seven
        orders below the L1 loss.
    """

    preset: str = "sid"
    stage: Literal[1, 2] = 1
    recipe: Literal["official", "paper"] = "official"
    real: Path | None = None
    epochs: int | None = None
    steps: int | None = None
    patch: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    milestones: tuple[float, ...] | None = None
    decay: float | None = None
    l1_weight: float | None = None
    kl_weight: float = 1e-6
    kl_reduction: KLReduction = "mean"
    dark_channel_weight: float = 1e-6
    tv_weight: float = 1e-6
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in DEFAULTS[self.stage, self.recipe].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._at_least(1, "epochs", *(["steps"] if self.steps is not None else []))
        self._at_least(0, "l1_weight", "kl_weight", "dark_channel_weight", "tv_weight")
        Phase(1, self.patch or 0, self.batch or 0)
        if not (self.learning_rate or 0) > 0 or not (self.decay or 0) > 0:
            raise InputError(
                f"learning_rate {self.learning_rate} and decay {self.decay} must both be above 0."
            )
        if self.stage == 2 and (self.start is None or self.real is None):
            lacks = "start, the weights of stage 1," if self.start is None else "real, pictures in real rain,"
            raise InputError(f"Stage 2 needs {lacks} which the run does not name.")
        if self.stage == 1 and self.real is not None:
            raise InputError("Stage 1 knows no real rain; leave out real, or set stage to 2.")


def phases(run: SsidKdRun, scenes: int) -> tuple[Phase, ...]:
    """The one phase of a run on so many scenes."""
    assert run.epochs and run.patch and run.batch
    return (Phase(run.steps or run.epochs * max(1, scenes // run.batch), run.patch, run.batch),)


def learning_rate(run: SsidKdRun, step: int, steps: int) -> float:
    """The rate at a step, counted from 0: multiplied by ``decay`` at every milestone that is behind."""
    assert run.learning_rate and run.decay and run.milestones is not None
    return run.learning_rate * run.decay ** sum(step >= milestone * steps for milestone in run.milestones)


class SemiSupervised(Objective[SSIDKD]):
    """Stage 2 (eq. 7). Told unweighted: ``l1``, ``kl``, ``dark_channel`` and ``tv``, the latter two as sums over the
    pictures of a batch."""

    names = ("l1", "kl", "dark_channel", "tv")

    def __init__(self, network: SSIDKD, autocast: torch.autocast, run: SsidKdRun) -> None:
        super().__init__(network, autocast)
        self._run = run

    def forward(
        self, parts: int, rainy: Tensor, clean: Tensor, real: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        run, count, window = self._run, len(rainy), rainy.shape[-1]
        # Without batch statistics one pass over both inputs is the same as two.
        both = self.infer(torch.cat([rainy, real]))
        ours, wild = (Derained(*(t[half] for t in both)) for half in (slice(count), slice(count, None)))
        if run.recipe == "official":
            dark_channel = dark_channel_loss(wild.clean, window) + dark_channel_loss(ours.clean, window)
            variation = total_variation(wild.clean) + total_variation(ours.clean)
        else:
            dark_channel = sum(streak_dark_channel_loss(each.rain, window) for each in (wild, ours))
            variation = total_variation(wild.clean)
        terms = {
            "l1": F.l1_loss(ours.clean, clean),
            "kl": kl_divergence(wild.code, ours.code, run.kl_reduction),
            "dark_channel": parts * dark_channel,
            "tv": parts * variation,
        }
        weights = (run.l1_weight, run.kl_weight, run.dark_channel_weight, run.tv_weight)
        # A weight of 0 leaves a term out, also where it is not finite.
        loss = sum(weight * terms[name] for name, weight in zip(self.names, weights, strict=True) if weight)
        return torch.as_tensor(loss), terms


def train_ssid_kd(
    run: SsidKdRun,
    *,
    resume: bool = False,
    stop_after: float | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Run (or resume) one stage; arguments, files and errors as in :func:`training.loop.train`."""

    def objective(network: SSIDKD, autocast: torch.autocast) -> Objective[SSIDKD]:
        if run.stage == 1:
            return Supervised(network, autocast, run.l1_weight or 0.0)
        return SemiSupervised(network, autocast, run)

    recipe = Recipe(
        phases=lambda scenes: phases(run, scenes),
        rate=lambda step, steps: learning_rate(run, step, steps),
        objective=objective,
        augment=False,
        real=run.real,
    )
    return train(run, recipe, resume=resume, stop_after=stop_after, report=report)

"""The two stages of the SSID-KD paper (eq. 6 to 11): a network on synthetic pairs, then on real rain as well.

``official`` is what the published code does and the default: stage 2 runs one network on both inputs, keeps an L1 loss
to the truth and adds the three losses with weights of 1e-6. ``paper`` is what the text prints: a tenfold rate in
stage 1; in stage 2 eq. 7 alone, without a truth, the dark channel on rain layers (eq. 10) and the variation of real
pictures alone. The paper's teacher and student share their weights, so here too one network is both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.ssid_kd import SSIDKD, Derained
from .loop import Recipe, Training
from .losses import dark_channel_loss, kl_divergence, streak_dark_channel_loss, total_variation
from .objective import Objective
from .options import Phase, SsidKdRun
from .sid import Supervised


def phases(run: SsidKdRun, scenes: int) -> tuple[Phase, ...]:
    """Return the one phase of a run on so many scenes."""
    assert run.epochs and run.patch and run.batch
    return (Phase(run.steps or run.epochs * max(1, scenes // run.batch), run.patch, run.batch),)


def learning_rate(run: SsidKdRun, step: int, steps: int) -> float:
    """Return the rate at a step, counted from 0: multiplied by ``decay`` at every milestone that is behind."""
    assert run.learning_rate and run.decay and run.milestones is not None
    return run.learning_rate * run.decay ** sum(step >= milestone * steps for milestone in run.milestones)


class SemiSupervised(Objective[SSIDKD]):
    """The loss of stage 2 (eq. 7).

    Logged unweighted: ``l1``, ``kl``, ``dark_channel`` and ``tv``, the latter two as sums over the pictures of a batch.
    """

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


def recipe_of(run: SsidKdRun) -> Recipe:
    """Return the recipe of a run, of one stage."""

    def objective(network: SSIDKD, autocast: torch.autocast) -> Objective[SSIDKD]:
        if run.stage == 1:
            return Supervised(network, autocast, run.l1_weight or 0.0)
        return SemiSupervised(network, autocast, run)

    return Recipe(
        phases=lambda scenes: phases(run, scenes),
        rate=lambda step, steps: learning_rate(run, step, steps),
        objective=objective,
        augment=False,
        real=run.real,
    )


train_ssid_kd = Training(recipe_of)

"""The supervised recipe: a SID network on clean photographs under synthetic rain, or on pairs, maybe with a teacher.

A teacher is a trained network of any size, usually a larger one, to distil: its clean pictures and its latent codes
supervise beside the truth. Codes of another width go through a 1x1 convolution that learns with the network and is not
part of it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.ssid_kd import SSIDKD
from .loop import Recipe, Training
from .losses import code_distance, negative_ssim_l1
from .objective import Objective
from .options import SidRun
from .trainer import load_network


def learning_rate(run: SidRun, step: int) -> float:
    """Return the rate at a step: a linear warm-up, then half a cosine from ``learning_rate`` to
    ``final_learning_rate``."""
    if step < run.warmup_steps:
        return run.learning_rate * (step + 1) / run.warmup_steps
    done = (step - run.warmup_steps) / max(1, run.steps - run.warmup_steps)
    span = run.learning_rate - run.final_learning_rate
    return run.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * done))


class Supervised(Objective[SSIDKD]):
    """Negative SSIM (eq. 6) plus a weighted mean absolute error."""

    def __init__(self, network: SSIDKD, autocast: torch.autocast, l1_weight: float) -> None:
        super().__init__(network, autocast)
        self._l1_weight = l1_weight

    def forward(self, parts: int, rainy: Tensor, clean: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return negative_ssim_l1(self.infer(rainy).clean, clean, self._l1_weight), {}


class Distilled(Objective[SSIDKD]):
    """The loss of :class:`Supervised`, plus the differences to a teacher's clean picture and code.

    Logged unweighted: ``truth``, ``teacher`` and ``code``.
    """

    names = ("truth", "teacher", "code")

    def __init__(self, network: SSIDKD, autocast: torch.autocast, run: SidRun, teacher: SSIDKD) -> None:
        super().__init__(network, autocast)
        self._run = run
        # Without gradients: it is neither trained nor saved.
        self.teacher = teacher.requires_grad_(False)
        ours, theirs = network.config.channels[2], teacher.config.channels[2]
        if ours != theirs:
            self.helpers["code"] = nn.Conv2d(ours, theirs, 1)

    def forward(self, parts: int, rainy: Tensor, clean: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        ours = self.infer(rainy)
        with torch.no_grad(), self._autocast:
            theirs = self.teacher(rainy)
        code = self.helpers["code"](ours.code) if "code" in self.helpers else ours.code
        terms = {
            "truth": negative_ssim_l1(ours.clean, clean, self._run.l1_weight),
            "teacher": F.l1_loss(ours.clean, theirs.clean.float()),
            "code": code_distance(code, theirs.code.float()),
        }
        run = self._run
        loss = terms["truth"] + run.teacher_weight * terms["teacher"] + run.code_weight * terms["code"]
        return loss, terms


def recipe_of(run: SidRun) -> Recipe:
    """Return the recipe of a run."""

    def objective(network: SSIDKD, autocast: torch.autocast) -> Objective[SSIDKD]:
        if run.teacher is None:
            return Supervised(network, autocast, run.l1_weight)
        return Distilled(network, autocast, run, load_network(run.teacher, "distillation"))

    return Recipe(
        phases=lambda scenes: run.phases,
        rate=lambda step, steps: learning_rate(run, step),
        objective=objective,
        augment=True,
    )


train_sid = Training(recipe_of)

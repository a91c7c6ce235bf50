"""Semi-DerainGAN's two processes (eq. 6, 9 and 13): on pairs and on real rain, with one mask learner.

A step has four turns: the mask learner and G_s on pairs, the discriminators D_s and D_p, the mask learner with G_r and
G_r' on real rain, and D_r. Each has an Adam of its own, so that the mask learner, which both processes train, follows
either with that one's learning rate. What a discriminator judges is what the turn before it made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ...base.errors import CheckpointError
from ...models.checkpoint import load_checkpoint
from ...models.semi_derain_gan import PRESETS, SSRML, SemiDerainGAN, UNet
from ..loop import Recipe, Training
from ..losses import ssim
from ..objective import Objective, Turn
from ..options import Phase, SemiDerainGanRun
from ..perceptual import Features, perceptual_loss
from .losses import cycle_loss, fooling_loss, judging_loss, mask_loss, smoothness_loss
from .networks import (
    Domains,
    MultiScaleDiscriminator,
    PairDiscriminator,
    Rebuilder,
    load_mask_learner,
)

#: Weights and losses by name.
_Terms: TypeAlias = Mapping[str, tuple[float, Callable[[], Tensor]]]

#: As the networks that the discriminators come from are trained.
_BETAS, _WEIGHT_DECAY = (0.5, 0.999), 1e-4


def phases(run: SemiDerainGanRun, scenes: int) -> tuple[Phase, ...]:
    """Return the one phase of a run on so many scenes."""
    epoch = max(1, scenes * run.patches_per_picture // run.batch)
    return (Phase(run.steps or run.epochs * epoch, run.patch, run.batch),)


def learning_rate(run: SemiDerainGanRun, step: int, steps: int) -> float:
    """Return the supervised process's rate at a step, counted from 0: constant for the first half of the epochs, then
    linear to nearly nothing."""
    epoch, half = run.epochs * step // steps, run.epochs // 2
    return run.learning_rate * (1 - max(0, epoch - half) / (run.epochs - half + 1))


class BothProcesses(Objective[Domains]):
    """The loss of both processes (eq. 13).

    Logged unweighted: ``adv_s``, ``adv_p``, ``per_s`` and ``ssim_s`` (eq. 6) and ``mask``, ``adv_r``, ``cc``, ``per_r``
    and ``tv`` (eq. 9), and what the discriminators ``d_s``, ``d_p`` and ``d_r`` minimise; 0 for a term whose weight is
    0.
    """

    names = ("adv_s", "adv_p", "per_s", "ssim_s", "mask", "d_s", "d_p", "adv_r", "cc", "per_r", "tv", "d_r")
    blocks = (SSRML, UNet)

    def __init__(self, network: Domains, autocast: torch.autocast, run: SemiDerainGanRun) -> None:
        super().__init__(network, autocast)
        self._run = run
        width = run.discriminator_width
        self.helpers["g_rp"] = Rebuilder(network.config)
        self.helpers["d_s"] = MultiScaleDiscriminator(width)
        self.helpers["d_p"] = PairDiscriminator(width)
        self.helpers["d_r"] = MultiScaleDiscriminator(width)
        self.features = Features(run.vgg16, run.perceptual_layer)
        # Of each part of a batch, from a generator's turn to its discriminators'.
        self._derained: deque[Tensor] = deque()

    def turns(self) -> tuple[Turn, ...]:
        network, helpers = self.network, self.helpers
        second = self._run.unsupervised_learning_rate / self._run.learning_rate
        return (
            _turn("supervised", 1.0, network.ssrml, network.g_s),
            _turn("judge_supervised", 1.0, helpers["d_s"], helpers["d_p"]),
            _turn("unsupervised", second, network.ssrml, network.g_r, helpers["g_rp"]),
            _turn("judge_unsupervised", second, helpers["d_r"]),
        )

    def deraining(self, network: nn.Module, *, real: bool) -> Callable[[Tensor], Tensor]:
        assert isinstance(network, Domains)
        return network.real if real else network.synthetic

    def forward(
        self, parts: int, turn: str, rainy: Tensor, clean: Tensor, real: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and the terms of one of :meth:`turns`."""
        if turn == "supervised":
            return self._supervised(rainy, clean)
        if turn == "judge_supervised":
            return self._judge_supervised(rainy, clean)
        return self._unsupervised(real) if turn == "unsupervised" else self._judge_unsupervised(clean)

    def _supervised(self, rainy: Tensor, clean: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        run, network = self._run, self.network
        with self._autocast:
            masks = network.ssrml.masks(rainy)
            derained = network.g_s(masks[-1], rainy).float()
        self._derained.append(derained.detach())
        whole, threshold = run.adv_super_weight, run.mask_threshold
        terms: _Terms = {
            "adv_s": (whole, lambda: fooling_loss(self._judged("d_s", derained))),
            "adv_p": (whole * run.pair_weight, lambda: fooling_loss(self._judged("d_p", rainy, derained))),
            "per_s": (run.per_super_weight, lambda: self._perceptual(clean, derained)),
            "ssim_s": (run.ssim_weight, lambda: -ssim(clean, derained)),
            "mask": (run.mask_weight, lambda: mask_loss([m.float() for m in masks], rainy, clean, threshold)),
        }
        return _weighted(terms, derained)

    def _unsupervised(self, real: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        run = self._run
        with self._autocast:
            derained = self.network.real(real)
            rebuilt = self.helpers["g_rp"](derained).float()
            derained = derained.float()
        self._derained.append(derained.detach())
        whole = run.unsup_weight
        terms: _Terms = {
            "adv_r": (whole * run.adv_unsup_weight, lambda: fooling_loss(self._judged("d_r", derained))),
            "cc": (whole * run.cc_weight, lambda: cycle_loss(real, rebuilt)),
            "per_r": (whole * run.per_unsup_weight, lambda: self._perceptual(real, derained)),
            "tv": (whole * run.tv_weight, lambda: smoothness_loss(derained)),
        }
        return _weighted(terms, derained)

    def _judge_supervised(self, rainy: Tensor, clean: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        derained = self._derained.popleft()
        terms = {
            "d_s": judging_loss(self._judged("d_s", clean), self._judged("d_s", derained)),
            "d_p": judging_loss(self._judged("d_p", rainy, clean), self._judged("d_p", rainy, derained)),
        }
        return terms["d_s"] + terms["d_p"], terms

    def _judge_unsupervised(self, clean: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        # Truths of pairs that were drawn by chance stand for clean pictures of the real domain (section 3.1).
        loss = judging_loss(self._judged("d_r", clean), self._judged("d_r", self._derained.popleft()))
        return loss, {"d_r": loss}

    def _judged(self, name: str, *images: Tensor) -> list[Tensor]:
        with self._autocast:
            judged = self.helpers[name](*images)
        return [logits.float() for logits in judged]

    def _perceptual(self, target: Tensor, image: Tensor) -> Tensor:
        with self._autocast:
            return perceptual_loss(self.features, target, image).float()


def _turn(name: str, rate: float, *modules: nn.Module) -> Turn:
    return Turn(
        tuple(parameter for module in modules for parameter in module.parameters()),
        {"turn": name},
        rate,
        _BETAS,
        _WEIGHT_DECAY,
        counts=not name.startswith("judge"),
    )


def _weighted(terms: _Terms, like: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum and the terms; a weight of 0 leaves a term out, and its work."""
    found = {name: term() for name, (weight, term) in terms.items() if weight}
    loss = 0 * like.sum() + sum(terms[name][0] * term for name, term in found.items())
    return loss, found


def make_domains(run: SemiDerainGanRun) -> Domains:
    """Make the preset's networks with the run's first weights.

    Raises:
        CheckpointError: the weights to start from are another network's, or of one domain alone.
    """
    torch.manual_seed(run.seed)
    network = Domains(PRESETS[run.preset])
    if run.mask_start is not None:
        load_mask_learner(network.ssrml, run.mask_start)
    if run.start is not None:
        for domain, generator in (("synthetic", network.g_s), ("real", network.g_r)):
            found = load_checkpoint(run.start, options={"domain": domain}, arch="semi-derain-gan").network
            assert isinstance(found, SemiDerainGAN)
            if vars(found.config) | {"domain": network.config.domain} != vars(network.config):
                raise CheckpointError(
                    f"{run.start} is no {run.preset} network; start from such weights or choose their preset."
                )
            generator.load_state_dict(found.generator.state_dict())
            network.ssrml.load_state_dict(found.ssrml.state_dict())
    return network


def recipe_of(run: SemiDerainGanRun) -> Recipe:
    """Return the recipe of a run.

    The weights hold both generators; figures and the best weights are by G_s on held-out pairs, samples of real rain by
    G_r.
    """
    return Recipe(
        phases=lambda scenes: phases(run, scenes),
        rate=lambda step, steps: learning_rate(run, step, steps),
        objective=lambda network, autocast: BothProcesses(network, autocast, run),
        augment=True,
        real=run.real,
        make=make_domains,
        architecture="semi-derain-gan",
    )


train_semi_derain_gan = Training(recipe_of)

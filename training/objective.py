"""The objective that a recipe minimises: the network, what learns beside it, and the loss of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..models.spec import clean_image
from ..models.ssid_kd import Derained, UnitBlock

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Turn:
    """One of the optimiser steps that a step of the training is made of, with an Adam of its own.

    parameters: what learns; the rest has no gradients meanwhile. arguments: of :meth:`Objective.forward`.
    rate: the learning rate in units of the recipe's. betas, weight_decay: of Adam.
    counts: whether its loss is part of the loss that is reported.
    """

    parameters: tuple[nn.Parameter, ...]
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    rate: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    counts: bool = True


class Objective(nn.Module, ABC, Generic[Network]):
    """A recipe's loss around the network that it trains.

    network: what is saved. helpers: what learns with it and is not part of the weights.
    names: of the terms that :meth:`forward` returns, as columns of the log.
    blocks: of the modules that ``torch.compile`` gets one by one.
    """

    names: tuple[str, ...] = ()
    blocks: tuple[type[nn.Module], ...] = (UnitBlock,)

    def __init__(self, network: Network, autocast: torch.autocast) -> None:
        super().__init__()
        self.network = network
        self.helpers = nn.ModuleDict()
        self._autocast = autocast

    def turns(self) -> tuple[Turn, ...]:
        """Return what a step consists of, in order: here everything that learns at once."""
        return (Turn(tuple(p for p in self.parameters() if p.requires_grad)),)

    def deraining(self, network: nn.Module, *, real: bool) -> Callable[[Tensor], Tensor]:
        """Return what makes clean pictures of rainy ones, of real rain or of the pairs, with a network like the trained
        one."""
        return lambda rainy: clean_image(network(rainy))

    def infer(self, rainy: Tensor) -> Derained:
        """Return the network's outputs in fp32; losses are not computed in 16 bits."""
        with self._autocast:
            outputs = self.network(rainy)
        return Derained(*(output.float() for output in outputs))

    @abstractmethod
    def forward(self, parts: int, **batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute (loss, terms by name) of one of ``parts`` equal parts of a batch.

        The means over all parts are the loss and the terms of the whole: what is a sum over pictures counts ``parts``
        times.
        """

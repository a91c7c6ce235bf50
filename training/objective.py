"""What a recipe minimises: the network, what learns beside it, and the loss of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..engine.models.ssid_kd import SSIDKD, Derained


class Objective(nn.Module):
    """A recipe's loss around the network that it trains.

    network: what is saved. helpers: what learns with it and is not part of the weights.
    names: of the terms that :meth:`forward` tells, as columns of the log.
    """

    names: tuple[str, ...] = ()

    def __init__(self, network: SSIDKD, autocast: torch.autocast) -> None:
        super().__init__()
        self.network = network
        self.helpers = nn.ModuleDict()
        self._autocast = autocast

    def infer(self, rainy: Tensor) -> Derained:
        """The network's outputs in fp32; losses are not computed in 16 bits."""
        with self._autocast:
            outputs = self.network(rainy)
        return Derained(*(output.float() for output in outputs))

    def forward(self, parts: int, **batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, terms by name) of one of ``parts`` equal parts of a batch. The means over all parts are the loss and
        the terms of the whole: what is a sum over pictures counts ``parts`` times."""
        raise NotImplementedError

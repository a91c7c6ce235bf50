"""One process, or several that ``torchrun`` started, each with its part of every batch."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..base.errors import BackendUnavailable


@dataclass(frozen=True)
class World:
    """This process among ``size`` of them. device: what it computes on."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes, in all of them."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def first_decides(self, decision: bool) -> bool:
        """Return what the first process decided, in all of them."""
        if self.size == 1:
            return decision
        flag = torch.tensor([decision], dtype=torch.uint8, device=self.device)
        dist.broadcast(flag, 0)
        return bool(flag.item())

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def join(device: str) -> Iterator[World]:
    """Join the world that ``torchrun``'s environment describes, NCCL between GPUs and Gloo between CPUs; a world of one
    without it.

    Once in a process that ``torchrun`` started: a second world would meet the addresses of the first. What was made of
    the world has to be let go of before it is left.

    Args:
        device: ``auto`` (a CUDA GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        BackendUnavailable: a GPU was asked for and there is none.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise BackendUnavailable(f"{name} was asked for and PyTorch finds no CUDA GPU; train on cpu or auto.")
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(torch.device(name))
        return
    rank = int(os.environ["RANK"])
    if name == "cuda":
        name = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(name)
    dist.init_process_group("nccl" if name.startswith("cuda") else "gloo")
    try:
        yield World(torch.device(name), rank, size)
    finally:
        # Whoever lets go of the group last waits for its threads. DistributedDataParallel would do so without letting
        # them have the interpreter, which they may need to end.
        gc.collect()
        dist.destroy_process_group()

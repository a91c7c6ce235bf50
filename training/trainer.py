"""The state of a run: network, moving average, optimiser, progress; one step, and saving and resuming them."""

from __future__ import annotations

import contextlib
import copy
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..base.errors import CheckpointError
from ..base.files import atomic_write
from ..models.checkpoint import load_checkpoint
from ..models.model_file import read_model_file
from ..models.ssid_kd import PRESETS, SSIDKD
from .data import Batch
from .distributed import World
from .objective import Objective, Turn
from .options import MAY_DIFFER, TrainingRun


@dataclass
class TrainingProgress:
    """The state of a run that a caller gets after every step.

    loss: of the last step that it was read at. psnr (dB), ssim: the last validation's. validated: at this very step.
    seconds_left: estimated; NaN as long as nothing is known.
    """

    step: int
    steps: int
    loss: float
    psnr: float = math.nan
    ssim: float = math.nan
    best_psnr: float = field(default=-math.inf)
    validated: bool = False
    seconds_left: float = math.nan


def load_network(path: Path, what: str) -> SSIDKD:
    """Load a SID / SSID-KD network of any size from a file.

    Raises:
        CheckpointError: the file holds another network; ``what`` says in the message who needs one.
    """
    network = load_checkpoint(path).network
    if not isinstance(network, SSIDKD):
        raise CheckpointError(f"{path} holds no SID / SSID-KD network; {what} needs one.")
    return network


def read_state(path: Path, expected: Mapping[str, Tensor], what: str, prefix: str = "") -> dict[str, Tensor]:
    """Read the tensors that a module expects, by its own names, which have a prefix in the file.

    Raises:
        CheckpointError: the file cannot be read, or is not ``what``: a tensor is missing or of another shape.
    """
    content = read_model_file(path).content
    state = dict(content) if isinstance(content, dict) else {}
    found: dict[str, Tensor] = {}
    for key, ours in expected.items():
        tensor = state.get(prefix + key)
        if not isinstance(tensor, Tensor) or tensor.shape != ours.shape:
            raise CheckpointError(f"{path} holds no {what}: {prefix}{key} is missing or of another shape.")
        found[key] = tensor
    return found


def precision_of(run: TrainingRun, device: torch.device) -> torch.autocast:
    """Return the autocast of a run."""
    enabled = run.precision == "bf16"
    if run.precision == "auto":
        # On a CPU without bf16 arithmetic autocast would emulate it, slower than fp32.
        enabled = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def make_network(run: TrainingRun) -> SSIDKD:
    """Make the preset's network with the run's first weights.

    Raises:
        CheckpointError: the weights to start from are another network's.
    """
    torch.manual_seed(run.seed)
    network = SSIDKD(PRESETS[run.preset])
    if run.start is not None:
        start = load_checkpoint(run.start).network
        if not isinstance(start, SSIDKD) or start.config != network.config:
            raise CheckpointError(
                f"{run.start} is no {run.preset} network; start from such weights or choose their preset."
            )
        network.load_state_dict(start.state_dict())
    return network


class Trainer:
    """A run's state. One file holds all of it but the teachers."""

    def __init__(self, run: TrainingRun, objective: Objective[Any], steps: int, world: World) -> None:
        self.run, self.objective, self.world = run, objective.to(world.device), world
        # torch's stubs leave this overload out.
        objective.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.network = objective.network
        self.average = copy.deepcopy(self.network)
        self._average = get_ema_multi_avg_fn(run.ema_decay)
        if run.compile:
            # Block by block: three widths are compiled instead of some forty copies of them.
            for block in self.objective.modules():
                if isinstance(block, objective.blocks):
                    block.compile()
        if world.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        self.forward: nn.Module = objective
        if world.size > 1:
            # The last 1x1 of some dense connections only counts where all of its maps are wanted.
            self.forward = DistributedDataParallel(
                objective,
                device_ids=[world.device] if world.device.type == "cuda" else None,
                find_unused_parameters=True,
            )
        self.turns = objective.turns()
        self.optimisers = [
            torch.optim.Adam(turn.parameters, betas=turn.betas, weight_decay=turn.weight_decay)
            for turn in self.turns
        ]
        self.progress = TrainingProgress(0, steps, math.nan)

    def step(self, parts: Sequence[Batch], rate: float) -> Tensor:
        """Take one step, of one or more turns, on the parts of a batch; return loss and terms, their means over all
        processes."""
        sent = [self._to_device(part) for part in parts]
        losses = torch.zeros(1 + len(self.objective.names), device=self.world.device)
        for turn, optimiser in zip(self.turns, self.optimisers, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * turn.rate
            losses += self._turn(turn, optimiser, sent)
        self._update_average()
        self.progress.step += 1
        return self.world.mean(losses)

    def _turn(
        self, turn: Turn, optimiser: torch.optim.Optimizer, parts: Sequence[dict[str, Tensor]]
    ) -> Tensor:
        if len(self.turns) > 1:
            learning = set(turn.parameters)
            for parameter in {each for other in self.turns for each in other.parameters}:
                parameter.requires_grad_(parameter in learning)
        optimiser.zero_grad(set_to_none=True)
        losses = torch.zeros(1 + len(self.objective.names), device=self.world.device)
        for i, part in enumerate(parts):
            with self._sums_only_here(last=i + 1 == len(parts)):
                loss, terms = self.forward(len(parts) * self.world.size, **turn.arguments, **part)
                (loss / len(parts)).backward()
            loss = loss.detach()
            # NaN or infinity has to be seen, whosever it is.
            values = [loss if turn.counts else torch.where(loss.isfinite(), 0, loss)]
            zero = loss.new_zeros(())
            values += [terms[name].detach() if name in terms else zero for name in self.objective.names]
            losses += torch.stack(values).float() / len(parts)
        if self.run.clip_norm:
            nn.utils.clip_grad_norm_(turn.parameters, self.run.clip_norm)
        optimiser.step()
        return losses

    @torch.no_grad()
    def _update_average(self) -> None:
        """Update the exponential average, which begins with the weights after the first step. torch's own AveragedModel
        counts in a tensor that it sends to the GPU, and waits for, at every step."""
        ours, theirs = (list(each.parameters()) for each in (self.average, self.network))
        if self.progress.step == 0:
            for kept, weight in zip(ours, theirs, strict=True):
                kept.copy_(weight)
        else:
            self._average(ours, theirs, 0)  # it has no use for the count
        for kept, buffer in zip(self.average.buffers(), self.network.buffers(), strict=True):
            kept.copy_(buffer)

    @contextlib.contextmanager
    def _sums_only_here(self, last: bool) -> Iterator[None]:
        """Let processes exchange gradients once a step, at its last part."""
        with contextlib.ExitStack() as stack:
            if isinstance(self.forward, DistributedDataParallel) and not last:
                stack.enter_context(self.forward.no_sync())
            yield

    def _to_device(self, part: Batch) -> dict[str, Tensor]:
        return {
            name: value.to(self.world.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            for name, value in part.items()
            if isinstance(value, Tensor)
        }

    def save(self, path: Path) -> None:
        """Write everything that :meth:`resume` needs."""
        state = {
            "run": self.run.texts(),
            "network": self.network.state_dict(),
            "helpers": self.objective.helpers.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimisers[0].state_dict(),
            "other optimisers": [optimiser.state_dict() for optimiser in self.optimisers[1:]],
            "progress": asdict(self.progress),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with atomic_write(path) as temporary:
            # By Python, which says so where the disk is full.
            temporary.write_bytes(buffer.getbuffer())

    def resume(self, path: Path) -> None:
        """Go on from a state that was saved.

        Raises:
            CheckpointError: the file is damaged or belongs to a run with other settings.
        """
        try:
            # Adam counts its steps on the CPU: on a GPU each count would be waited for.
            state = torch.load(path, map_location="cpu", weights_only=True)
            self._compare(path, state["run"], state["progress"])
            self.network.load_state_dict(state["network"])
            self.objective.helpers.load_state_dict(state["helpers"])
            self.average.load_state_dict(state["average"])
            optimisers = [state["optimiser"], *state.get("other optimisers", [])]
            for optimiser, theirs in zip(self.optimisers, optimisers, strict=True):
                optimiser.load_state_dict(theirs)
            self.progress = TrainingProgress(**state["progress"])
        except CheckpointError:
            raise
        except Exception as error:  # torch raises many kinds on damaged files
            raise CheckpointError(f"{path} is no training state that can be resumed: {error}") from error

    def _compare(self, path: Path, theirs: dict[str, Any], progress: dict[str, Any]) -> None:
        ours = self.run.texts()
        for key in ours:
            if key not in MAY_DIFFER and theirs[key] != ours[key]:
                raise CheckpointError(
                    f"{path} was made with another {key} ({theirs[key]}, now {ours[key]}); "
                    "resume with the same settings or choose another output folder."
                )
        if progress["steps"] != self.progress.steps:
            raise CheckpointError(
                f"{path} was made for {progress['steps']} steps, now {self.progress.steps}: the data set is not what "
                "it was."
            )

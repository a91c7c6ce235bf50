"""The supervised recipe: a SID network on synthetic rain over clean photographs."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from ..engine import metrics
from ..engine.checkpoint import load_checkpoint, save_checkpoint
from ..engine.errors import BackendUnavailable, CheckpointError, DerainError, InputError
from ..engine.files import whole_file
from ..engine.models.ssid_kd import PRESETS, SMALLEST_SIDE, SSIDKD, SSIDKDConfig
from .data import RainPatches, find_photos, load_photos, split_photos, validation_pairs
from .losses import negative_ssim_l1

_LOG_FIELDS: tuple[str, ...] = ("step", "patch", "loss", "lr", "seconds", "psnr", "ssim")


@dataclass(frozen=True)
class Phase:
    """A stretch of training with patches of one size (pixels) and one batch size."""

    steps: int
    patch: int
    batch: int

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or self.patch < SMALLEST_SIDE:
            raise InputError(
                f"A phase of {self.steps} steps with {self.batch} patches of {self.patch} pixels cannot be trained; "
                f"steps and batch start at 1, patches at {SMALLEST_SIDE}."
            )


@dataclass(frozen=True)
class SidRun:
    """Everything that decides what a run computes.

    preset: a name of ``engine.models.ssid_kd.PRESETS``.
    photos: folder of clean photographs. exclude: table of photographs to leave out.
    start: weights to begin with instead of random ones, a file of the preset's network; a run that is resumed has
        its own.
    phases: small patches first, larger ones at the end.
    precision: ``fp32``, or ``bf16`` autocast, or ``auto``: bf16 where the device computes in it.
    """

    preset: str
    photos: Path
    output: Path
    exclude: Path | None = None
    start: Path | None = None
    phases: tuple[Phase, ...] = (Phase(12000, 64, 8), Phase(6000, 128, 8))
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 200
    l1_weight: float = 5.0
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    seed: int = 66
    validation_photos: int = 16
    validate_every: int = 1000
    workers: int = 1
    precision: str = "auto"
    device: str = "auto"

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)


@dataclass
class Progress:
    """What a caller is told after every step; psnr (dB) and ssim are the last validation's."""

    step: int
    steps: int
    loss: float
    psnr: float = math.nan
    ssim: float = math.nan
    best_psnr: float = field(default=-math.inf)


def _autocast(run: SidRun, device: torch.device) -> torch.autocast:
    if run.precision not in ("auto", "fp32", "bf16"):
        raise InputError(f"training precision {run.precision!r} is not known; take auto, fp32 or bf16.")
    enabled = run.precision == "bf16"
    if run.precision == "auto":
        # On a CPU without bf16 arithmetic autocast would emulate it, slower than fp32.
        enabled = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def learning_rate(run: SidRun, step: int) -> float:
    """Linear warm-up, then half a cosine from ``learning_rate`` to ``final_learning_rate``."""
    if step < run.warmup_steps:
        return run.learning_rate * (step + 1) / run.warmup_steps
    done = (step - run.warmup_steps) / max(1, run.steps - run.warmup_steps)
    return run.final_learning_rate + (run.learning_rate - run.final_learning_rate) * 0.5 * (
        1 + math.cos(math.pi * done)
    )


def _batches(run: SidRun, photos: Sequence[np.ndarray], start: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(patch, rainy, clean) of every step from ``start`` on."""
    first = 0
    for number, phase in enumerate(run.phases):
        skip = min(max(start - first, 0), phase.steps)
        first += phase.steps
        if skip == phase.steps:
            continue
        patches = RainPatches(
            photos,
            phase.patch,
            (phase.steps - skip) * phase.batch,
            run.seed + number,
            offset=skip * phase.batch,
        )
        for rainy, clean in DataLoader(
            patches, phase.batch, num_workers=run.workers, prefetch_factor=4 if run.workers else None
        ):
            yield phase.patch, rainy, clean


@torch.inference_mode()
def validate(
    network: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]], device: torch.device
) -> tuple[float, float]:
    """Mean PSNR (dB) and SSIM of the clamped fp32 output over the pairs."""
    psnr, ssim = [], []
    for rainy, clean in pairs:
        output = network(rainy[None].to(device)).clean[0].clamp(0, 1).cpu()
        a, b = (t.permute(1, 2, 0).numpy() for t in (output, clean))
        psnr.append(metrics.psnr(a, b))
        ssim.append(metrics.ssim(a, b))
    return float(np.mean(psnr)), float(np.mean(ssim))


class SidTrainer:
    """State of a run: network, its moving average, optimiser, step. One ``last.pt`` holds all of it."""

    def __init__(self, run: SidRun) -> None:
        if run.preset not in PRESETS:
            raise InputError(f"preset {run.preset!r} is not known; take one of {', '.join(PRESETS)}.")
        self.run = run
        name = ("cuda" if torch.cuda.is_available() else "cpu") if run.device == "auto" else run.device
        self.device = torch.device(name)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise BackendUnavailable(
                f"{name} was asked for and PyTorch finds no CUDA GPU; train on cpu or auto."
            )
        self.autocast = _autocast(run, self.device)
        torch.manual_seed(run.seed)
        self.config: SSIDKDConfig = PRESETS[run.preset]
        self.network = SSIDKD(self.config)
        if run.start is not None:
            self.network.load_state_dict(self._start(run.start))
        self.network.to(self.device)
        # torch's stubs leave this overload out.
        self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(run.ema_decay))
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=run.learning_rate)
        self.progress = Progress(0, run.steps, math.nan)

    def _start(self, path: Path) -> dict[str, Tensor]:
        network = load_checkpoint(path).network
        if not isinstance(network, SSIDKD) or network.config != self.config:
            raise CheckpointError(
                f"{path} is no {self.run.preset} network; start from such weights or choose their preset."
            )
        return network.state_dict()

    def step(self, rainy: Tensor, clean: Tensor) -> float:
        """One optimiser step on a batch; returns the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.run, self.progress.step)
        rainy = rainy.to(self.device).contiguous(memory_format=torch.channels_last)
        with self.autocast:
            output = self.network(rainy).clean
        loss = negative_ssim_l1(output.float(), clean.to(self.device), self.run.l1_weight)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.run.clip_norm)
        self.optimiser.step()
        self.average.update_parameters(self.network)
        self.progress.step += 1
        self.progress.loss = float(loss.detach())
        return self.progress.loss

    def save(self, path: Path) -> None:
        state = {
            "run": {k: str(v) for k, v in asdict(self.run).items()},
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "progress": asdict(self.progress),
        }
        with whole_file(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path) -> None:
        """Raises CheckpointError: the file is damaged or belongs to a run with other settings."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            theirs, ours = state["run"], {k: str(v) for k, v in asdict(self.run).items()}
            may_differ = {"output", "photos", "exclude", "start", "workers", "device"}
            other = [k for k in ours if k not in may_differ and theirs.get(k) != ours[k]]
            if other:
                raise CheckpointError(
                    f"{path} was made with another {other[0]} ({theirs.get(other[0])}, now {ours[other[0]]}); "
                    "resume with the same settings or choose another output folder."
                )
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.progress = Progress(**state["progress"])
        except CheckpointError:
            raise
        except Exception as error:  # torch raises many kinds on damaged files
            raise CheckpointError(f"{path} is no training state that can be resumed: {error}") from error


def _logged(log: Path, step: int) -> list[dict[str, str]]:
    """The log's rows up to a step: those after it are computed again by the run that resumes there."""
    if not log.exists():
        return []
    with log.open(newline="", encoding="utf-8") as f:
        return [dict(row) for row in csv.DictReader(f) if row["step"].isdigit() and int(row["step"]) <= step]


def train_sid(
    run: SidRun, *, resume: bool = False, report: Callable[[Progress], None] = lambda progress: None
) -> Path:
    """Run (or resume) a training and return the path of the best weights, ``best.safetensors`` in the output folder.

    The folder also gets ``log.csv`` (every 50th step and every validation) and ``last.pt`` (at every validation).
    Best is by PSNR of the moving average on synthetic validation pairs, made once from held-out photographs.

    Raises:
        InputError, MediaError: the photographs cannot be used. CheckpointError: nothing to resume from, or no weights
        of this network to start from.
        BackendUnavailable: the device is not there. DerainError: the loss became NaN or infinite.
    """
    last, best, log = (run.output / name for name in ("last.pt", "best.safetensors", "log.csv"))
    if last.exists() and not resume:
        raise InputError(f"{run.output} already holds a training; resume it or choose another output folder.")
    if resume and not last.exists():
        raise CheckpointError(f"{last} does not exist: there is no training to resume in {run.output}.")
    trainer = SidTrainer(run)
    if resume:
        trainer.resume(last)
    training, held_out = split_photos(find_photos(run.photos, run.exclude), run.validation_photos, run.seed)
    if not training:
        raise InputError(
            f"{run.photos} holds too few photographs: {run.validation_photos} are kept for validation."
        )
    photos, pairs = load_photos(training), validation_pairs(load_photos(held_out), run.seed)
    run.output.mkdir(parents=True, exist_ok=True)

    progress = trainer.progress
    started = time.monotonic()
    rows = _logged(log, progress.step) if resume else []
    with log.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, _LOG_FIELDS)
        writer.writeheader()
        writer.writerows(rows)
        for patch, rainy, clean in _batches(run, photos, progress.step):
            lr = learning_rate(run, progress.step)
            loss = trainer.step(rainy, clean)
            row = {
                "step": str(progress.step),
                "patch": str(patch),
                "loss": f"{loss:.5f}",
                "lr": f"{lr:.3e}",
                "seconds": f"{time.monotonic() - started:.1f}",
            }
            if not math.isfinite(loss):
                raise DerainError(f"The loss became {loss} at step {progress.step}; lower the learning rate.")
            if progress.step % run.validate_every == 0 or progress.step == run.steps:
                progress.psnr, progress.ssim = validate(trainer.average.module, pairs, trainer.device)
                row |= {"psnr": f"{progress.psnr:.4f}", "ssim": f"{progress.ssim:.5f}"}
                if progress.psnr > progress.best_psnr:
                    progress.best_psnr = progress.psnr
                    metadata = {
                        "validation_psnr": row["psnr"],
                        "validation_ssim": row["ssim"],
                        "step": str(progress.step),
                    }
                    save_checkpoint(best, trainer.average.module, "ssid-kd", metadata=metadata)
                trainer.save(last)
            if "psnr" in row or progress.step % 50 == 0:
                writer.writerow(row)
                f.flush()
            report(progress)
    return best

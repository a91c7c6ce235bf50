"""The PyTorch network itself as a backend: slow and exact, for comparing and for finding faults.

The payload is the network's own weights as safetensors, each shared one once, with the spec in the metadata.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from ...base.errors import BackendUnavailable, BuildError, BundleError, DerainError, InputError
from ...base.progress import Progress, no_progress
from ...models.spec import ModelSpec, clean_image
from .base import Artefact, CompileOptions, RunOptions
from .batches import output_for

if TYPE_CHECKING:
    from torch import nn

_PAYLOAD = "reference.safetensors"
_MISSING = 'The reference backend needs PyTorch; install it with: pip install "derain-engine[build]"'


class ReferenceSession:
    """An open network. fp32, one frame at a time."""

    parallelism = 1
    precision = "fp32"
    available_memory = None

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        self._network: nn.Module | None = network
        self._spec = spec

    def run(self, batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Run a batch, as :meth:`Session.run` says."""
        import torch

        if self._network is None:
            raise InputError("This session is closed; open the engine again.")
        out = output_for(batch, out)
        spec, sides = self._spec, batch.shape[1:3]
        if spec.sizes.padded(*sides) != sides:
            raise InputError(
                f"The network takes sides of at least {spec.smallest_side} pixels that are multiples of "
                f"{spec.granularity}, not {sides[1]}x{sides[0]}."
            )
        with torch.inference_mode():
            # Copied, since PyTorch warns about read-only arrays.
            image = torch.tensor(batch).permute(0, 3, 1, 2)
            result = self._network(image / 255 if batch.dtype == np.uint8 else image)
            clean = clean_image(result).permute(0, 2, 3, 1)
            if batch.dtype == np.uint8:
                clean = clean.clamp(0, 1).mul(255).add(0.5).floor()
            # NaN has no uint8 value; it becomes 0 without a word, as in every backend.
            with np.errstate(invalid="ignore"):
                np.copyto(out, clean.numpy(), casting="unsafe")
        return out

    def close(self) -> None:
        self._network = None


class ReferenceBackend:
    """PyTorch eager on the CPU."""

    name = "reference"
    precisions = ("fp32",)
    on_gpu = False
    takes: frozenset[str] = frozenset()

    def unavailable(self, artefact: Artefact | None = None) -> str | None:
        try:
            import safetensors.torch  # noqa: F401
        except ImportError:
            return _MISSING
        return None

    def compile(
        self, network: nn.Module, spec: ModelSpec, options: CompileOptions, progress: Progress = no_progress
    ) -> Artefact:
        """Make what a session runs, as :meth:`Backend.compile` says; the sizes of frames change nothing."""
        if (reason := self.unavailable()) is not None:
            raise BackendUnavailable(reason)
        import safetensors.torch
        import torch

        from ...models.registry import architectures

        if spec.architecture not in architectures():
            raise BuildError(
                f"The reference backend runs networks of PyTorch, and {spec.architecture} is none; build with another "
                "backend."
            )
        if options.precision not in (None, *self.precisions):
            raise InputError(f"The reference backend runs in fp32 only, not in {options.precision}.")
        progress("packing weights", 0.0)
        # Named once even where the network uses a tensor in many places, as safetensors demands.
        state = {
            name: tensor.detach().contiguous().cpu()
            for named in (network.named_parameters(), network.named_buffers())
            for name, tensor in named
        }
        # One key: safetensors writes several in an order that changes from process to process.
        metadata = {"spec": json.dumps(asdict(spec), sort_keys=True)}
        try:
            payload = safetensors.torch.save(state, metadata)
        except (TypeError, ValueError, RuntimeError) as error:
            raise BuildError(f"The network's weights cannot be packed: {error}") from error
        progress("packed weights", 1.0)
        sizes = spec.sizes.favouring(options.sizes.usual)
        return Artefact(self.name, torch.__version__, "fp32", {_PAYLOAD: payload}, sizes=sizes)

    def open(self, artefact: Artefact, options: RunOptions) -> ReferenceSession:
        """Open a session, as :meth:`Backend.open` says. ``options.threads`` sets PyTorch's threads for the whole
        process."""
        if (reason := self.unavailable()) is not None:
            raise BackendUnavailable(reason)
        import safetensors
        import safetensors.torch
        import torch

        from ...models.registry import create

        if _PAYLOAD not in artefact.payloads:
            raise BundleError(f"The engine has no {_PAYLOAD}; it is not a whole reference engine.")
        payload = bytes(artefact.payloads[_PAYLOAD])
        try:
            state = safetensors.torch.load(payload)
            spec = _read_spec(payload)
            network = create(spec).eval()
            tensors = dict(network.named_parameters()) | dict(network.named_buffers())
            if set(tensors) != set(state):
                raise ValueError("its weights are not those of its network")
            # Names of shared tensors beyond the first are absent from the file and share the storage anyway.
            network.load_state_dict(state, strict=False)
        except DerainError:
            raise
        except (safetensors.SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise BundleError(
                f"The engine's {_PAYLOAD} cannot be read: {error}. Build the engine again."
            ) from error
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        return ReferenceSession(network, spec)

    def emulate(self, artefact: Artefact) -> None:
        """Return None: every machine has a CPU to open it on."""


def _read_spec(payload: bytes) -> ModelSpec:
    """Read the spec in the metadata. The header's length was checked when the tensors were read."""
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + length])
    return ModelSpec(**json.loads(header["__metadata__"]["spec"]))


backend = ReferenceBackend()

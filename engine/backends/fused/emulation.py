"""A fused engine on a CPU, for its comparison with the reference where its GPU is not at hand."""

from __future__ import annotations

import numpy as np

from ....base.errors import BundleError, InputError
from ....plan import Plan
from ...frames import quantise, to_float
from ..batches import output_for


class FusedEmulation:
    """A session that runs the plan step by step with PyTorch's operators, rounding maps where the kernels do.

    What it shows is that lowering, packing and precision are right; the kernels themselves do not run.
    """

    parallelism = 1
    available_memory = None

    def __init__(self, plan: Plan) -> None:
        self.precision: str = plan.dtype
        self._plan: Plan | None = plan

    def run(self, batch: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Run a batch, as :meth:`Session.run` says.

        Raises:
            BundleError: the plan's launches do not fit its buffers or weights.
        """
        import torch

        from ....plan.executors import run_by_torch

        if self._plan is None:
            raise InputError("This session is closed; open the engine again.")
        out = output_for(batch, out)
        with torch.inference_mode():
            for picture, place in zip(batch, out, strict=True):
                # Copied, since PyTorch warns about read-only arrays.
                image = torch.tensor(to_float(picture))
                try:
                    memory = run_by_torch(self._plan, image)
                except RuntimeError as error:
                    raise BundleError(
                        f"The engine's plan does not run ({str(error).splitlines()[0]}); build it again."
                    ) from error
                clean = (image - memory.map(self._plan.rain)[0].float()).numpy()
                # NaN has no uint8 value; it becomes 0 without a word, as in every backend.
                place[...] = quantise(np.nan_to_num(clean), np.uint8) if batch.dtype == np.uint8 else clean
        return out

    def close(self) -> None:
        self._plan = None

"""A network lowered to few fused steps on NHWC buffers.

``lower`` makes a :class:`Plan` of a PyTorch network; what a plan is and how it is run needs no PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .program import Dtype, Plan, Step

if TYPE_CHECKING:
    from .lowering import lower

__all__ = ["Dtype", "Plan", "Step", "lower"]


def __getattr__(name: str) -> Any:
    """PyTorch is imported when a network is lowered, not before."""
    if name == "lower":
        from .lowering import lower

        return lower
    raise AttributeError(name)

"""The checks that every session makes of the arrays it is handed."""

from __future__ import annotations

import numpy as np

from ...base.errors import InputError


def output_for(batch: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """Return the array that a session writes the clean batch to: ``out``, or a new one like ``batch``.

    Raises:
        InputError: ``batch`` is not a C-contiguous N x H x W x 3 array of uint8 or float32, or ``out`` is not
            a writable one of the same shape and dtype, or shares memory with ``batch``.
    """
    if batch.dtype not in (np.uint8, np.float32):
        raise InputError(f"A batch must be uint8 or float32, not {batch.dtype}.")
    if batch.ndim != 4 or batch.shape[3] != 3 or 0 in batch.shape:
        raise InputError(f"A batch must have the shape N x H x W x 3, not {_shape(batch)}.")
    if not batch.flags.c_contiguous:
        raise InputError("A batch must be C-contiguous; numpy.ascontiguousarray makes it so.")
    if out is None:
        return np.empty_like(batch)
    if out.shape != batch.shape or out.dtype != batch.dtype:
        raise InputError(
            f"The output array is {_shape(out)} {out.dtype}; "
            f"it must be {_shape(batch)} {batch.dtype} as the batch is."
        )
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise InputError("The output array must be C-contiguous and writable.")
    if np.may_share_memory(batch, out):
        raise InputError("The output array must not share memory with the batch.")
    return out


def _shape(array: np.ndarray) -> str:
    return " x ".join(map(str, array.shape)) or "scalar"

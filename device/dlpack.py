"""DLPack capsules: tensors of other libraries, and ours for them, without importing those libraries.

The structures are those of dlpack.h up to version 0.8, which every library hands over unless asked for a newer one.
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.errors import InputError

#: Types of devices.
CUDA, CUDA_MANAGED = 2, 13


@dataclass(frozen=True)
class Tensor:
    """The tensor that a capsule describes.

    pointer: of the first element. strides: in elements. kind: (type code, bits, lanes). device: (type, number).
    owner: keeps the memory alive; of a consumed tensor, it gives the memory back to its producer in the end.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    kind: tuple[int, int, int]
    device: tuple[int, int]
    owner: Any


def consume(capsule: Any) -> Tensor:
    """Read a capsule and become the owner of its tensor.

    Raises:
        InputError: not a capsule with a tensor that nobody has consumed yet.
    """
    if not _is_valid(capsule, _NAME):
        raise InputError("What was given is not a DLPack capsule, or its tensor was taken already.")
    managed = _Managed.from_address(_get_pointer(capsule, _NAME))
    _set_name(capsule, _TAKEN)
    owner = _Owner(managed)
    tensor = managed.tensor
    shape = tuple(tensor.shape[: tensor.ndim])
    return Tensor(
        pointer=(tensor.data or 0) + tensor.byte_offset,
        shape=shape,
        strides=tuple(tensor.strides[: tensor.ndim]) if tensor.strides else row_major(shape),
        kind=(tensor.code, tensor.bits, tensor.lanes),
        device=(tensor.device_type, tensor.device_id),
        owner=owner,
    )


def make_capsule(tensor: Tensor) -> Any:
    """Make a capsule for ``tensor``, whose owner lives until the consumer lets go, or the capsule dies without one."""
    # numpy makes the capsule, and does not look at the memory: its deleter is compiled, so that it may run at any
    # time, also while an exception is under way or when Python has ended. One written in Python may not.
    code, bits, _ = tensor.kind
    capsule = np.asarray(_ArrayInterface(tensor, f"<{'f' if code == 2 else 'u'}{bits // 8}")).__dlpack__()
    made = _Managed.from_address(_get_pointer(capsule, _NAME)).tensor
    made.device_type, made.device_id = tensor.device
    made.code, made.bits, made.lanes = tensor.kind
    return capsule


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of an array whose last axis runs fastest and which has no gaps."""
    strides, step = [], 1
    for side in reversed(shape):
        strides.append(step)
        step *= side
    return tuple(reversed(strides))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Owner:
    """The owner of a consumed tensor: it calls the deleter, once."""

    def __init__(self, managed: _Managed) -> None:
        if managed.deleter:
            deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(managed.deleter)
            weakref.finalize(self, deleter, ctypes.addressof(managed))


class _ArrayInterface:
    """A tensor's memory by numpy's array interface."""

    def __init__(self, tensor: Tensor, typestr: str) -> None:
        itemsize = tensor.kind[1] // 8
        self._owner = tensor.owner
        self.__array_interface__ = {
            "version": 3,
            "shape": tensor.shape,
            "strides": tuple(step * itemsize for step in tensor.strides),
            "typestr": typestr,
            "data": (tensor.pointer, False),
        }


def _prototype(name: str, result: Any, *arguments: Any) -> Any:
    """Make a function of the interpreter anew: the argument types on ``ctypes.pythonapi`` belong to everybody."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_is_valid = _prototype("PyCapsule_IsValid", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_get_pointer = _prototype("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
_set_name = _prototype("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_NAME, _TAKEN = b"dltensor", b"used_dltensor"
# A capsule refers to its name, and may outlive this module at the end of the process.
_prototype("Py_IncRef", None, ctypes.py_object)(_TAKEN)

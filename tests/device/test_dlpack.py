"""Capsules are checked against numpy and PyTorch on the CPU, which speak the same protocol there."""

from __future__ import annotations

import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from derain_engine.base.errors import InputError
from derain_engine.device import dlpack

CPU = 1
FLOAT32 = (2, 32, 1)


class Owner:
    """Something whose life can be watched."""


class Giver:
    """A tensor over a numpy array, as another library sees it."""

    def __init__(self, array: np.ndarray, kind: tuple[int, int, int] = FLOAT32) -> None:
        self.array, self.kind = array, kind
        self.owners: weakref.WeakSet[Owner] = weakref.WeakSet()

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0

    def __dlpack__(self, **_: object) -> Any:
        owner = Owner()
        self.owners.add(owner)
        strides = tuple(step // self.array.itemsize for step in self.array.strides)
        return dlpack.make_capsule(
            dlpack.Tensor(self.array.ctypes.data, self.array.shape, strides, self.kind, (CPU, 0), owner)
        )


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.arange(6, dtype=torch.uint8).reshape(2, 3), (1, 8, 1)),
        (torch.ones(2, 3, dtype=torch.float16), (2, 16, 1)),
        (torch.ones(2, 3, dtype=torch.bfloat16), (4, 16, 1)),
        (torch.ones(33, 65)[5:, ::2], FLOAT32),
        (torch.ones(1, 3, 7, 13).contiguous(memory_format=torch.channels_last), FLOAT32),
        (torch.ones(()), FLOAT32),
    ],
)
def test_tensors_of_pytorch_are_read(tensor, kind):
    taken = dlpack.consume(tensor.__dlpack__())
    assert (taken.pointer, taken.shape, taken.kind) == (tensor.data_ptr(), tuple(tensor.shape), kind)
    # PyTorch gives axes of one element any stride.
    for side, step, expected in zip(taken.shape, taken.strides, tensor.stride(), strict=True):
        assert side == 1 or step == expected
    assert taken.device == (CPU, 0)


def test_arrays_of_numpy_are_read_with_their_strides():
    array = np.zeros((4, 5), np.float32)
    for each, strides in ((array, (5, 1)), (array[1:, 1:], (5, 1)), (array.T, (1, 5))):
        taken = dlpack.consume(each.__dlpack__())
        assert (taken.pointer, taken.shape, taken.strides) == (each.ctypes.data, each.shape, strides)


def test_a_tensor_may_start_behind_its_address():
    array = np.zeros(6, np.float32)
    capsule = array.__dlpack__()
    dlpack._Managed.from_address(dlpack._get_pointer(capsule, b"dltensor")).tensor.byte_offset = 8
    assert dlpack.consume(capsule).pointer == array.ctypes.data + 8


def test_a_tensor_lives_as_long_as_its_consumer():
    array = np.zeros(3, np.float32)
    alive = weakref.ref(array)
    taken = dlpack.consume(array.__dlpack__())
    del array
    assert alive() is not None
    owner = taken.owner
    del taken
    assert alive() is not None
    del owner
    assert alive() is None


@pytest.mark.parametrize("capsule", [None, 3, "dltensor", object()])
def test_what_is_no_capsule_is_refused(capsule):
    with pytest.raises(InputError, match="not a DLPack capsule"):
        dlpack.consume(capsule)


def test_a_capsule_can_be_taken_once():
    capsule = np.zeros(3).__dlpack__()
    kept = dlpack.consume(capsule)
    with pytest.raises(InputError, match="taken already"):
        dlpack.consume(capsule)
    assert kept.shape == (3,)


@pytest.mark.parametrize("take", [torch.from_dlpack, np.from_dlpack])
@pytest.mark.parametrize("view", [(slice(None),), (slice(1, None), slice(None, None, 2))])
def test_other_libraries_take_what_is_given(take, view):
    array = np.arange(33 * 65, dtype=np.float32).reshape(33, 65)[view]
    giver = Giver(array)
    taken = take(giver)
    np.testing.assert_array_equal(np.asarray(taken), array)
    assert len(giver.owners) == 1
    del taken
    assert not giver.owners


def test_bfloat16_and_nothing_at_all_are_given_too():
    ones = torch.ones(3, dtype=torch.bfloat16)
    taken = torch.from_dlpack(Giver(ones.view(torch.int16).numpy(), (4, 16, 1)))
    assert taken.dtype == torch.bfloat16 and torch.equal(taken, ones)
    assert torch.from_dlpack(Giver(np.zeros((0, 3), np.float32))).shape == (0, 3)


def test_a_device_is_claimed_without_touching_the_memory():
    capsule = dlpack.make_capsule(dlpack.Tensor(0x1000, (2, 3), (3, 1), FLOAT32, (dlpack.CUDA, 4), None))
    taken = dlpack.consume(capsule)
    assert (taken.pointer, taken.device) == (0x1000, (2, 4))


def test_capsules_that_nobody_takes_free_their_owner():
    giver = Giver(np.zeros(3, np.float32))
    capsule = giver.__dlpack__()
    assert len(giver.owners) == 1
    del capsule
    assert not giver.owners


def test_a_capsule_that_dies_while_an_error_is_under_way_does_not_disturb_it():
    giver = Giver(np.zeros(3, np.float32), (2, 32, 2))
    for take, error in ((torch.from_dlpack, BufferError), (np.from_dlpack, RuntimeError)):
        with pytest.raises(error, match="lanes"):
            take(giver)
    with pytest.raises(IndexError):
        _ = [giver.__dlpack__()][1]
    assert not giver.owners


_LEFT_OVER = """
import sys, numpy
from derain_engine.device import dlpack
memory = numpy.zeros(6, "f4")
class Giver:
    __dlpack_device__ = lambda self: (1, 0)
    __dlpack__ = lambda self, **_: dlpack.make_capsule(
        dlpack.Tensor(memory.ctypes.data, (6,), (1,), (2, 32, 1), (1, 0), memory)
    )
# Kept by modules that outlive ours when the process ends.
for module in (sys, numpy):
    module.given, module.capsule = numpy.from_dlpack(Giver()), Giver().__dlpack__()
    module.taken = dlpack.consume(numpy.ones(3).__dlpack__())
"""


def test_tensors_may_outlive_the_module_at_the_end_of_the_process():
    done = subprocess.run([sys.executable, "-c", _LEFT_OVER], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")

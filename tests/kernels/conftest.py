"""The way in which kernels are run and judged: on a GPU, or else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from derain_engine.kernels.launch import LaunchConfig

INTERPRETED = not torch.cuda.is_available()

#: Bytes before and after all memory that a kernel is given: more than some rows of the largest map of a test.
GUARD = 1 << 17

Bound = Callable[[Tensor, Tensor, Tensor], None]


@pytest.fixture(scope="session")
def device() -> str:
    """Return where the kernels run."""
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture(scope="session")
def cut() -> Callable[..., LaunchConfig | None]:
    """Return how a kernel is cut for the interpreter, which takes as long for a large block as for a small one.

    On a GPU that is None, for what is usual there.
    """
    from derain_engine.kernels.launch import LaunchConfig

    return lambda tile_h, tile_w, block_k=64: LaunchConfig(tile_h, tile_w, block_k) if INTERPRETED else None


@pytest.fixture(scope="session")
def assert_bounded() -> Bound:
    """Return a check that a result is as near to the reference in fp32 as PyTorch's operators come in its precision."""

    def assert_bounded(found: Tensor, exact: Tensor, plain: Tensor) -> None:
        """Compare with the reference in fp32, and with that in the precision of ``found`` from the same arguments."""
        assert (found.shape, found.dtype) == (exact.shape, plain.dtype)
        if found.dtype == torch.float32:
            allowed = 1e-5 * exact.abs().max().clamp(min=1)
        else:
            rounding = torch.finfo(found.dtype).eps / 2 * exact.abs()
            allowed = 2 * (plain.float() - exact).abs().max() + rounding
        excess = (found.cpu().float() - exact).abs() - allowed
        beyond = ~(excess <= 0)  # NaN is beyond
        assert not beyond.any(), f"{beyond.sum()} of {beyond.numel()} values, by at most {excess.max():g}"

    return assert_bounded


class Memory:
    """A copy of the memory that some tensors share, between guards. Guards are NaN in every floating-point type."""

    def __init__(self, tensor: Tensor) -> None:
        size = tensor.untyped_storage().nbytes() // tensor.itemsize
        self.original = tensor.as_strided((size,), (1,), 0)
        self.guard = GUARD // tensor.itemsize
        self.copy = tensor.new_empty(size + 2 * self.guard)
        self.copy.view(torch.uint8).fill_(255)
        self.copy[self.guard : -self.guard] = self.original
        self.writable = torch.zeros_like(self.copy, dtype=torch.bool)

    def place(self, tensor: Tensor, elements: Tensor | None = None) -> Tensor:
        """Return what stands for the tensor in the copy."""
        elements = self.copy if elements is None else elements
        return elements.as_strided(tensor.shape, tensor.stride(), self.guard + tensor.storage_offset())

    def bits(self) -> Tensor:
        """Return the bytes that may not be written."""
        return self.copy.view(torch.uint8).view(-1, self.copy.itemsize)[~self.writable].clone()


@pytest.fixture(autouse=True)
def guarded_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every kernel on guarded copies of its maps, with NaN in its outputs, and find what it writes elsewhere."""
    from derain_engine.kernels.record import Kernel

    launch = Kernel.launch

    def guarded_launch(kernel: Kernel, call: Any, pointers: Sequence[Tensor], sizes: Sequence[int]) -> None:
        memories: dict[int, Memory] = {}
        places = [
            memories.setdefault(tensor.untyped_storage().data_ptr(), Memory(tensor)) for tensor in pointers
        ]
        for name, tensor, memory in zip(kernel.form.pointers, pointers, places, strict=True):
            if name in kernel.form.writes | kernel.form.scratch:
                memory.place(tensor, memory.writable).fill_(True)
                # The first map is read by every kernel; a launcher may let it be written to in place.
                if name not in kernel.form.reads and memory is not places[0]:
                    memory.place(tensor).fill_(torch.nan if tensor.is_floating_point() else 255)
        before = {at: memory.bits() for at, memory in memories.items()}
        copies = [memory.place(tensor) for tensor, memory in zip(pointers, places, strict=True)]
        launch(kernel, call, copies, sizes)
        for at, memory in memories.items():
            changed = (memory.bits() != before[at]).any(1)
            assert not changed.any(), f"{call.kernel} wrote {changed.sum()} values outside its output"
            memory.original.copy_(memory.copy[memory.guard : -memory.guard])

    monkeypatch.setattr(Kernel, "launch", guarded_launch)


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Triton's interpreter compute with bfloat16 as GPUs do: it holds them as 16-bit integers, which it
    multiplies as such in matrix products, and it cuts fp32 off where hardware rounds. Leaves out its checks for
    overflow, a sixth of its time, which change nothing unless a kernel is debugged."""
    if not INTERPRETED:
        return
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    dot, cast = builder.create_dot, builder.cast_impl

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (cast(self, operand, tl.float32) for operand in (a, b))
        return dot(self, a, b, *rest)

    def cast_impl(self: Any, source: Any, kind: Any) -> Any:
        if source.dtype.scalar == tl.float32 and kind.scalar == tl.bfloat16:
            rounded = torch.tensor(source.data).bfloat16().view(torch.uint16)
            return interpreter.TensorHandle(rounded.numpy(), tl.bfloat16)
        return cast(self, source, kind)

    monkeypatch.setattr(builder, "create_dot", create_dot)
    monkeypatch.setattr(builder, "cast_impl", cast_impl)
    options = replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
    monkeypatch.setattr(interpreter.interpreter_builder, "options", options)

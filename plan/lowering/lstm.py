"""A step of a network's LSTM as one launch: its four gates and the update of the cell."""

from __future__ import annotations

from torch import Tensor, nn

from ...kernels import recurrent
from ..assembly import Assembly, parameters_of
from ..memory import DTYPES
from ..program import GRANULARITY, View


def lower_lstm(
    assembly: Assembly, name: str, gates: dict[str, nn.Module], x: View, hidden: View | None, cell: View
) -> View:
    """Put in a step, and return the new hidden state. gates: the convolution of each, by its letter."""
    width = assembly.buffers[cell.buffer].channels

    def pack() -> dict[str, Tensor]:
        pairs = {gate: parameters_of(module) for gate, module in gates.items()}
        weights, biases = ({gate: pair[i] for gate, pair in pairs.items()} for i in (0, 1))
        return recurrent.pack_gates(weights, biases, DTYPES[assembly.dtype])

    start = hidden is None
    out = assembly.buffer("hidden", 0, width)
    call = recurrent.lstm_call(width, assembly.configure(recurrent.LSTM.name, width, 0), start)
    stored = [assembly.weight("gates", pack, each) for each in ("weights", "bias")]
    read, columns = (width, 3 * width) if start else (2 * width, 4 * width)
    flops = recurrent.flops(GRANULARITY, GRANULARITY, read, columns)
    moved = (3 if start else 5) * width * GRANULARITY**2
    assembly.step(f"{name}.lstm", call, [x, hidden or x, *stored, cell, out], 0, (4, 5), flops, moved)
    return out

"""Exports of a model file to ONNX, for other tools."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..base.errors import InputError
from ..base.extras import importing
from ..base.files import atomic_write
from ..base.progress import Progress, no_progress
from ..models.checkpoint import load_checkpoint
from ..models.loading import find_model
from ..models.spec import ColourChoice


@dataclass(frozen=True)
class OnnxFile:
    """A network that was written as ONNX.

    path, size (bytes): the file. parameters: distinct numbers in the network's weights, those that no output
    depends on included. opset: of ONNX. input, outputs: names. max_abs: largest absolute error of ONNX Runtime
    against the fp32 reference network. granularity, smallest_side: the sides that the model takes are multiples of
    the former and at least the latter, in pixels."""

    path: Path
    size: int
    parameters: int
    opset: int
    input: str
    outputs: tuple[str, ...]
    max_abs: float
    granularity: int
    smallest_side: int


def export_model(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    outputs: Sequence[str] = ("clean",),
    colour_order: ColourChoice = "auto",
    options: Mapping[str, Any] | None = None,
    arch: str | None = None,
    purpose: Literal["vapoursynth"] | None = None,
    progress: Progress = no_progress,
) -> OnnxFile:
    """Write a network as one ONNX file (``export.onnx`` says what is in it), checked with ONNX Runtime first.

    Args:
        model: a weights file, or the name of shipped weights; an existing file goes first.
        outputs: some of ``clean``, ``rain`` and ``code``.
        colour_order, options, arch: as for ``load_checkpoint``.
        purpose: a program that the file is made ready for (``export.vapoursynth``).
        progress: told every stage and how much of it is done.

    Raises:
        InputError: no such model or output, or a place that cannot be written.
        CheckpointError: the model cannot be read. BuildError: it cannot be exported, or ONNX Runtime gives
            something else from it.
        BackendUnavailable: PyTorch, ONNX or ONNX Runtime is not installed.
    """
    if purpose is not None and tuple(outputs) != ("clean",):
        raise InputError("VapourSynth's filters take the clean picture alone; leave out --output.")
    path, _ = find_model(model)
    output = Path(output)
    if output.exists() and output.samefile(path):
        raise InputError(f"{output} is the model itself; choose another name for the ONNX file.")
    # Opened first, so that a place that cannot be written costs no work.
    with atomic_write(output) as temporary:
        progress("loading the model", 0.0)
        checkpoint = load_checkpoint(path, colour_order=colour_order, options=options, arch=arch)
        with importing("Exporting needs {}, which is not installed: pip install 'derain-engine[build]'."):
            from ..export.onnx import OPSET, check_onnx, export_onnx
        exported = export_onnx(checkpoint.network, checkpoint.spec, outputs=outputs, progress=progress)
        progress("comparing ONNX Runtime with the network", 0.0)
        max_abs = check_onnx(exported, checkpoint.network, checkpoint.spec)
        if purpose is not None:
            from ..export.vapoursynth import for_vapoursynth

            exported = for_vapoursynth(exported)
        temporary.write_bytes(exported.SerializeToString())
    return OnnxFile(
        path=output,
        size=output.stat().st_size,
        parameters=sum(p.numel() for p in checkpoint.network.parameters()),
        opset=OPSET,
        input=exported.graph.input[0].name,
        outputs=tuple(output.name for output in exported.graph.output),
        max_abs=max_abs,
        granularity=checkpoint.spec.granularity,
        smallest_side=checkpoint.spec.smallest_side,
    )

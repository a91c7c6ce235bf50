"""``build``, ``inspect``, ``verify`` and ``unpack``: engine files made, looked at, checked and taken apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..base.sizes import words
from ..engine.options import BuildOptions
from .options import with_options
from .progress import progress_bar
from .terminal import file_size, say, say_json, say_lines, show_table
from .values import Sides, Trust, sized
from .verbs import add_verb

if TYPE_CHECKING:
    from ..engine.build import BuildReport
    from ..engine.manifest import Manifest
    from ..engine.verify import Report

_BUILD_EXAMPLES = """
derain-engine build -o sid-lite.derain
derain-engine build model.pt -o model.derain --precision fp32
derain-engine build model.pt -o model.derain --option pyramid=maxpool
derain-engine build net_latest.pth -o prenet.derain --option stages=7
derain-engine build theirs.onnx -o theirs.derain --range 0..255 --colour-order bgr
derain-engine build model.pt -o vga.derain --shape 480x640
derain-engine build model.pt -o gpu.derain --backend fused --gpu sm_80,sm_90
derain-engine build model.pt -o rtx.derain --backend tensorrt-rtx --opt 720x1280 --max 1088x1920
"""
_INSPECT_EXAMPLES = """
derain-engine inspect model.derain
derain-engine inspect model.pt --json
derain-engine inspect sid-lite --steps --size 1080x1920
"""
_VERIFY_EXAMPLES = """
derain-engine verify sid-lite.derain
derain-engine verify model.derain model.pt
"""
_UNPACK_EXAMPLES = """
derain-engine unpack model.derain -o model-files
"""

_NOT_COMPILED = "no GPU yet; where it is opened Triton compiles it, or build with --gpu"
_STEPS_SIZE = (512, 512)
#: Nodes that a report card names.
_NAMED = 4
_MODEL = "A model file, or the name of shipped weights; a file of that name goes first."


def register(app: typer.Typer) -> None:
    add_verb(app, "build", _build, _BUILD_EXAMPLES)
    add_verb(app, "inspect", _inspect, _INSPECT_EXAMPLES)
    add_verb(app, "verify", _verify, _VERIFY_EXAMPLES)
    add_verb(app, "unpack", _unpack, _UNPACK_EXAMPLES)


@with_options(options=BuildOptions)
def _build(
    output: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The engine file to write.")],
    options: BuildOptions,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL)] = "sid-lite",
) -> None:
    """Build an engine file from a trained network.

    The engine is compared with the network in fp32 on rainy pictures; one that is not close enough is not
    written (exit code 4).
    """
    from ..engine.build import build

    with progress_bar() as progress:
        report = build(model, output, options, progress=progress)
    show_table(_card(report))


def _inspect(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="An engine file, a model file or the name of shipped weights."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    steps: Annotated[
        bool,
        typer.Option(
            "--steps", help="Show the launches of the fused backend instead: work, traffic, programs, tiles."
        ),
    ] = False,
    size: Annotated[Sides | None, sized("Of the picture that --steps is for; 512x512 unless given.")] = None,
) -> None:
    """Show what is in an engine file or a model file."""
    from ..engine.inspect import describe, describe_steps

    if steps and as_json:
        raise typer.BadParameter("--steps and --json exclude each other.")
    if size is not None and not steps:
        raise typer.BadParameter("--size belongs to --steps.")
    if steps:
        say_lines(describe_steps(file, *(size or _STEPS_SIZE)))
        return
    facts = describe(file)
    if as_json:
        say_json(facts)
    else:
        show_table(_flat(facts))


def _verify(
    engine: Annotated[str, typer.Argument(metavar="ENGINE", help="An engine file.")],
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="The model that it was built from; by default the shipped weights that it names.",
        ),
    ] = None,
    trust: Trust = None,
) -> None:
    """Compare an engine file with its network, on this machine.

    A difference beyond the bounds of its precision ends with exit code 4.
    """
    from ..engine.build import verify_engine
    from ..engine.verify import check

    with progress_bar() as progress:
        report = verify_engine(engine, model, trust=trust or (), progress=progress)
    show_table([("Engine", engine), ("Precision", report.precision), *_figures(report)])
    check(report, engine)


def _unpack(
    engine: Annotated[str, typer.Argument(metavar="ENGINE", help="An engine file.")],
    output: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="A new or empty folder for the files.")
    ],
) -> None:
    """Take an engine file apart into plain files."""
    from ..engine.bundle import unpack_bundle

    for path in unpack_bundle(engine, output):
        say(path)


def _card(report: BuildReport) -> Iterator[tuple[str, Any]]:
    from ..engine import backends

    manifest = report.manifest
    yield "Engine", report.path
    yield "Network", f"{manifest.source} ({manifest.architecture})"
    yield from ((f"  {name}", _text(value)) for name, value in manifest.config.items())
    yield "Parameters", f"{report.parameters:,}"
    yield "File size", file_size(report.size)
    yield "Backend", f"{manifest.backend} {manifest.backend_version}"
    yield "Precision", manifest.precision
    if report.passed_over is not None:
        yield "Passed over", report.passed_over.partition(". ")[0]
    if backends.get(manifest.backend).on_gpu:
        yield "Compiled for", ", ".join(manifest.gpus) or _NOT_COMPILED
    yield from _frames(manifest)
    yield from _made(manifest.verification)
    yield from _figures(report.verification)
    height, width = report.timed_size
    if report.warm_ms is None:
        yield "Warm frame", "not timed: this machine cannot run the engine"
    else:
        yield "Warm frame", f"{report.warm_ms:.3g} ms at {height}x{width}"
    yield "Built in", f"{report.seconds:.1f} s"


def _frames(manifest: Manifest) -> Iterator[tuple[str, str]]:
    sizes = manifest.sizes
    if sizes.most is None:
        return
    # Smaller tiles could not overlap.
    larger = "in tiles" if min(sizes.most) >= manifest.least_tile else "are refused"
    fastest = ", ".join(map(words, sizes.usual))
    taken = "alone" if sizes.fixed else f"to {words(sizes.most)}, fastest at {fastest}"
    yield "Frames", f"{words(sizes.least)} {taken}; larger ones {larger}"


def _made(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what there is to tell of a graph that was typed node by node, or quantised."""
    if kept := facts.get("kept_in_16_bits"):
        yield "Kept in 16 bits", f"{len(kept)} maps: {_some(kept)}"
    if "nodes" not in facts:
        return
    layers = facts["multiplying_layers"]
    yield "Layers that multiply", ", ".join(f"{count} in {kind}" for kind, count in layers.items())
    if kept := facts["kept_in_fp32"]:
        yield "Kept in fp32", f"{len(kept)} of {facts['nodes']} nodes: {_some(kept)}"
    if repair := facts.get("repair"):
        before = repair["psnr_db_before"]
        without = "NaN or infinity" if before is None else f"{before:.1f} dB"
        yield "Repaired", f"{_some(repair['nodes'])} would give {without} in fp16"
    if saturated := facts["saturated_weights"]:
        values = sum(saturated.values())
        yield "Saturated", f"{values} weights beyond fp16's range, now 65504: {_some(list(saturated))}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _figures(report: Report) -> Iterator[tuple[str, str]]:
    psnr = "equal" if math.isinf(report.psnr) else f"{report.psnr:.1f} dB"
    yield "PSNR to fp32 reference", psnr
    if report.cost is not None:
        lost = f"{report.cost.psnr_loss:.2f} dB, {report.cost.ssim_loss:.4f} SSIM"
        yield "Lost against the truth", lost if report.cost.derains else "(the network takes no rain out)"
    yield "Largest error", f"{report.max_abs:.1e}"
    yield "Largest 8-bit error", f"{report.uint8_levels} of 255"
    if report.emulated:
        yield "Compared", "on the CPU, without the engine's GPU code"
    for missed in report.missed():
        yield "Missed", missed


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "-"
    if isinstance(value, Mapping) or value is None or value == "":
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)

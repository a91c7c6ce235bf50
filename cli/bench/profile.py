"""The verb ``bench profile``: the most expensive steps."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..progress import progress_bar
from ..tables import show_columns
from ..terminal import say, show_table
from ..values import Sides, frame_size
from .output import AsJson, command_line

if TYPE_CHECKING:
    from ...bench.profile import Profile, ProfiledStep

EXAMPLES = """Examples:

\b
derain-engine bench profile sid-lite
derain-engine bench profile model.derain --size 1080x1920 --top 20
derain-engine bench profile sid --plan
"""
_SIZE = Sides(512, 512)


def bench_profile(
    engine: Annotated[
        str,
        typer.Argument(
            metavar="ENGINE", help="An engine file of openvino or fused, or the name of shipped weights."
        ),
    ],
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="ENGINE is a model file, shipped weights or a preset: the fused plan it becomes in fp16.",
        ),
    ] = False,
    size: Annotated[
        Sides | None,
        typer.Option(
            parser=frame_size, metavar="HxW", help="Of the frame in pixels.", show_default="512x512"
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Steps to show.")] = 10,
    runs: Annotated[int, typer.Option(min=1, help="Frames; times are their medians.")] = 10,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="all")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the steps of a frame that cost most.

    Of an OpenVINO engine they are timed by its performance counters. The launches of a fused engine are listed by
    their operations; what they take on a GPU is measured by 'bench kernels'.
    """
    from ...bench import profile
    from ...engine.shipped import find_engine

    if plan:
        found = profile.profile_model(engine, size or _SIZE)
    else:
        with progress_bar() as progress:
            path: Path = find_engine(engine, progress=progress)
            found = profile.profile_engine(path, size or _SIZE, runs=runs, threads=threads, progress=progress)
    if as_json:
        about = {key: value for key, value in asdict(found).items() if key not in ("steps", "ms")}
        about |= {"frame_ms": found.ms, "command": command_line()}
        say(json.dumps([{**asdict(step), **about} for step in found.steps[:top]], allow_nan=False))
    else:
        _show(found, top, profile.by_kind(found.steps))


def _show(found: Profile, top: int, kinds: dict[str, float]) -> None:
    shown = found.steps[:top]
    show_columns(
        ["Step", "Kind", "ms", "Share", "GFLOP", "MB", "FLOP/B"],
        [_cells(step) for step in shown],
        summary=[
            [
                f"these {len(shown)} of {len(found.steps)}",
                *[""] * 2,
                f"{sum(s.share for s in shown):.1%}",
                *[""] * 3,
            ]
        ],
    )
    show_columns(["All of a kind", "Share"], [[kind, f"{share:.1%}"] for kind, share in kinds.items()])
    facts = [
        ("Engine", found.subject),
        ("Runs in", f"{found.backend} {found.precision}"),
        ("Frame", f"{found.height}x{found.width}"),
        ("Device", found.device),
        ("Threads", found.threads),
        ("Runs", found.runs),
        ("Sum of the steps", None if found.ms is None else f"{found.ms:.1f} ms"),
        ("Command", command_line()),
    ]
    show_table([(name, value) for name, value in facts if value is not None])


def _cells(step: ProfiledStep) -> list[str]:
    intensity = "" if not step.gflop or not step.mb else f"{1000 * step.gflop / step.mb:.0f}"
    return [
        step.name,
        step.kind,
        "" if step.ms is None else f"{step.ms:.3f}",
        f"{step.share:.1%}",
        "" if step.gflop is None else f"{step.gflop:.2f}",
        "" if step.mb is None else f"{step.mb:.1f}",
        intensity,
    ]

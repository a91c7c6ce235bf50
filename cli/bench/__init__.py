"""The verbs of ``bench``: how fast engines, kernels, builds and video are."""

from __future__ import annotations

import typer

from ..verbs import add_group, add_verb
from . import builds, cpu, engine, kernels, page, profile, table3, video


def register(app: typer.Typer) -> None:
    group = add_group(app, "bench", "Measure speed.")
    add_verb(group, "engine", engine.bench_engine, engine.EXAMPLES)
    add_verb(group, "kernels", kernels.bench_kernels, kernels.EXAMPLES)
    add_verb(group, "builds", builds.bench_builds, builds.EXAMPLES)
    add_verb(group, "table3", table3.bench_table3, table3.EXAMPLES)
    add_verb(group, "cpu", cpu.bench_cpu, cpu.EXAMPLES)
    add_verb(group, "profile", profile.bench_profile, profile.EXAMPLES)
    add_verb(group, "video", video.bench_video, video.EXAMPLES)
    add_verb(group, "page", page.bench_page, page.EXAMPLES)

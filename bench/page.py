"""The page of results: Markdown and plots made from saved JSON, never by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from ..base.files import atomic_write
from . import builds, published, video
from .plots import plot_all
from .results import Benchmark, Measurement, as_columns, as_markdown, markdown_table

_HEAD = """# Benchmarks

<!-- Made by `derain-engine bench page`; change the results or bench/page.py, not this file. -->

Every table of speeds below is one run, in which all contestants took turns frame by frame; ratios mean something only
within one table. *Noise* is the difference between the medians of the first and the second half of a row's frames,
and marks a row above 10 %. *Speed-up* is against PyTorch eager in fp32, or the first row where that did not run.
*Verified* says whether the output lay within the bounds around the fp32 reference in the same run, and its PSNR to
that. *Of matmul* is the fraction of a large matrix product's rate in the same precision, measured in the same run.
"""
_NOTHING = """## Measured

No speeds of engines are kept with this version. `derain-engine bench table3 --json > FILE` makes some.
"""


def make_page(results: Sequence[Path], page: Path) -> list[Path]:
    """Write the page, and the plots beside it in a folder of its name.

    Args:
        results: files that ``bench engine``, ``table3``, ``cpu``, ``builds`` or ``video`` gave with ``--json``, one run
            each.

    Returns:
        All written files, the page last.

    Raises:
        InputError: a file cannot be read or does not hold that, or two have the same name.
        BackendUnavailable: matplotlib is not installed.
    """
    stems = [file.stem for file in results]
    for stem in stems:
        if stems.count(stem) > 1:
            raise InputError(f"Two results are called {stem}; their plots would be one file. Rename one.")
    read = [_read(file) for file in results]
    written: list[Path] = []
    sections = [_HEAD, _published()]
    folder = page.with_suffix("")
    for stem, result in zip(stems, read, strict=True):
        if isinstance(result, video.VideoBenchmark):
            text = _of_video(result)
        elif isinstance(result, builds.Builds):
            text = _of_builds(result)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            plots = plot_all(result, folder, f"{stem}-")
            images = "\n".join(f"![{title}]({folder.name}/{plot.name})" for title, plot in plots.items())
            text = f"{as_markdown(result)}\n{images}\n"
            written += plots.values()
        sections.append(f"## {stem}\n\n{text}")
    if not any(isinstance(result, Benchmark) for result in read):
        sections.append(_NOTHING)
    with atomic_write(page) as temporary:
        temporary.write_text("\n".join(sections), encoding="utf-8")
    return [*written, page]


def _read(file: Path) -> Benchmark | builds.Builds | video.VideoBenchmark:
    try:
        text = file.read_bytes()
        record = json.loads(text)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}.") from error
    if not isinstance(record, dict):
        return Benchmark.from_json(text, str(file))
    kind = "video" if record.get("kind") == "video" else "builds"
    try:
        if kind == "video":
            return video.VideoBenchmark.from_json(record)
        rows = tuple(builds.EngineBuild(**{**row, "gpus": tuple(row["gpus"])}) for row in record["rows"])
        return builds.Builds(rows, record["environment"], record["command"], record["date"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{file} does not hold what 'bench {kind} --json' of this version prints."
        ) from error


def _published() -> str:
    notes = "".join(f"- {note}\n" for note in published.notes())
    table = markdown_table(*as_columns(published.cells()))
    return f"## Tables III and IV of the SSID-KD paper\n\n{table}\n{notes}"


def _of_video(found: video.VideoBenchmark) -> str:
    """Write frames a second, and where the time goes."""
    return (
        f"{markdown_table(*as_columns(video.cells(found)))}\n"
        "- Frames/s: median of the runs, of the whole video. Cores: CPU seconds in a second. The stages: milliseconds "
        "of work for a frame; they overlap, and waiting at a pipe counts as work.\n"
        f"- Runs: {found.rows[0].runs}, of {', '.join(str(row.frames) for row in found.rows)} frames\n"
        f"{_run(found)}"
    )


def _of_builds(found: builds.Builds) -> str:
    """Write the seconds from a network to an engine of TensorRT, and what comes out."""
    heads = ("Network", "Frames", "Precision", "Export s", "Plan s", "Graph MB", "Plan MB", "Peak memory MB")
    rows = [
        [
            row.name,
            row.takes,
            row.precision,
            f"{row.export_s:.1f}",
            f"{row.plan_s:.1f}",
            f"{row.graph_bytes / 1e6:.1f}",
            f"{row.plan_bytes / 1e6:.1f}",
            "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}",
        ]
        for row in found.rows
    ]
    first = found.rows[0]
    return (
        f"{markdown_table(heads, rows)}\n"
        f"- Built with: {first.backend} {first.backend_version}, for {', '.join(first.gpus) or 'the GPU at hand'}\n"
        f"{_run(found)}"
    )


def _run(found: Measurement[Any]) -> str:
    cpu = found.environment["cpu"]
    return (
        f"- Device: {cpu['model']}, {cpu['threads']} threads\n"
        f"- derain-engine: {found.environment['derain_engine']}\n"
        f"- Date: {found.date}\n"
        f"- Command: `{found.command}`\n"
    )

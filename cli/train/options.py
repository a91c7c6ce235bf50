"""Options that the verbs of ``train`` share; they go before the settings of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Config = Annotated[
    Path | None,
    typer.Option(
        metavar="TOML",
        help="Settings of the run; options go before them. Paths in it are relative to it.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder for best.safetensors, final.safetensors, last.pt, log.csv, run.toml and samples; made if missing.",
    ),
]
Photos = Annotated[
    Path | None, typer.Option(help="Folder of clean photographs, searched with its subfolders.")
]
Exclude = Annotated[
    Path | None,
    typer.Option(
        metavar="CSV",
        help="Table of photographs to leave out: file names in its first column, relative to the table.",
    ),
]
Pairs = Annotated[
    Path | None,
    typer.Option(
        help="Folder of rainy and clean pictures, laid out as Rain100, Rain200, Rain1200, Rain1400 or SPA are, or a "
        "list of them."
    ),
]
Start = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="FILE|NAME", help="Weights to begin with, also shipped ones; random ones without."
    ),
]
Accumulate = Annotated[
    int | None,
    typer.Option(min=1, help="Parts that a batch is computed in, for less memory.", show_default="1"),
]
ValidationPhotos = Annotated[
    int | None,
    typer.Option(
        min=1, help="Photographs or pairs kept apart to choose the best weights by.", show_default="16"
    ),
]
ValidateEvery = Annotated[
    int | None,
    typer.Option(min=1, help="Steps between validations; the state is saved then.", show_default="1000"),
]
SamplesEvery = Annotated[
    int | None,
    typer.Option(min=0, help="Steps between pictures of samples; 0 for none.", show_default="1000"),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Of weights, patches and rain.", show_default="66")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"] | None,
    typer.Option(help="auto takes bf16 where the device computes in it.", show_default="auto"),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"] | None,
    typer.Option(help="auto takes a CUDA GPU where there is one.", show_default="auto"),
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Put the network's blocks through torch.compile; the start is slower."),
]
Workers = Annotated[int | None, typer.Option(min=0, help="Processes that prepare patches.", show_default="1")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of the network.", show_default="all cores")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last saved state in the output folder.")
]
StopAfter = Annotated[
    float | None,
    typer.Option(min=0, metavar="SECONDS", help="Save and leave after these; --resume goes on."),
]

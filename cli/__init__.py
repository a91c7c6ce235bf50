"""The command line: parsing of arguments and printing, nothing else."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the console script ``derain-engine``."""
    from .app import run

    sys.exit(run(sys.argv[1:]))

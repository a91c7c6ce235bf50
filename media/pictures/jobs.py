"""Jobs, which say what input becomes what output: files, folders and patterns in, a file or a folder out.

Everything that can be refused is refused here, before work starts; nothing is created.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...base.errors import InputError
from .images import SUFFIXES, format_of

_KNOWN = ", ".join(SUFFIXES)


@dataclass(frozen=True)
class Job:
    """One picture to read and the place for its result, whose folder may still have to be made."""

    input: Path
    output: Path


def find_pictures(inputs: Sequence[str | Path], output: str | Path) -> list[Job]:
    """Pair every picture that ``inputs`` name with the file its result goes to.

    An input is a file (whatever its name), a folder (the pictures in it by their suffix, without subfolders
    and hidden files, sorted), or a pattern with ``*``, ``?``, ``[...]`` or ``**`` that the shell has left
    alone; a file that exists under exactly that name comes first. A file named twice is taken once.

    One file and an ``output`` that is no folder: the result is that file, its folder must exist. Otherwise
    ``output`` is a folder, which may not exist yet, and names are kept.

    Args:
        inputs: at least one.
        output: a file or a folder; an ending "/" says folder.

    Raises:
        InputError: nothing found for an input, several pictures for one file, two pictures for one output
            name (upper and lower case count as the same, as some disks do), an output that is one of the
            inputs under any name, a suffix that cannot be written, or a place that cannot be written to.
    """
    try:
        return _find_pictures(inputs, output)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be looked at: {error.strerror}.") from error


def _find_pictures(inputs: Sequence[str | Path], output: str | Path) -> list[Job]:
    found = list({os.path.abspath(path): path for argument in inputs for path in _expand(argument)}.values())
    if not found:
        raise InputError("No picture was named; give files, folders or patterns.")
    target = Path(output)
    to_folder = target.is_dir() or str(output).endswith(("/", os.sep))
    if not to_folder and len(found) == 1 and not any(Path(argument).is_dir() for argument in inputs):
        if target.suffix == "":
            raise InputError(
                f"{target} is not a folder and has no suffix; end it in {_KNOWN}, or in / for a folder."
            )
        jobs = [Job(found[0], target)]
        folder_to_be = target.parent
        if not folder_to_be.is_dir():
            raise InputError(
                f"{target} cannot be written: the folder {folder_to_be} does not exist; create it first."
            )
    else:
        if not to_folder and (target.exists() or target.suffix.lower() in SUFFIXES):
            raise InputError(f"{len(found)} pictures cannot go into the one file {target}; name a folder.")
        jobs = [Job(path, target / path.name) for path in found]
        folder_to_be = target
    for job in jobs:
        format_of(job.output)
    _check_names(jobs)
    _check_not_inputs(jobs)
    _check_writable(folder_to_be)
    return jobs


def _expand(argument: str | Path) -> Iterator[Path]:
    path = Path(argument)
    if path.is_dir():
        pictures = sorted(
            entry
            for entry in path.iterdir()
            if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".") and entry.is_file()
        )
        if not pictures:
            raise InputError(f"{path} has no pictures in it; pictures end in {_KNOWN}.")
        yield from pictures
    elif path.exists():
        yield path
    elif glob.has_magic(str(argument)):
        # A folder matched by "*" is passed over: whoever means it names it.
        matches = [Path(name) for name in sorted(glob.glob(str(argument), recursive=True))]
        files = [match for match in matches if match.is_file()]
        if not files:
            raise InputError(f"No file matches {argument}.")
        yield from files
    else:
        raise InputError(f"{path} does not exist.")


def _check_names(jobs: list[Job]) -> None:
    taken: dict[str, Path] = {}
    for job in jobs:
        other = taken.setdefault(str(job.output).casefold(), job.input)
        if other is not job.input:
            raise InputError(
                f"{other} and {job.input} would both be written to {job.output}; run them apart."
            )


def _check_not_inputs(jobs: list[Job]) -> None:
    # By device and inode, so that symbolic and hard links and spellings of one name do not hide an input.
    inputs = {(status.st_dev, status.st_ino): job.input for job in jobs for status in [job.input.stat()]}
    for job in jobs:
        if job.output.exists():
            status = job.output.stat()
            same = inputs.get((status.st_dev, status.st_ino))
            if same is not None:
                raise InputError(f"{job.output} is the input {same}; write to another name or folder.")


def _check_writable(folder: Path) -> None:
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder; name another output.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"The folder {folder} cannot be written to; name another output or change its permissions."
        )

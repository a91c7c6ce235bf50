"""Engine files of the shipped weights, built once for this machine and kept in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from ..base import files
from ..base.errors import BundleError, InputError
from ..base.progress import Progress, no_progress
from ..base.version import __version__
from ..models import weights
from . import backends, build, environment
from .bundle import open_bundle


def find_engine(
    engine: str | os.PathLike[str],
    *,
    progress: Progress = no_progress,
    building: Callable[[str, Path], None] = lambda name, path: None,
) -> Path:
    """Find the engine file that ``engine`` means: a file, or the name of shipped weights where no file has it.

    The engine of shipped weights is built at its first use on a machine, with the backend and the precision
    that are best there. Two processes that start at once may both build it; the file is whole at any time.

    Args:
        progress: as for :func:`build`.
        building: called with the name and the file before a build starts.

    Raises:
        InputError: there is neither; or the cache folder cannot be written.
        DerainError: as :func:`build`.
    """
    path, name = Path(engine), str(engine)
    model = weights.meant(engine)
    if model is None:
        if path.exists():
            return path
        known = ", ".join(weights.shipped_names()) or "none"
        raise InputError(f"{name} is neither an engine file nor the name of shipped weights ({known}).")
    advice = f"run `derain-engine build {name} -o {name}.derain` and give that file as the engine."
    try:
        kept = files.cache_dir("engines") / f"{name}-{_key(model)}.derain"
    except OSError as error:
        raise InputError(
            f"The cache folder {error.filename} cannot be written ({error.strerror}); {advice}"
        ) from error
    if not _is_sound(kept):
        try:
            files.require_writable(kept)
        except InputError as error:
            raise InputError(f"{str(error).rstrip('.')}; {advice}") from error
        building(name, kept)
        build.build(model, kept, progress=progress)
    return kept


def _key(model: Path) -> str:
    """Return a hash of everything that decides what a build gives, without importing what is slow to import; the
    precision follows from backend and CPU."""
    backend = backends.default_name()
    cpu = environment.cpu()
    facts = (
        hashlib.sha256(model.read_bytes()).hexdigest(),
        __version__,
        backend,
        # Backends are called as the distributions that they are made with.
        environment.installed_version(backend) or "",
        cpu["machine"],
        " ".join(cpu["features"]),
    )
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]


def _is_sound(path: Path) -> bool:
    """Tell whether there is an undamaged engine file; a damaged one in a cache is made anew."""
    with contextlib.suppress(BundleError), open_bundle(path):
        return True
    return False

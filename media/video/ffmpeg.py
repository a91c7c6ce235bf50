"""PyAV, through which FFmpeg is called: whether it is there, what it calls pixel formats, and how it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ...base.errors import BackendUnavailable, DerainError, InputError


def require_av() -> None:
    """Raise BackendUnavailable where PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise BackendUnavailable(
            "Video needs PyAV, which is not installed: pip install 'derain-engine[video]'."
        ) from error


def require_pixel_format(name: str) -> None:
    """Raise InputError where FFmpeg has no pixel format of that name."""
    import av

    try:
        av.VideoFormat(name)
    except ValueError as error:
        raise InputError(f"{name} is not a pixel format; name one such as yuv420p or yuv422p10le.") from error


@contextlib.contextmanager
def ffmpeg_errors(kind: type[DerainError], message: str, advice: str = "") -> Iterator[None]:
    """Raise what FFmpeg or the system refuse in the block as ``kind``.

    Args:
        message: a sentence. Where it has no full stop, it goes on with what FFmpeg says.
        advice: what follows that.
    """
    from av.error import FFmpegError

    try:
        yield
    except (FFmpegError, OSError, ValueError) as error:
        sentence = message if message.endswith(".") else f"{message}: {reason(error)}."
        raise kind(sentence + advice) from error


def reason(error: Exception) -> str:
    """Return what FFmpeg or the system say, without the file's name, which messages already have."""
    text: Any = getattr(error, "strerror", None)
    return str(text or error).strip().rstrip(".") or type(error).__name__


def close_quietly(container: Any) -> None:
    """Close a container whose content no longer matters."""
    from av.error import FFmpegError

    with contextlib.suppress(FFmpegError, OSError, ValueError):
        container.close()

"""The verbs together, and what the process answers: exit codes, and errors as one line on stderr."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from ..base.errors import DerainError
from ..base.files import disk_full
from ..base.version import __version__
from . import bench, build, environment, evaluate, export, kernels, train, video
from . import run as run_verb
from .terminal import LogToTerminal, note, say
from .verbs import add_verb

_PROGRAM = "derain-engine"
_INTERRUPTED = 130

_EXAMPLES = """Examples:

\b
derain-engine run rain.jpg -o clean.jpg
derain-engine build model.pt -o model.derain
derain-engine run photos/ -o clean/ -e model.derain
derain-engine run --help
"""


@dataclass
class Settings:
    """Settings that hold for every verb."""

    debug: bool = False


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"{_PROGRAM} {__version__}")
        raise typer.Exit()


def _top(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and leave.", callback=_show_version, is_eager=True),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")] = False,
) -> None:
    """Turn a trained deraining network into an engine file, and run that file on pictures and video."""
    context.ensure_object(Settings).debug = debug
    if context.invoked_subcommand is None:
        print(context.get_help())


def make_app() -> typer.Typer:
    """Return the program with all verbs."""
    app = typer.Typer(
        # Without markup a path such as [a].png is shown as it is, and help is plain text at any width.
        rich_markup_mode=None,
        add_completion=False,
        invoke_without_command=True,
        pretty_exceptions_enable=False,
    )
    app.callback(epilog=_EXAMPLES)(_top)
    build.register(app)
    add_verb(app, "run", run_verb.run, run_verb.EXAMPLES)
    add_verb(app, "video", video.video, video.EXAMPLES)
    add_verb(app, "eval", evaluate.evaluate, evaluate.EXAMPLES)
    add_verb(app, "export", export.export, export.EXAMPLES)
    for group in (train, bench, kernels):
        group.register(app)
    add_verb(app, "collect-env", environment.collect_env, environment.EXAMPLES)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return the exit code."""
    return answer(make_app(), arguments)


def answer(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run ``app`` and turn whatever happens into an exit code and, for errors, one line on stderr."""
    settings = Settings()
    logger = logging.getLogger(__package__.partition(".")[0] if __package__ else None)
    handler = LogToTerminal(logging.WARNING)
    logger.addHandler(handler)
    signals: list[int] = []
    try:
        with _ended_like_interrupted(signals):
            code = app(args=list(arguments), prog_name=_PROGRAM, standalone_mode=False, obj=settings) or 0
        return 128 + signals[0] if signals else code
    except KeyboardInterrupt:
        return 128 + signals[0] if signals else _INTERRUPTED
    except Exception as error:
        if settings.debug:
            traceback.print_exc()
        message, code = _explain(error)
        note(message)
        return code
    finally:
        logger.removeHandler(handler)


@contextlib.contextmanager
def _ended_like_interrupted(signals: list[int]) -> Iterator[None]:
    """Make a polite kill and a closed terminal leave as little behind as Ctrl-C does.

    Args:
        signals: gets the number.
    """

    def end(number: int, _: object) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # What is ignored, as below nohup, stays so.
    before = {
        number: signal.signal(number, end) for number in asked if signal.getsignal(number) == signal.SIG_DFL
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _explain(error: Exception) -> tuple[str, int]:
    """Return (line for the user, exit code)."""
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        path = context.command_path if context else _PROGRAM
        return f"{error.format_message()} See '{path} --help'.", 2
    full = disk_full(error)
    if isinstance(error, DerainError):
        return str(error), 1 if full else error.exit_code
    if full is not None:
        where = f" while {full.filename} was written" if full.filename else ""
        return f"The disk is full{where}; make room and try again. No half file is left.", 1
    if isinstance(error, MemoryError):
        return "There is not enough memory for this; try a smaller picture, or smaller tiles with --tile.", 1
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'A file'}: {error.strerror}.", 1
    told = f": {error}" if str(error) else ""
    return (
        f"Something unforeseen went wrong, {type(error).__name__}{told}. "
        f"For where it happened, put --debug before the verb: {_PROGRAM} --debug ...",
        1,
    )

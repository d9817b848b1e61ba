"""Notes, warnings and errors: one logger, shown on stderr and written to a log file if asked."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdre.words import one_line, strip_controls

LOG = logging.getLogger("clipdre")
PREFIXES = {logging.WARNING: "clipdre: warning: ", logging.ERROR: "clipdre: error: "}
PANEL = "Messages"


class _Stderr(logging.Handler):
    """Prints messages on the stderr of the moment, and progress where no bar shows it."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != LOG.name:  # loaded by then
            from clipdre.progress import shows_bars

            if shows_bars():
                return
        typer.echo(PREFIXES.get(record.levelno, "") + record.getMessage(), err=True)


STDERR = _Stderr(logging.INFO)


def install() -> None:
    """Send messages to stderr, and nowhere else."""
    LOG.handlers = [STDERR]
    LOG.filters = [_harmless]
    LOG.propagate = False
    LOG.setLevel(logging.DEBUG)
    STDERR.setLevel(logging.INFO)


def _harmless(record: logging.LogRecord) -> bool:
    """Make a message one line that steers no terminal: it may name a stranger's shard."""
    record.msg, record.args = strip_controls(record.getMessage()).replace("\n", " "), ()
    return True


def shows_notes() -> bool:
    """Whether notes are shown, not warnings and errors only."""
    return STDERR.level <= logging.INFO


def _be_quiet(context: typer.Context, quiet: bool) -> bool:
    if quiet:
        from clipdre.progress import BARS

        STDERR.setLevel(logging.WARNING)
        shown = BARS.set(False)
        context.find_root().call_on_close(lambda: BARS.reset(shown))
    return quiet


def _log_to(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        try:
            file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise typer.BadParameter(f"cannot write {path} ({one_line(error)})") from None
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOG.addHandler(file)
        context.find_root().call_on_close(file.close)
    return path


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        callback=_be_quiet,
        help="Print no progress and no notes: only warnings, errors and the result.",
        rich_help_panel=PANEL,
    ),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        callback=_log_to,
        help="Append messages, and a line of progress every 30 seconds, to this file.",
        metavar="FILE",
        rich_help_panel=PANEL,
    ),
]


def with_messages(command: Callable[..., None]) -> Callable[..., None]:
    """Return a long-running command with the options --quiet and --log-file."""
    return with_options(command, {"quiet": (Quiet, False), "log_file": (LogFile, None)})


def with_options(
    command: Callable[..., None], added: Mapping[str, tuple[Any, Any]]
) -> Callable[..., None]:
    """Return a command with more options, each a type with a default, whose callbacks do it all."""

    @functools.wraps(command)
    def run(*args: Any, **given: Any) -> None:
        for name in added:
            del given[name]
        command(*args, **given)

    signature = inspect.signature(command, eval_str=True)
    parameters = [
        *signature.parameters.values(),
        *(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
            )
            for name, (kind, default) in added.items()
        ),
    ]
    wrapped: Any = run
    wrapped.__signature__ = signature.replace(parameters=parameters)
    wrapped.__annotations__ = {each.name: each.annotation for each in parameters}
    return run

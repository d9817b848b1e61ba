"""Tables and notes: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import re
import sys
from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence
from io import RawIOBase
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipdre.cli.messages import LOG, shows_notes
from clipdre.errors import named
from clipdre.words import strip_controls

# Width of tables in a file or a pipe.
FILE_WIDTH = 100
# Parameters of the Python API whose option has another name.
ALIASES = {"shuffle_seed": "--shuffle"}
PARAMETER = re.compile(r"`([a-z_]+)`")


def note(message: str, *, stdout: bool = False) -> None:
    """Print one line: of a report on stdout, or about the run on stderr."""
    text = strip_controls(named(message))
    if stdout:
        _console(stderr=False).print(Text(text), soft_wrap=True)
    else:
        LOG.info(text)


def echo_json(value: object) -> None:
    """Print JSON on stdout; NaN and infinity, which it does not know, become null."""
    typer.echo(json.dumps(_finite(value), indent=2, allow_nan=False, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words: int = 1,
    stdout: bool = False,
) -> None:
    """Print a table whose first `words` columns hold text, and the others numbers."""
    if not stdout and not shows_notes():
        return
    drawn = Table(box=SIMPLE_HEAD, header_style="", pad_edge=False)
    for n, name in enumerate(header):
        drawn.add_column(name, justify="left" if n < words else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(strip_controls(cell)) for cell in row))
    console = _console(stderr=not stdout)
    console.print(Text(strip_controls(title), style="bold"), soft_wrap=True)
    console.print(drawn)


class TerminalWriter(RawIOBase):
    """A binary file that prints text on stdout, without what would steer the terminal."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")()

    def writable(self) -> bool:
        """Whether it can be written to."""
        return True

    def write(self, data: Any) -> int:
        """Print UTF-8, of which a character may be in parts."""
        data = bytes(data)
        sys.stdout.write(strip_controls(self._decoder.decode(data)))
        return len(data)


def as_options(message: str, command: Any) -> str:
    """Replace parameters in backticks by the options of `command`, or by plain flags if None."""
    names = {**ALIASES, **(dict(_options(command)) if command is not None else {})}
    return PARAMETER.sub(
        lambda found: names.get(found[1]) or f"--{found[1].replace('_', '-')}", message
    )


def given_options(context: typer.Context) -> dict[str, Any]:
    """Return the parameters that the user set in any way, even to their defaults."""
    source = context.get_parameter_source
    return {
        name: value
        for name, value in context.params.items()
        if (found := source(name)) is not None and found.name != "DEFAULT"
    }


def _options(command: Any) -> Iterator[tuple[str, str]]:
    for parameter in command.params:
        is_option = parameter.param_type_name == "option"
        yield parameter.name, max(parameter.opts, key=len) if is_option else parameter.name.upper()


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # Rich would exit with 1


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console

"""The `clipdre` command."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from clipdre import __version__
from clipdre.cli import (
    compare,
    demo,
    doctor,
    emit,
    export,
    info,
    look,
    measure,
    messages,
    recipes,
    reference,
    score,
    scorers,
    settings,
    signals,
)
from clipdre.cli import filter as filter_command
from clipdre.cli.common_options import with_scratch
from clipdre.cli.messages import with_messages
from clipdre.cli.usage import ParserError, help_text, paragraphs, parser_message
from clipdre.cpus import limit_threads
from clipdre.errors import ClipdreError, UsageError, named
from clipdre.words import one_line, strip_controls

USAGE = 2
# What a shell reports for programs whose reader, such as ``head``, had enough.
CLOSED_PIPE = 128 + signal.SIGPIPE
ORDER: list[str] = []
HELP = """Which image-text pairs are worth keeping?

clipdre scores the pairs of WebDataset shards with a CLIP or SigLIP model, and filters the shards by
the scores. Begin with 'clipdre score POOL -o SCORES'; 'clipdre info SCORES' shows what came of it,
and 'clipdre filter SCORES' writes the pairs that you keep. 'clipdre demo FOLDER' shows all of it on
drawn images.

Every option can also be set by a variable, such as CLIPDRE_SCORE_BATCH_SIZE=64 for the --batch-size
of 'clipdre score', or in a file that --config names.
"""


class Commands(settings.PlainHelp, TyperGroup):
    """All commands; anything a user can cause ends as one line on stderr, exit 1 or 2."""

    def main(self, *args: Any, standalone_mode: bool = True, **options: Any) -> Any:
        """Run the command line; show the parser's errors as our own, unless the caller does."""
        messages.install()
        options["standalone_mode"] = False
        if not standalone_mode:
            return super().main(*args, **options)
        try:
            code = super().main(*args, **options)
        except ParserError as error:
            if message := parser_message(error):
                messages.LOG.error(strip_controls(message))
            code = USAGE
        sys.exit(code)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the commands in the order in which they are added below."""
        return ORDER

    def invoke(self, ctx: Any) -> Any:
        """Run a command; show its errors and warnings in terms of its options."""
        from clipdre.cli.terminal import as_options

        def command() -> Any:
            return self.commands.get(ctx.invoked_subcommand or "")

        def shown(message: object) -> str:
            return strip_controls(as_options(named(str(message)), command())).replace("\n", " ")

        warnings.showwarning = lambda message, *_, **__: messages.LOG.warning(shown(message))
        settings.warn_of_variables(self)
        try:
            return super().invoke(ctx)
        except ClipdreError as error:
            messages.LOG.error(shown(error))
            raise typer.Exit(USAGE if isinstance(error, UsageError) else 1) from None
        except BrokenPipeError:
            _discard_stdout()
            raise typer.Exit(CLOSED_PIPE) from None
        except (OSError, MemoryError) as error:  # whatever else the machine refuses
            messages.LOG.error(shown(_refused(error)))
            raise typer.Exit(1) from None


def _refused(error: OSError | MemoryError) -> str:
    what = getattr(error, "filename", None) or "the system refuses"
    return f"{what}: {one_line(error)}"


app = typer.Typer(
    name="clipdre",
    cls=Commands,
    help=paragraphs(HELP),
    epilog="Example:  clipdre filter $(clipdre score pool -o s) --by log_ratio --top 30% -o kept",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": settings.PREFIX,
    },
)


def _add(name: str, command: Callable[..., None], example: str) -> None:
    app.command(name, cls=settings.Command, help=help_text(command), epilog=example)(command)
    ORDER.append(name)


_add("score", with_messages(with_scratch(score.score)), score.EXAMPLE)
_add("info", with_scratch(info.info), info.EXAMPLE)
_add("look", with_messages(with_scratch(look.look)), look.EXAMPLE)
_add("compare", with_scratch(compare.compare), compare.EXAMPLE)
_add("filter", with_messages(with_scratch(filter_command.filter_scores)), filter_command.EXAMPLE)
_add("recipes", recipes.recipes, recipes.EXAMPLE)
_add("emit", with_messages(with_scratch(emit.emit)), emit.EXAMPLE)
_add("export", with_scratch(export.export), export.EXAMPLE)
app.add_typer(measure.app)
ORDER.append("measure")
_add("scorers", scorers.scorers, scorers.EXAMPLE)
_add("doctor", with_messages(doctor.doctor), doctor.EXAMPLE)
_add("reference", with_scratch(reference.reference), reference.EXAMPLE)
_add("demo", demo.demo, demo.EXAMPLE)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"clipdre {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            callback=settings.use_file,
            is_eager=True,
            help='TOML file of options by command, such as score.model = "ViT-B-32". The command '
            "line comes first, then CLIPDRE_ variables, then this file.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    signals.install()
    limit_threads()
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # paths need not be UTF-8
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        sys.exit(CLOSED_PIPE)
    except (signals.Interrupted, Exception):
        if (number := signals.received()) is None:
            raise
        signals.announce()
        sys.exit(128 + number)


def _discard_stdout() -> None:
    """Make way for what is still buffered: the reader has all it wanted, such as ``head``."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""The `clipdre` command."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer

from clipdre import __version__
from clipdre.cli import signals
from clipdre.cli.demo import EXAMPLE as DEMO_EXAMPLE
from clipdre.cli.demo import demo
from clipdre.cli.doctor import EXAMPLE as DOCTOR_EXAMPLE
from clipdre.cli.doctor import doctor
from clipdre.cli.emit import EXAMPLE as EMIT_EXAMPLE
from clipdre.cli.emit import emit
from clipdre.cli.filter import EXAMPLE as FILTER_EXAMPLE
from clipdre.cli.filter import filter_scores
from clipdre.cli.recipes import EXAMPLE as RECIPES_EXAMPLE
from clipdre.cli.recipes import recipes
from clipdre.cli.reference import EXAMPLE as REFERENCE_EXAMPLE
from clipdre.cli.reference import reference
from clipdre.cli.score import EXAMPLE as SCORE_EXAMPLE
from clipdre.cli.score import score
from clipdre.cli.weigh import EXAMPLE as WEIGH_EXAMPLE
from clipdre.cli.weigh import weigh
from clipdre.errors import ClipdreError

app = typer.Typer(
    name="clipdre",
    help="Which image-text pairs are worth keeping? Scores WebDataset shards, filters them.",
    epilog="Example:  clipdre filter $(clipdre score pool -o s) --by log_ratio --top 30% -o kept",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("score", epilog=SCORE_EXAMPLE)(score)
app.command("filter", epilog=FILTER_EXAMPLE)(filter_scores)
app.command("recipes", epilog=RECIPES_EXAMPLE)(recipes)
app.command("emit", epilog=EMIT_EXAMPLE)(emit)
app.command("doctor", epilog=DOCTOR_EXAMPLE)(doctor)
app.command("reference", epilog=REFERENCE_EXAMPLE)(reference)
app.command("weigh", epilog=WEIGH_EXAMPLE)(weigh)
app.command("demo", epilog=DEMO_EXAMPLE)(demo)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"clipdre {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; whatever a user can cause is one line on stderr and exit 1."""
    signals.install()
    warnings.formatwarning = lambda message, *_, **__: f"clipdre: warning: {message}\n"
    try:
        app()
    except ClipdreError as error:
        from clipdre.cli.terminal import strip_controls

        typer.echo(f"clipdre: error: {strip_controls(str(error))}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # The reader has what it wanted; say nothing at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except signals.Interrupted as error:
        signals.say()
        sys.exit(128 + error.number)

"""`clipdre measure`: a subcommand for each scorer, with the scorer's settings as its options."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from clipdre.config import MeasureConfig

if TYPE_CHECKING:
    from clipdre.formats.folders.records import MeasureRecord
    from clipdre.scorers.base import Scorer

EXAMPLE = "Example:  clipdre measure scores prompt-weight --prompt 'a photo of food'"
Suffix = Annotated[
    str, typer.Option(help="Added to the columns' names, to keep several settings side by side.")
]
Device = Annotated[str, typer.Option(help="auto (all GPUs, else the cpu), cpu, cuda, cuda:1, ...")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace columns measured with other settings.")
]


class ScorerCommands(TyperGroup):
    """Subcommands that are made when they are asked for: loading scorers takes a moment."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the names of all scorers."""
        from clipdre.scorers.registry import scorers

        return list(scorers())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """Return the command of one scorer."""
        from clipdre.scorers.registry import find_scorer

        return scorer_command(find_scorer(cmd_name))


app = typer.Typer(
    name="measure",
    cls=ScorerCommands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    subcommand_metavar="SCORER [OPTIONS]",
    epilog=EXAMPLE,
)


@app.callback()
def measure(
    context: typer.Context,
    scores: Annotated[Path, typer.Argument(help="Score folder, as 'clipdre score' printed it.")],
) -> None:
    """Add columns to a score folder: a scorer over its captions, embeddings or samples.

    The columns can be used wherever those of 'clipdre score' can. A run that was stopped resumes
    when the same command is given again. Prints the folder of the columns.
    """
    context.obj = scores


def scorer_command(scorer: type[Scorer]) -> Any:
    """Return the command of a scorer: its settings are the options."""

    def run(context: typer.Context, **given: Any) -> None:
        common = {name: given.pop(name) for name in ("suffix", "device", "overwrite")}
        settings = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}
        _measure(context.obj, scorer(**settings), **common)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("context", keyword, annotation=typer.Context),
        *_settings(scorer),
        inspect.Parameter("suffix", keyword, default="", annotation=Suffix),
        inspect.Parameter("device", keyword, default="auto", annotation=Device),
        inspect.Parameter("overwrite", keyword, default=False, annotation=Overwrite),
    ]
    function: Callable[..., None] = run
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    function.__doc__ = f"{scorer.title}.\n\nSource: {scorer.source}."
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    single.command(scorer.name, epilog=_example(scorer))(function)
    return typer.main.get_command(single)


def _example(scorer: type[Scorer]) -> str:
    options = [
        f"--{name.replace('_', '-')} {shlex.quote(str(value))}"
        for name, given in scorer.example.items()
        for value in (given if isinstance(given, tuple) else (given,))
    ]
    return " ".join(["Example:  clipdre measure scores", scorer.name, *options])


def _settings(scorer: type[Scorer]) -> list[inspect.Parameter]:
    """Return a parameter for each field of the scorer's dataclass."""
    kinds = typing.get_type_hints(scorer)
    found = []
    for field in dataclasses.fields(scorer):  # type: ignore[arg-type]
        kind: Any = kinds[field.name]
        if typing.get_origin(kind) is tuple:
            kind = list[typing.get_args(kind)[0]]  # type: ignore[misc]
        default: Any = inspect.Parameter.empty
        if field.default is not dataclasses.MISSING:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
        option = typer.Option(help=field.metadata.get("help", ""))
        annotation: Any = Annotated[kind, option]
        keyword = inspect.Parameter.KEYWORD_ONLY
        found.append(inspect.Parameter(field.name, keyword, default=default, annotation=annotation))
    return found


def _measure(folder: Path, scorer: Scorer, *, suffix: str, device: str, overwrite: bool) -> None:
    from clipdre.cli.terminal import note
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.formats.folders.manifest import read_complete_manifest
    from clipdre.pipelines.measure import measure as run

    scores = ScoreFolder(folder)
    config = MeasureConfig(suffix, device, overwrite)
    record = run(scores, read_complete_manifest(folder), scorer, config)
    _note_record(record, note)
    name = f"{scorer.name}-{suffix}" if suffix else scorer.name
    typer.echo(str(scores.columns / name))


def _note_record(record: MeasureRecord, note: Callable[[str], None]) -> None:
    names = ", ".join(column.name for column in record.columns)
    note(f"measured {names} for {record.rows:,} rows")
    for name, value in record.figures.items():
        note(f"{name}: {value:,.6g}")

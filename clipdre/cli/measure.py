"""`clipdre measure`: a subcommand for each scorer, with the scorer's settings as its options."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from clipdre.cli.common_options import (
    SCORES_HELP,
    Address,
    CpusPerWorker,
    Engines,
    SliceOption,
    score_folder,
    with_scratch,
)
from clipdre.cli.messages import with_messages
from clipdre.cli.settings import Command, PlainHelp
from clipdre.cli.terminal import given_options
from clipdre.cli.usage import help_text
from clipdre.config import EngineConfig, EngineName, MeasureConfig
from clipdre.errors import named
from clipdre.only_with import WITH_RAY, check
from clipdre.slices import Slice, as_slice
from clipdre.words import count

if TYPE_CHECKING:
    from clipdre.scorers.base import Scorer

EXAMPLE = "Example:  clipdre measure scores prompt-weight --prompt 'a photo of food'"
PANEL = "Scorers"
# What stands for a score folder in a scorer's example, and in that of its command.
SCORES, TARGET = "SCORES", "target-scores"
# A path only once the options of the scorer's own command, such as --scratch, are known.
Place = Annotated[str, typer.Argument(help=SCORES_HELP, metavar="SCORES")]
Suffix = Annotated[
    str, typer.Option(help="Suffix of the column names, to keep several settings side by side.")
]
Device = Annotated[
    str,
    typer.Option(help="auto (all GPUs, else the cpu), cpu, cuda, cuda:1, ...", metavar="DEVICE"),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace columns measured with other settings.")
]


class ScorerCommands(PlainHelp, TyperGroup):
    """Subcommands, made only when needed: loading scorers takes a moment."""

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


def measure(context: typer.Context, scores: Place) -> None:
    """Add columns to a score folder: a scorer over its captions, embeddings or samples.

    The columns can be used wherever those of 'clipdre score' can. A stopped run resumes when the
    same command is run again. Prints the folder of the columns.
    """
    context.obj = scores


app.callback(help=help_text(measure))(measure)


def scorer_command(scorer: type[Scorer]) -> Any:
    """Return the command of a scorer: its settings are the options."""

    def run(context: typer.Context, **given: Any) -> None:
        check(given_options(context), WITH_RAY)
        common = {name: given.pop(name) for name in ("suffix", "device", "overwrite")}
        names = ("engine", "address", "cpus_per_worker")
        engine = EngineConfig(*(given.pop(name) for name in names))
        part = as_slice(given.pop("slice"))
        settings = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}
        _measure(context.obj, scorer(**settings), MeasureConfig(**common, engine=engine), part)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("context", keyword, annotation=typer.Context),
        *_settings(scorer),
        inspect.Parameter("suffix", keyword, default="", annotation=Suffix),
        inspect.Parameter("device", keyword, default="auto", annotation=Device),
        inspect.Parameter("overwrite", keyword, default=False, annotation=Overwrite),
        inspect.Parameter("slice", keyword, default=None, annotation=SliceOption),
        inspect.Parameter("engine", keyword, default=EngineName.LOCAL, annotation=Engines),
        inspect.Parameter("address", keyword, default=None, annotation=Address),
        inspect.Parameter("cpus_per_worker", keyword, default=None, annotation=CpusPerWorker),
    ]
    function: Callable[..., None] = run
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    function.__doc__ = f"{scorer.title}.\n\nSource: {scorer.source}."
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    make = single.command(scorer.name, cls=Command, epilog=_example(scorer), rich_help_panel=PANEL)
    make(with_messages(with_scratch(function)))
    return typer.main.get_command(single)


def _example(scorer: type[Scorer]) -> str:
    options = [
        f"--{name.replace('_', '-')} {TARGET if value == SCORES else shlex.quote(str(value))}"
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
        annotation: Any = Annotated[kind, typer.Option(help=field.metadata.get("help", ""))]
        keyword = inspect.Parameter.KEYWORD_ONLY
        found.append(inspect.Parameter(field.name, keyword, default=default, annotation=annotation))
    return found


def _measure(place: str, scorer: Scorer, config: MeasureConfig, part: Slice | None) -> None:
    from clipdre.cli.terminal import note
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.formats.folders.manifest import read_complete_manifest
    from clipdre.pipelines.measure import measure as run
    from clipdre.pipelines.measure import measure_slice

    folder = score_folder(place)
    scores = ScoreFolder(folder)
    if part is not None:
        waiting = measure_slice(scores, read_complete_manifest(folder), scorer, part, config)
        _note_slice(part, waiting)
        return
    record = run(scores, read_complete_manifest(folder), scorer, config)
    names = ", ".join(column.name for column in record.columns)
    note(f"measured {names} for {count(record.rows, 'row')}")
    for name, value in record.figures.items():
        note(f"{name}: {value:,.6g}")
    suffix = f"-{config.suffix}" if config.suffix else ""
    typer.echo(named(str(scores.columns / f"{scorer.name}{suffix}")))


def _note_slice(part: Slice, waiting: str) -> None:
    from clipdre.cli.terminal import note

    if waiting:
        note(f"slice {part} has done its part; what other slices have not: {waiting}")
        note("when they have: the same slices again, or the command without --slice, continue")
        return
    note(f"slice {part} is measured")
    note("when all slices are: the same command without --slice measures what is missing")

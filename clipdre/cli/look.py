"""`clipdre look`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipdre.cli import emit_options as write
from clipdre.cli import look_options as show
from clipdre.cli import select_options as keep
from clipdre.cli.common_options import Address, Engines, OneCpu, Scores
from clipdre.cli.selections import RULES, open_query, pairings, requested, selected
from clipdre.cli.terminal import given_options
from clipdre.config import TIME_LIMIT, EngineConfig, EngineName, LookConfig
from clipdre.errors import UsageError
from clipdre.only_with import WITH_RAY, NotWith, Pairing, check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clipdre.selecting.select import Selection
    from clipdre.sql.query import ScoreQuery

EXAMPLE = "Example:  clipdre look scores --by log_ratio --top 30% -o page.html"
PAIRINGS: tuple[Pairing, ...] = (
    NotWith("kept", RULES, because="which say themselves what is kept"),
    *WITH_RAY,
)


def look(
    context: typer.Context,
    scores: Scores,
    kept: show.Kept = None,
    distinct: keep.Distinct = False,
    best: keep.BestOf = None,
    best_by: keep.BestBy = None,
    where: keep.Where = None,
    by: keep.By = None,
    top: keep.Top = None,
    bottom: keep.Bottom = None,
    uniform: keep.Uniform = False,
    bins: keep.Bins = None,
    sample: keep.Sample = None,
    penalty: keep.Penalty = None,
    per_round: keep.PerRound = None,
    by_log: keep.ByLog = None,
    balance: keep.Balance = None,
    cap: keep.Cap = None,
    recipe: keep.Recipes = None,
    budget: keep.Budget = None,
    settings: keep.Settings = None,
    seed: write.Seed = 0,
    joined: keep.Joined = None,
    on: keep.On = None,
    time_limit: keep.TimeLimit = TIME_LIMIT,
    output: show.Output = None,
    columns: show.Columns = None,
    thumbnails: show.Thumbnails = LookConfig.thumbnails,
    blur_by: show.BlurBy = None,
    shards: show.Shards = None,
    overwrite: show.Overwrite = False,
    engine: Engines = EngineName.LOCAL,
    address: Address = None,
    cpus_per_worker: OneCpu = None,
) -> None:
    """Write one HTML page: what a pool holds, what a rule keeps, and what lies at the cut.

    The page needs no server and no network: open it, mail it, keep it with the subset. Several
    --recipe options are compared. Prints the path it wrote.
    """
    from clipdre.formats.tars.places import expand_shards
    from clipdre.selecting.preview import by_name

    given = given_options(context)
    check(given, (*PAIRINGS, *pairings(where)))
    request = requested(locals())
    place = _checked(output, overwrite)
    query = open_query(scores, joined, time_limit, on)
    selections = selected(query, request) if any(name in given for name in RULES) else []
    if kept is not None:
        selections = [_kept(query, kept)]
    tars = expand_shards(shards, sys.stdin) if shards else None
    config = LookConfig(
        tuple(columns or ()),
        thumbnails=thumbnails,
        blur_by=blur_by,
        engine=EngineConfig(engine, address, cpus_per_worker),
    )
    _write(query, by_name(selections), config, tars, place, overwrite)


def _checked(output: Path | None, overwrite: bool) -> Path | None:
    """Return the file to write, or None for stdout; refuse to before the work is done."""
    from clipdre.looking.files import check_replaceable

    if output is None:
        raise UsageError("no `output`", "name a file, such as page.html, or - for stdout")
    if str(output) == write.STDOUT:
        return None
    if not overwrite:
        check_replaceable(output)
    return output


def _kept(query: ScoreQuery, place: Path) -> Selection:
    from clipdre.cli.terminal import note
    from clipdre.looking.kept import select_kept
    from clipdre.words import count

    found = select_kept(query, place)
    if found.missing:
        note(f"not in these scores: {found.missing:,} of {count(found.names, 'name')}")
    return found.selection


def _write(
    query: ScoreQuery,
    selections: Mapping[str, Selection],
    config: LookConfig,
    shards: list[str] | None,
    output: Path | None,
    overwrite: bool,
) -> None:
    from clipdre.cli.terminal import as_options, note
    from clipdre.looking.look import collect
    from clipdre.looking.page import render
    from clipdre.words import size

    view = collect(query, selections, config, shards)
    page = render(view)
    if view.problem:
        note(as_options(f"warning: images are missing: {view.problem}", None))
    if output is None:
        typer.echo(page.html)
        return
    page.save(output, overwrite=overwrite)
    note(f"wrote {size(len(page.html.encode()))}; open it in a browser")
    typer.echo(str(output))

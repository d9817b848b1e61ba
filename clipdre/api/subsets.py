"""Select rows of score folders, and write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from clipdre.api.arguments import Places, chosen, engine_config, listed
from clipdre.api.scores import Scores
from clipdre.config import (
    TIME_LIMIT,
    Best,
    EmitConfig,
    EngineName,
    ExportFormat,
    JoinKey,
    SubsetFormat,
)
from clipdre.emitting.lance_table import write_lance
from clipdre.emitting.write import Written, write_subset
from clipdre.formats.name_lists import read_name_file
from clipdre.formats.tars.places import expand_shards
from clipdre.selecting.listed import Listed
from clipdre.selecting.listed import select_listed as _select_listed
from clipdre.selecting.request import Quantity, Request
from clipdre.selecting.select import Selection
from clipdre.selecting.select import select as _select
from clipdre.slices import as_slice


def select(
    scores: Scores,
    *,
    distinct: bool = False,
    best: Best | str | None = None,
    best_by: str | None = None,
    where: str | None = None,
    by: str | None = None,
    by_log: str | None = None,
    top: Quantity | None = None,
    bottom: Quantity | None = None,
    uniform: bool = False,
    bins: int | None = None,
    sample: Quantity | None = None,
    penalty: float | None = None,
    per_round: int | None = None,
    balance: str | None = None,
    cap: int | str | None = None,
    recipe: str | None = None,
    budget: Quantity | None = None,
    settings: Mapping[str, str | int | float] | None = None,
    seed: int = 0,
    joined: Places = (),
    on: JoinKey | str | None = None,
    time_limit: float = TIME_LIMIT,
) -> Selection:
    """Select the rows that `clipdre filter` keeps; see `clipdre.selecting.request.Request`.

    Parameters
    ----------
    top, bottom, sample, budget : int, float or str
        A count (int), or a share (float).
    joined : path or sequence of paths
        Parquet or CSV files, folders or glob patterns, whose columns are joined to the rows. Files
        that have the same columns are one table.
    on : {"key_hash", "shard,key", "uid", "key"} or None
        Names to match joined rows by; None for the first that the files have. The shard is a
        column, or the name of the file.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> len(clipdre.select(scores, by="log_ratio", top=0.5)) * 2 == scores.manifest.rows
    True
    >>> len(clipdre.select(scores, recipe="log-ratio-then-kl", budget=10))
    10
    >>> best = clipdre.select(scores, by="kl_text", top=3)
    >>> best
    Selection(3 of 400 pairs: top by kl_text)
    >>> len(best.keys()), best.table(["key", "kl_text"]).num_rows
    (3, 3)
    >>> best.places.row.shape
    (3,)
    """
    request = Request(
        distinct=distinct,
        best=None if best is None else chosen(Best, best, "best"),
        best_by=best_by,
        where=where,
        by=by,
        by_log=by_log,
        top=top,
        bottom=bottom,
        uniform=uniform,
        bins=bins,
        sample=sample,
        penalty=penalty,
        per_round=per_round,
        balance=balance,
        cap=cap,
        recipe=recipe or (),
        budget=budget,
        settings=settings,
        seed=seed,
    )
    query = scores.query(joined, time_limit, on)
    (rule,) = request.rules(query)
    return _select(query, rule)


def select_listed(scores: Scores, names: str | Path) -> Listed:
    """Select the samples that a file lists, as `clipdre emit --keys` does.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> best = clipdre.select(scores, by="log_ratio", top=10)
    >>> written = clipdre.emit(best, "demo/best.txt", format="keys", overwrite=True)
    >>> len(clipdre.select_listed(scores, "demo/best.txt").selection)
    10
    """
    listed = read_name_file(names, "names", "check the path")
    return _select_listed(scores.query(), listed, str(names))


def emit(
    selection: Selection,
    output: str | Path | BinaryIO,
    *,
    format: SubsetFormat | str | None = None,
    shard_size: int = EmitConfig.shard_size,
    max_bytes: int | None = None,
    shuffle_seed: int | None = None,
    writers: int = EmitConfig.writers,
    card: bool = False,
    write_caption: bool = False,
    shards: Places | None = None,
    overwrite: bool = False,
    slice: str | None = None,
    engine: EngineName | str = EngineName.LOCAL,
    address: str | None = None,
    cpus_per_worker: int | None = None,
) -> Written:
    """Write the selected samples; see `clipdre.emitting.write.write_subset`.

    Parameters
    ----------
    engine, address, cpus_per_worker
        As for `clipdre.score`; by default each CPU of a Ray cluster is a worker.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> best = clipdre.select(scores, by="log_ratio", top=10)
    >>> clipdre.emit(best, "demo/best").kept
    10
    """
    return write_subset(
        selection,
        output,
        format=None if format is None else chosen(SubsetFormat, format, "format"),
        config=EmitConfig(
            shard_size,
            max_bytes,
            shuffle_seed,
            writers,
            card,
            write_caption,
            as_slice(slice),
            engine_config(engine, address, cpus_per_worker),
        ),
        shards=None if shards is None else expand_shards(listed(shards)),
        overwrite=overwrite,
    )


def export(
    selection: Selection,
    output: str | Path,
    *,
    format: ExportFormat | str = ExportFormat.LANCE,
    shards: Places | None = None,
    overwrite: bool = False,
) -> None:
    """Write the selected rows as a table that refers to their images in the tars.

    See `clipdre.emitting.lance_table.write_lance`.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> best = clipdre.select(scores, by="log_ratio", top=10)
    >>> clipdre.export(best, "demo/best.lance")  # doctest: +SKIP
    """
    chosen(ExportFormat, format, "format")
    tars = None if shards is None else expand_shards(listed(shards))
    write_lance(selection, Path(output), shards=tars, overwrite=overwrite)

"""Finished score folders: what is in them, as tables and in numbers."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from clipdre.api.arguments import Places, chosen, listed
from clipdre.config import TIME_LIMIT, JoinKey
from clipdre.errors import ClipdreError
from clipdre.estimating import check as _check
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest, read_complete_manifest
from clipdre.formats.folders.working_copy import local_copy
from clipdre.reporting import summary as _summary
from clipdre.sql.query import ScoreQuery
from clipdre.sql.row_set import RowSet
from clipdre.words import count, html_table


@dataclass(frozen=True, repr=False)
class Scores:
    """A finished score folder: a table with one row per pair.

    `len` is the number of rows.

    Attributes
    ----------
    folder : ScoreFolder
        Paths of its files.
    manifest : Manifest
        Record of the run: model, settings, shards and counts.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> scores.manifest.model.name
    'clipdre-tiny'
    >>> "log_ratio" in scores.query().columns
    True
    >>> scores
    Scores('demo/scores-clean': 400 pairs of 1 shard, clipdre-tiny)
    >>> len(scores), scores.to_arrow(["key", "log_ratio"]).num_rows
    (400, 400)
    """

    folder: ScoreFolder
    manifest: Manifest

    def __len__(self) -> int:
        return self.manifest.rows

    def __repr__(self) -> str:
        shards = count(len(self.manifest.shards), "shard")
        name = self.manifest.model.name
        return f"Scores({self.folder.store.name!r}: {count(len(self), 'pair')} of {shards}, {name})"

    def _repr_html_(self) -> str:
        rows = [(column.name, column.unit, column.meaning) for column in self.query().described()]
        return html_table(repr(self), ("column", "unit", "meaning"), rows)

    @property
    def columns(self) -> list[str]:
        """Names of all columns, measured ones included."""
        return self.query().columns

    def describe(self) -> _summary.Summary:
        """Return counts and quantiles, as `clipdre info` shows them."""
        return _summary.summarize(self.folder, self.manifest)

    def to_arrow(
        self,
        columns: Sequence[str] | None = None,
        *,
        joined: Places = (),
        on: JoinKey | str | None = None,
    ) -> pa.Table:
        """Return columns of all rows in pool order (None: all), in memory.

        Measured columns are included; see `select` for `joined` and `on`, and `dataset` for pools
        that do not fit into memory.

        Raises
        ------
        SelectionError
            If there is no such column.
        """
        return RowSet.of_pool(self.query(joined, on=on), ()).table(columns)

    def to_pandas(self, columns: Sequence[str] | None = None) -> Any:
        """Return columns of all rows as a pandas DataFrame; see `to_arrow`.

        Raises
        ------
        ClipdreError
            If pandas is not installed.
        """
        _needs("pandas")
        return self.to_arrow(columns).to_pandas()

    def to_polars(self, columns: Sequence[str] | None = None) -> Any:
        """Return columns of all rows as a polars DataFrame; see `to_arrow`.

        Raises
        ------
        ClipdreError
            If polars is not installed.
        """
        return _needs("polars").from_arrow(self.to_arrow(columns))

    def dataset(self) -> ds.Dataset:
        """Return all score rows in pool order, as an Arrow dataset that reads on demand."""
        paths = [str(self.folder.scores(shard.name)) for shard in self.manifest.shards]
        return ds.dataset(paths, format="parquet")

    def query(
        self,
        joined: Places = (),
        time_limit: float = TIME_LIMIT,
        on: JoinKey | str | None = None,
    ) -> ScoreQuery:
        """Return the scores, measured columns and `joined` files as one table.

        Its `joins` say how many pairs found a row; see `select` for `joined` and `on`.
        """
        key = None if on is None else chosen(JoinKey, on, "on")
        return ScoreQuery(self.folder, self.manifest, listed(joined), time_limit, key)


def open_scores(folder: str | Path, *, scratch: str | Path | None = None) -> Scores:
    """Open a score folder; `ScoresError` if it is missing or unfinished.

    Parameters
    ----------
    folder : path or URL
        Of a folder in a store, files are fetched to a working copy; embeddings only when needed.
    scratch : path or None
        Local folder for the working copy; None for the user's cache.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> table = scores.dataset().to_table(columns=["key", "log_ratio"])
    >>> table.num_rows == scores.manifest.rows
    True
    """
    path = local_copy(folder, scratch)
    return Scores(ScoreFolder(path), read_complete_manifest(path))


def summarize(scores: Scores) -> _summary.Summary:
    """Count samples and failures, and compute quantiles, as `clipdre info` shows them.

    Examples
    --------
    >>> import clipdre
    >>> found = clipdre.summarize(clipdre.open_scores("demo/scores-pool"))
    >>> list(found.failures)
    ['unreadable_image']
    """
    return _summary.summarize(scores.folder, scores.manifest)


def check_reference(scores: Scores) -> _check.ReferenceCheck:
    """Compare claimed with measured errors of each column, as `clipdre reference` shows them.

    Examples
    --------
    >>> import clipdre
    >>> found = clipdre.check_reference(clipdre.open_scores("demo/scores-clean"))
    >>> {column.reliability for column in found.columns}
    {1.0}
    """
    return _check.check_reference(scores.folder, scores.manifest)


def _needs(package: str) -> Any:
    """Import an optional package."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        problem = f"this needs {package}, which is not installed"
        raise ClipdreError(problem, f"run pip install {package}, or use to_arrow") from error

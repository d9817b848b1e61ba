"""What came of a run, as numbers: for the end of `clipdre score`, and for `clipdre info`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from clipdre.config import Own, ReferenceMethod
from clipdre.core.columns import Column
from clipdre.core.scores import ESTIMATED_COLUMNS, MAIN_COLUMNS
from clipdre.errors import ScoresError
from clipdre.estimating.caveats import caveats
from clipdre.formats.files.parquet import SCORE_AGAIN
from clipdre.formats.folders.columns import DUPLICATES, ColumnFolder
from clipdre.formats.folders.folder import FailureExample, ScoreFolder
from clipdre.formats.folders.manifest import PROBABILITIES, Manifest
from clipdre.formats.folders.records import ReferenceRecord
from clipdre.reporting.contents import disk_usage, failure_examples
from clipdre.sql import statistics
from clipdre.sql.query import ScoreQuery
from clipdre.words import count, html_table, text_table


@dataclass(frozen=True)
class Duplicated:
    """Pairs that are alike on both sides.

    Attributes
    ----------
    pairs, groups : int
        Pairs that are alike to another one, and their groups.
    alike : float
        Cosine from which on they are.
    mean_log_size : float
        Mean over all pairs of the log of the size of their group, in nats.
    """

    pairs: int
    groups: int
    alike: float
    mean_log_size: float


class LeastReliable(NamedTuple):
    """A column and its reliability."""

    column: str
    reliability: float


@dataclass(frozen=True, repr=False)
class Summary:
    """A finished score folder in numbers.

    Attributes
    ----------
    manifest : Manifest
    reference : ReferenceRecord
    failures : dict
        Reason to how many samples failed for it, the most frequent first.
    examples : dict
        Reason to one of those samples.
    quantiles : dict
        Main columns to their quantiles at `PROBABILITIES`, each in the column's unit.
    mean_log_ratio : float
        In nats.
    least_reliable : LeastReliable
        The main column with the largest error of the reference, and its reliability.
    information : float or None
        InfoNCE's lower bound on the mutual information of image and caption, in nats: the mean
        negcliploss, less log k for pairs of k that left each other out. None if the scores do not
        have that column, or some are relative to a pool without them.
    duplicates : Duplicated or None
        How much of the pool is alike; None if that was not measured.
    columns : list of Column
        All columns of the folder, measured ones included.
    caveats : list of str
        Warnings about the scores.
    disk : dict
        Part of the folder to its bytes on disk, the largest first.
    """

    manifest: Manifest
    reference: ReferenceRecord
    failures: dict[str, int]
    examples: dict[str, FailureExample]
    quantiles: dict[str, list[float]]
    mean_log_ratio: float
    least_reliable: LeastReliable
    information: float | None
    duplicates: Duplicated | None
    columns: list[Column]
    caveats: list[str]
    disk: Mapping[str, int]

    def _table(self) -> tuple[str, list[str], list[list[str]]]:
        """Return title, header and rows of the quantiles."""
        of = f"{count(self.manifest.rows, 'pair')} of {count(self.manifest.samples, 'sample')}"
        title = f"{of}, {self.manifest.model.name}, mean log ratio {self.mean_log_ratio:.3f} nats"
        header = ["column", *(f"{100 * p:g}%" for p in PROBABILITIES)]
        rows = [[n, *(f"{value:.3f}" for value in q)] for n, q in self.quantiles.items()]
        return title, header, rows

    def __repr__(self) -> str:
        return text_table(*self._table())

    def _repr_html_(self) -> str:
        return html_table(*self._table())

    @property
    def is_exact(self) -> bool:
        """Whether the reference leaves no error."""
        return self.reference.method == ReferenceMethod.EXACT.value

    @property
    def saved(self) -> str | None:
        """Score folder of another pool that the scores are relative to, if they are."""
        return _saved(self.manifest)


def summarize(folder: ScoreFolder, manifest: Manifest) -> Summary:
    """Read the summary of a finished score folder."""
    return summary_of(ScoreQuery(folder, manifest))


def summary_of(query: ScoreQuery) -> Summary:
    """Read the summary of a score folder that is open already."""
    folder, manifest = query.folder, query.manifest
    if manifest.reference is None:
        raise ScoresError(f"{folder.path} records no reference", SCORE_AGAIN)
    with_errors = [name for name in MAIN_COLUMNS if name in ESTIMATED_COLUMNS]
    duplicates = _duplicated(folder)
    own = not _saved(manifest) and not manifest.keeps_reference
    bound = "negcliploss" if statistics.has_errors(query, "negcliploss") and own else None
    errors = statistics.errors(query, [*with_errors, *([bound] if bound else [])])
    left_out = manifest.reference.own != Own.COUNTED.value
    repeated = duplicates.mean_log_size if duplicates is not None and left_out else 0.0
    worst = min(with_errors, key=lambda name: np.nan_to_num(errors[name].reliability, nan=1.0))
    return Summary(
        manifest=manifest,
        reference=manifest.reference,
        failures=manifest.failures,
        examples=failure_examples(folder, manifest),
        quantiles=_quantiles(query),
        mean_log_ratio=errors["log_ratio"].mean,
        least_reliable=LeastReliable(worst, errors[worst].reliability),
        information=None if bound is None else errors[bound].mean - repeated,
        duplicates=duplicates,
        columns=query.described(),
        caveats=caveats(query, manifest.reference),
        disk=disk_usage(folder),
    )


def _quantiles(query: ScoreQuery) -> dict[str, list[float]]:
    """Return the quantiles that the manifest keeps; older ones lack them."""
    kept = query.manifest.quantiles
    missing = [name for name in MAIN_COLUMNS if len(kept.get(name, ())) != len(PROBABILITIES)]
    found = statistics.quantiles(query, missing, PROBABILITIES) if missing else {}
    return {name: found.get(name) or list(kept[name]) for name in MAIN_COLUMNS}


def _duplicated(folder: ScoreFolder) -> Duplicated | None:
    written = ColumnFolder(folder.columns / DUPLICATES)
    record = written.record()
    if record is None:
        return None
    figures = {**record.settings, **record.figures}
    try:
        pairs, groups = (int(figures[name]) for name in ("grouped", "groups"))
        alike, mean_log_size = (float(figures[name]) for name in ("alike", "mean_log_size"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        problem = f"the record in {written.path} does not tell how many pairs are alike"
        raise ScoresError(problem, SCORE_AGAIN) from error
    return Duplicated(pairs, groups, alike, mean_log_size)


def _saved(manifest: Manifest) -> str | None:
    saved = manifest.settings.get("estimate", {}).get("saved")
    return None if saved is None else str(saved)

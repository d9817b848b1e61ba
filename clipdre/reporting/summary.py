"""What came of a run, as numbers: for the end of `clipdre score`, and for `clipdre info`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from clipdre.config import ReferenceMethod
from clipdre.core.columns import Column
from clipdre.core.scores import ERROR_COLUMNS, MAIN_COLUMNS, SE
from clipdre.errors import ScoresError
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.folders.records import ReferenceRecord
from clipdre.sql import statistics
from clipdre.sql.query import ScoreQuery

PROBABILITIES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Summary:
    """A finished score folder in numbers.

    Attributes
    ----------
    manifest : Manifest
    reference : ReferenceRecord
    failures : dict
        Reason to how many samples failed for it, the most frequent first.
    quantiles : dict
        Main columns to their quantiles at `PROBABILITIES`, each in the column's unit.
    mean_log_ratio : float
        In nats.
    least_reliable : (str, float)
        The main column with the largest error of the reference, and its reliability.
    columns : list of Column
        All columns of the folder, measured ones included.
    """

    manifest: Manifest
    reference: ReferenceRecord
    failures: dict[str, int]
    quantiles: dict[str, list[float]]
    mean_log_ratio: float
    least_reliable: tuple[str, float]
    columns: list[Column]

    @property
    def is_exact(self) -> bool:
        """Whether the reference leaves no error."""
        return self.reference.method == ReferenceMethod.EXACT.value


def summarize(folder: ScoreFolder, manifest: Manifest) -> Summary:
    """Read the summary of a finished score folder."""
    if manifest.reference is None:
        raise ScoresError(f"{folder.path} records no reference", "score again with `overwrite`")
    failures: Counter[str] = Counter()
    for shard in manifest.shards:
        failures.update(shard.failures)
    query = ScoreQuery(folder, manifest)
    with_errors = [name for name in MAIN_COLUMNS if f"{name}{SE}" in ERROR_COLUMNS]
    errors = statistics.errors(query, with_errors)
    worst = min(errors, key=lambda name: errors[name].reliability)
    return Summary(
        manifest=manifest,
        reference=manifest.reference,
        failures=dict(failures.most_common()),
        quantiles=statistics.quantiles(query, MAIN_COLUMNS, PROBABILITIES),
        mean_log_ratio=errors["log_ratio"].mean,
        least_reliable=(worst, errors[worst].reliability),
        columns=query.described(),
    )

"""How far the scores of a run can be trusted: claimed errors, and errors measured on some rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from clipdre.core.modality import Modality
from clipdre.core.pairs import Pairs
from clipdre.core.reliability import TRUSTED
from clipdre.core.scores import ESTIMATED_COLUMNS, score_columns
from clipdre.core.stratified import HALVES
from clipdre.errors import ScoresError
from clipdre.estimating.caveats import caveats, saturated_share
from clipdre.estimating.draws import bulk_rows
from clipdre.estimating.estimate import Estimator
from clipdre.estimating.groups import half_of
from clipdre.estimating.marginal import Bulk, Marginal, Reading
from clipdre.estimating.margins import MARGINS
from clipdre.formats.files.parquet import SCORE_AGAIN
from clipdre.formats.folders.embeddings import StoredPool, embedding_files
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.folders.records import VERSION, ReferenceRecord
from clipdre.formats.folders.reference import ReferenceFolder
from clipdre.sql.query import ScoreQuery
from clipdre.sql.statistics import ErrorStatistics, errors

CHECKED = 256
COLUMNS = ESTIMATED_COLUMNS
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ColumnCheck:
    """One column's errors, in nats.

    Attributes
    ----------
    mean, spread, mean_se : float
        Over all rows; spread is the standard deviation.
    reliability : float
        ``1 - mean(se^2) / var``, from the claimed errors.
    pool_reliability : float or None
        Correlation between two halves of the pool; None if it was not measured or the column does
        not vary.
    saturated : float or None
        Share of rows within 1 nat of log N, the largest KL over a pool of N.
    rmse, rmse_near, rmse_bulk : float or None
        Measured against exact on the checked rows: as scored, with twice the near counterparts,
        with twice the bulk. None if not applicable, or if no embeddings are kept.
    """

    column: str
    mean: float
    spread: float
    mean_se: float
    reliability: float
    pool_reliability: float | None
    saturated: float | None
    rmse: float | None = None
    rmse_near: float | None = None
    rmse_bulk: float | None = None


@dataclass(frozen=True)
class ReferenceCheck:
    """The report of `clipdre reference`.

    Attributes
    ----------
    cost : float
        Counterparts evaluated per query, as a share of the pool.
    caveats : list of str
        Warnings about the scores, exact or not.
    checked : dict
        Column to (exact, estimated) arrays on the checked rows; empty without embeddings.
    """

    record: ReferenceRecord
    rows: int
    cost: float
    columns: list[ColumnCheck]
    advice: str
    caveats: list[str]
    checked: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)


def check_reference(folder: ScoreFolder, manifest: Manifest) -> ReferenceCheck:
    """Read the claimed errors of all rows, and check some rows against exact."""
    query = ScoreQuery(folder, manifest)
    record = manifest.reference
    if record is None:
        raise ScoresError(f"{folder.path} records no reference", SCORE_AGAIN)
    folder.store.fetch(folder.reference, folder.embeddings)
    # A saved reference belongs to another pool, a kept one to the pool as it was.
    own = ReferenceFolder(folder.reference)
    same = own.record() == record and record.version == VERSION and not manifest.keeps_reference
    checkable = folder.embeddings.exists() and same
    measured = _measured(folder, manifest, own) if checkable else {}
    names = [name for name in COLUMNS if name in query.columns]
    found = errors(query, names)
    columns = [_column(query, name, found[name], record.pairs, measured) for name in names]
    return ReferenceCheck(
        record=record,
        rows=manifest.rows,
        cost=_cost(record),
        columns=columns,
        advice=_advice(record, columns),
        caveats=caveats(query, record),
        checked={n: (measured["exact"][n], measured["now"][n]) for n in names if measured},
    )


def _column(
    query: ScoreQuery,
    name: str,
    found: ErrorStatistics,
    pairs: int,
    measured: dict[str, dict[str, Floats]],
) -> ColumnCheck:
    saturated = None
    if name.startswith("kl_"):
        saturated = saturated_share(query, name, pairs)
    rmse: dict[str, float | None] = {}
    for way in ("now", "near", "bulk"):
        error = measured[way][name] - measured["exact"][name] if way in measured else None
        rmse[way] = None if error is None else float(np.sqrt(np.mean(error**2)))
    return ColumnCheck(
        name,
        found.mean,
        found.spread,
        found.mean_se,
        found.reliability,
        query.manifest.pool_reliability.get(name),
        saturated,
        rmse["now"],
        rmse["near"],
        rmse["bulk"],
    )


def _cost(record: ReferenceRecord) -> float:
    if record.method == "exact":
        return 1.0
    near = [n.share + n.cells / record.pairs for n in record.near.values()]
    return float(np.mean(near)) + record.bulk / record.pairs if near else record.bulk / record.pairs


def _advice(record: ReferenceRecord, columns: list[ColumnCheck]) -> str:
    if record.method == "exact":
        return "Every score is exact for this pool; a better reference cannot improve it."
    if record.method == "sample":
        return (
            "A uniform sample misses the few counterparts that matter, so even its claimed errors "
            "are not reliable: score with `reference` stratified or exact."
        )
    weak = [c.column for c in columns if c.reliability < TRUSTED]
    if _cost(record) >= 1:
        return "An exact reference takes no longer and has no error: score with `reference` exact."
    if weak:
        return (
            f"Do not select by {', '.join(weak)} yet: score with twice the `neighbors` and `bulk`, "
            "or with `reference` exact."
        )
    return "The reference is good enough to select by any column."


def _measured(
    folder: ScoreFolder, manifest: Manifest, own: ReferenceFolder
) -> dict[str, dict[str, Floats]]:
    """Score the checked rows in every way: way (exact, now, near, bulk) to column to values."""
    files = embedding_files(folder.embeddings, len(manifest.shards))
    pool, hashes = StoredPool(files), np.concatenate([file.hashes() for file in files])
    order = np.argsort(hashes, kind="stable")
    rows = order[len(order) // 2 :][:CHECKED]  # neither the bulk nor the calibration's queries
    checked = _Checked(pool, hashes, order, rows, Estimator(own, manifest.model, pool=pool))
    return {
        way: {name: column.double().numpy() for name, column in score_columns(pairs).items()}
        for way, pairs in checked.ways()
    }


@dataclass(frozen=True)
class _Checked:
    """Some rows of a pool, and the ways to estimate them."""

    pool: StoredPool
    hashes: npt.NDArray[np.uint64]
    order: Rows
    rows: Rows
    estimator: Estimator

    def ways(self) -> Iterator[tuple[str, Pairs]]:
        record = self.estimator.record
        yield "exact", self._pairs(dict.fromkeys(Modality, Reading(margin=math.inf)))
        yield "now", self._pairs()
        if record.method == "exact" or not record.folds:
            return
        if record.method == "stratified":
            yield "near", self._pairs({m: Reading(margin=self._doubled(m)) for m in Modality})
        halves = half_of(self.hashes)
        most = HALVES * int(np.bincount(halves, minlength=HALVES).min())
        bulk = min(2 * record.bulk, most // record.folds * record.folds)
        twice = bulk_rows(self.order, halves, bulk, record.folds)
        bulks = {
            modality: Bulk(self.pool.take(modality, twice), self.hashes[twice], record.folds)
            for modality in Modality
        }
        yield "bulk", self._pairs({m: Reading(bulk=bulk) for m, bulk in bulks.items()})

    def _pairs(self, readings: dict[Modality, Reading] | None = None) -> Pairs:
        images, texts = (self.pool.take(modality, self.rows) for modality in Modality)
        hashes = self.hashes[self.rows]
        return self.estimator.pairs(images, texts, hashes, len(self.pool), readings)

    def _doubled(self, modality: Modality) -> float:
        """Return the margin at which twice as many counterparts of `modality` are near."""
        marginal: Marginal = self.estimator.marginals[modality]
        queries: Tensor = self.pool.take(modality.other, self.rows)
        counts = marginal.cells.counts.double()
        scale, calibrated = self.estimator.record.logit_scale, marginal.margin
        assert calibrated is not None

        def near(margin: float) -> float:
            chosen = marginal.cells.near(queries, scale, margin)
            return float((chosen.double() @ counts).mean())

        now, widest = near(calibrated), 2 * int(MARGINS[-1])
        wider = (float(margin) for margin in range(int(calibrated) + 1, widest))
        return next((margin for margin in wider if near(margin) >= 2 * now), float(widest))

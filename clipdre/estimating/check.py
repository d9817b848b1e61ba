"""How far the scores of a run can be trusted: claimed errors, and measured ones on checked rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.core.cells import Cells
from clipdre.core.divergence import kl, reverse_kl
from clipdre.core.partition import RunningPartition
from clipdre.core.reliability import TRUSTED
from clipdre.core.stratified import Statistic, StratifiedPartition
from clipdre.core.tiles import logits_of
from clipdre.errors import ScoresError
from clipdre.estimating.marginal import Places
from clipdre.estimating.reference import MARGINS
from clipdre.formats.folders.embeddings import Modality, Pool, embedding_files
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.folders.reference import SIDES, Hashes, ReferenceFolder, ReferenceRecord
from clipdre.sql.query import ScoreQuery

CHECKED = 256
CHECKED_AT_ONCE = 32
TILE_ROWS = 2048
COLUMNS = (
    "log_ratio",
    "log_ratio_image",
    "log_ratio_text",
    "kl_image",
    "kl_text",
    "klr_image",
    "klr_text",
)
Floats = npt.NDArray[np.float64]
# Modality to its cells and the cell of each of the pool's rows; empty unless stratified.
Located = dict[Modality, tuple[Cells, Tensor]]


@dataclass(frozen=True)
class ColumnReport:
    """One column's errors, in nats.

    Attributes
    ----------
    mean, spread, mean_se : float
        Over all rows; spread is the standard deviation.
    reliability : float
        ``1 - mean(se^2) / var``, from the claimed errors.
    saturated : float or None
        Share of rows within 1 nat of log N, the most that a KL over a pool of N can be.
    rmse, rmse_near, rmse_bulk : float or None
        Measured against exact on the checked rows: as it is, with twice the near counterparts,
        with twice the bulk. None where no embeddings are left to check with.
    """

    column: str
    mean: float
    spread: float
    mean_se: float
    reliability: float
    saturated: float | None
    rmse: float | None = None
    rmse_near: float | None = None
    rmse_bulk: float | None = None


@dataclass(frozen=True)
class ReferenceReport:
    """What `clipdre reference` tells.

    Attributes
    ----------
    cost : float
        Counterparts evaluated per query, as a share of the pool.
    checked : dict
        Column to (exact, estimated) arrays on the checked rows; empty without embeddings.
    """

    record: ReferenceRecord
    rows: int
    cost: float
    columns: list[ColumnReport]
    advice: str
    checked: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)


def report(folder: ScoreFolder, manifest: Manifest) -> ReferenceReport:
    """Read the claimed errors of all rows, and check some rows against exact."""
    query = ScoreQuery(folder, manifest)
    try:
        record = ReferenceRecord.from_dict(manifest.reference)
    except (KeyError, TypeError) as error:
        raise ScoresError(f"{folder.path} tells no reference ({error}): score again") from error
    # A saved reference is of another pool, whose embeddings are not here.
    own = ReferenceFolder(folder.reference)
    checkable = folder.embeddings.exists() and own.record() == record
    measured = _measured(folder, manifest, own, record) if checkable else {}
    columns = [_column(query, name, record.pairs, measured) for name in COLUMNS]
    return ReferenceReport(
        record=record,
        rows=manifest.rows,
        cost=_cost(record),
        columns=columns,
        advice=_advice(record, columns),
        checked={name: (m["exact"], m["now"]) for name, m in measured.items()},
    )


def _column(
    query: ScoreQuery, name: str, pairs: int, measured: dict[str, dict[str, Floats]]
) -> ColumnReport:
    saturated = None
    if name.startswith("kl_"):
        saturated = query.share(f"{name} > {math.log(max(pairs - 1, 1)) - 1}")
    rmse: dict[str, float | None] = {}
    for way in ("now", "near", "bulk"):
        found = measured.get(name, {})
        error = found[way] - found["exact"] if way in found else None
        rmse[way] = None if error is None else float(np.sqrt(np.mean(error**2)))
    mean, spread, mean_se, reliability = query.errors(name)
    return ColumnReport(
        name, mean, spread, mean_se, reliability, saturated, rmse["now"], rmse["near"], rmse["bulk"]
    )


def _cost(record: ReferenceRecord) -> float:
    if record.method == "exact":
        return 1.0
    near = [n.share + n.cells / record.pairs for n in record.near.values()]
    return float(np.mean(near)) + record.bulk / record.pairs if near else record.bulk / record.pairs


def _advice(record: ReferenceRecord, columns: list[ColumnReport]) -> str:
    if record.method == "exact":
        return "Every score is exact for this pool: nothing more is to be had from the reference."
    if record.method == "sample":
        return (
            "A uniform sample misses the few counterparts that matter, so its own errors are not "
            "to be trusted: score with --reference stratified or exact."
        )
    weak = [c.column for c in columns if c.reliability < TRUSTED]
    if weak:
        return (
            f"Do not select by {', '.join(weak)} yet: score with twice the --neighbors and --bulk, "
            "or with --reference exact."
        )
    return "Every column is reliable enough to select by."


@dataclass(frozen=True)
class _CheckedSide:
    """Full logits of some queries over one modality of the pool, and ways to read fewer of them."""

    logits: Tensor
    others: Tensor
    near: Tensor | None
    wide: Tensor | None
    bulk: Tensor

    def whole(self, near: Tensor | None, bulk: Tensor, folds: int) -> RunningPartition:
        """The estimate that the near mask and the bulk's rows give."""
        present = self.others if near is None else self.others & near
        near_part = RunningPartition.empty(len(self.logits))
        if near is not None:
            near_part = RunningPartition.of(self.logits.clone(), ~present)
        rest = self.others & ~present if near is not None else self.others
        shape = (len(self.logits), folds, len(bulk) // folds)
        tile, mask = self.logits[:, bulk].clone(), ~rest[:, bulk]
        parts = RunningPartition.of(tile.view(shape), mask.view(shape))
        return StratifiedPartition(near_part, parts, rest.sum(dim=1).double()).whole()

    def mean_logit(self) -> Tensor:
        """Mean logit of each query with all counterparts."""
        total = torch.where(self.others, self.logits.double(), 0.0).sum(dim=1)
        return total / self.others.sum(dim=1)


def _measured(
    folder: ScoreFolder, manifest: Manifest, own: ReferenceFolder, record: ReferenceRecord
) -> dict[str, dict[str, Floats]]:
    """Column to way (exact, now, near, bulk) to values on the checked rows."""
    files = embedding_files(folder.embeddings, len(manifest.shards))
    pool, hashes = Pool(files), np.concatenate([file.hashes() for file in files])
    order = np.argsort(hashes, kind="stable")
    rows = order[len(order) // 2 :][:CHECKED]  # neither the bulk nor the calibration's queries
    located: Located = {}
    if record.method == "stratified":
        located = {side: _cell_of_rows(own, side, hashes) for side in SIDES}
    pieces: list[dict[str, dict[str, Tensor]]] = []
    for start in range(0, len(rows), CHECKED_AT_ONCE):
        part = rows[start : start + CHECKED_AT_ONCE]
        pieces.append(_check(pool, order, part, located, record))
    return {
        name: {
            way: torch.cat([piece[name][way] for piece in pieces]).numpy()
            for way in pieces[0][name]
        }
        for name in COLUMNS
    }


def _cell_of_rows(own: ReferenceFolder, side: Modality, hashes: Hashes) -> tuple[Cells, Tensor]:
    """The cells of one modality, and the cell of each of the pool's rows."""
    cells = own.cells(side)
    places = Places(np.asarray(own.array(f"pool_hash_{side}")))
    return cells, cells.of_places(places(hashes))


def _check(
    pool: Pool,
    order: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    located: Located,
    record: ReferenceRecord,
) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    pair = torch.linalg.vecdot(pool.take("img", rows), pool.take("text", rows))
    own_logit = (record.logit_scale * pair + record.logit_bias).double()
    for side, other in (("image", SIDES[1]), ("text", SIDES[0])):
        checked = _checked_side(pool, order, rows, other, located, record)
        wholes = dict(_ways(checked, order, record))
        statistics: dict[str, Statistic] = {
            "log_ratio": RunningPartition.log_mean_exp,
            "kl": kl,
            "klr": partial(reverse_kl, mean_logit=checked.mean_logit()),
        }
        for name, statistic in statistics.items():
            values = {way: statistic(whole) for way, whole in wholes.items()}
            if name == "log_ratio":
                values = {way: own_logit - value for way, value in values.items()}
            found[f"{name}_{side}"] = values
    found["log_ratio"] = {
        way: (value + found["log_ratio_text"][way]) / 2
        for way, value in found["log_ratio_image"].items()
    }
    return found


def _ways(
    checked: _CheckedSide, order: npt.NDArray[np.int64], record: ReferenceRecord
) -> Iterator[tuple[str, RunningPartition]]:
    exact = RunningPartition.of(checked.logits.clone(), ~checked.others)
    yield "exact", exact
    if record.method == "exact":
        yield "now", exact
        return
    twice = torch.from_numpy(
        order[: min(2 * record.bulk, len(order) // record.folds * record.folds)]
    )
    yield "now", checked.whole(checked.near, checked.bulk, record.folds)
    if checked.wide is not None:
        yield "near", checked.whole(checked.wide, checked.bulk, record.folds)
    yield "bulk", checked.whole(checked.near, twice, record.folds)


def _checked_side(
    pool: Pool,
    order: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    side: Modality,
    located: Located,
    record: ReferenceRecord,
) -> _CheckedSide:
    queries = pool.take("img" if side == "text" else "text", rows)
    scale, bias = record.logit_scale, record.logit_bias
    logits = torch.cat(
        [logits_of(queries * scale, tile, bias) for _, tile in pool.tiles(side, TILE_ROWS)], dim=1
    )
    others = torch.ones_like(logits, dtype=torch.bool)
    others[torch.arange(len(rows)), torch.from_numpy(rows)] = False
    bulk = torch.from_numpy(order[: record.bulk])
    if record.method != "stratified":
        return _CheckedSide(logits, others, None, None, bulk)
    cells, cell = located[side]
    margin = record.near[side].margin
    near = cells.near(queries, scale, margin)[:, cell]
    wide = cells.near(queries, scale, _doubled(cells, queries, scale, margin))[:, cell]
    return _CheckedSide(logits, others, near, wide, bulk)


def _doubled(cells: Cells, queries: Tensor, scale: float, margin: float) -> float:
    """The margin at which twice as many counterparts are near."""
    counts = cells.counts.double()

    def near(at: float) -> float:
        return float((cells.near(queries, scale, at).double() @ counts).mean())

    widest = 2 * int(MARGINS[-1])
    now = near(margin)
    wider = (float(m) for m in range(int(margin) + 1, widest))
    return next((m for m in wider if near(m) >= 2 * now), float(widest))

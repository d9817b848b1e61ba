"""The rules that are compared, each as rows of a scored pool."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import clipdre
from clipdre.errors import UnreliableEstimateWarning
from evidence.students import Rows

TARGET = "TARGET"  # stands for the scores of clean pairs, in settings
BUDGET = "{n}"  # stands for the number of pairs to keep
TIMES = "times"  # the column of rules that may draw a pair twice
WIDEN = 1.8  # as in the recipes: how many pairs the second step chooses from


@dataclass(frozen=True)
class Filter:
    """A rule of `clipdre.select`.

    Attributes
    ----------
    rule : mapping
        Its arguments; texts in it may hold ``{n}``, the number of pairs to keep, and ``{wide}``.
    measures : mapping
        Settings of the scorers that it needs, by name.
    """

    rule: Mapping[str, Any]
    measures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def rows(self, scores: clipdre.Scores, n: int, target: Path, seed: int) -> Rows:
        """Return the rows of the pool that it keeps, in pool order, each as often as drawn."""
        for scorer, settings in self.measures.items():
            filled = {k: str(target) if v == TARGET else v for k, v in settings.items()}
            clipdre.measure(scores, scorer, settings=filled, device="cpu")
        rule = {name: _filled(value, n) for name, value in self.rule.items()}
        with warnings.catch_warnings():  # rules that lose are there to be seen
            warnings.simplefilter("ignore", UnreliableEstimateWarning)
            kept = clipdre.select(scores, seed=seed, **rule)
        rows, columns = rows_of(scores, kept.places), kept.table()
        return np.repeat(rows, columns[TIMES]) if TIMES in columns.column_names else rows


def rows_of(scores: clipdre.Scores, places: Any) -> Rows:
    """Return the places of a selection as rows, counted over all shards."""
    starts = np.cumsum([0, *(shard.rows for shard in scores.manifest.shards)])
    rows: Rows = starts[places.shard] + places.row
    return rows


def _filled(value: Any, n: int) -> Any:
    if value == BUDGET:
        return n
    return value.format(n=n, wide=round(WIDEN * n)) if isinstance(value, str) else value


def _best(
    by: str, where: str | None = None, distinct: bool = False, **measures: Mapping[str, Any]
) -> Filter:
    rule = {"by": by, "top": BUDGET, "where": where, "distinct": distinct}
    return Filter(rule, _by_scorer(measures))


def _recipe(name: str, **measures: Mapping[str, Any]) -> Filter:
    return Filter({"recipe": name, "budget": BUDGET}, _by_scorer(measures))


def _by_scorer(measures: Mapping[str, Any]) -> dict[str, Any]:
    return {scorer.replace("_", "-"): settings for scorer, settings in measures.items()}


CLUSTERS = {"clusters": 100}
# Rules of scorers, most of them published; settings fit 16,000 pairs.
OTHERS: dict[str, Filter] = {
    "negcliploss": _recipe("negcliploss"),
    "normsim-dynamic of negcliploss": Filter(
        {"by": "normsim_dynamic_rank", "bottom": BUDGET},
        {"normsim-dynamic": {"start": 0.6, "by": "negcliploss", "keep": 0.1}},
    ),
    "dc": _recipe("dc"),
    "union of log_ratio and kl_text": _recipe("union"),
    "soft-cap": Filter({"recipe": "soft-cap", "budget": BUDGET, "settings": {"per_round": "500"}}),
    "whitened": _best("likelihood_image + likelihood_text", whitened={}),
    "clipcov": _best("clipcov + 2 * similarity", clipcov=CLUSTERS),
    "log_ratio after semdedup": _best(
        "log_ratio", where="duplicate_similarity <= 0.95", semantic_duplicates=CLUSTERS
    ),
    "log_ratio after density pruning": _best(
        "log_ratio", where="dbp_rank <= dbp_quota", density_pruning={"keep": 0.6, **CLUSTERS}
    ),
    "dsir": _recipe("dsir", importance_resampling={"target": TARGET}),
    "wfpp": _recipe("wfpp", word_frequency={}),
    "metaclip": Filter(
        {"by_log": "ln(metaclip_probability)", "sample": BUDGET}, {"metaclip": {"tail_share": 0.06}}
    ),
}
FILTERS: dict[str, Filter] = {
    "similarity": _best("similarity"),
    "log_ratio": _best("log_ratio"),
    "log-ratio-then-kl": _recipe("log-ratio-then-kl"),
    "log-ratio-then-kl, with copies": _best("kl_text", where="rank(-log_ratio) <= {wide}"),
    "clipscore-then-kl": _recipe("clipscore-then-kl"),
    "distinct similarity": _best("similarity", distinct=True),
    "distinct log_ratio": _best("log_ratio", distinct=True),
    "log-ratio-copies-last": _recipe("log-ratio-copies-last"),
    "similarity, copies last": _best("least(similarity, similarity / duplicate_rank)"),
    "log_ratio_image": _best("log_ratio_image"),
    "log_ratio_text": _best("log_ratio_text"),
    "negcliploss-normsim": _recipe("negcliploss-normsim", normsim={"target": TARGET}),
    "lemon": _recipe("lemon", lemon={}),
    "kl_text": _best("kl_text"),
    "uniform-kl": _recipe("uniform-kl"),
    **OTHERS,
}

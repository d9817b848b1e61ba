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
        """Return the rows of the pool that it keeps, in pool order."""
        for scorer, settings in self.measures.items():
            filled = {k: str(target) if v == TARGET else v for k, v in settings.items()}
            clipdre.measure(scores, scorer, settings=filled, device="cpu")
        rule = {name: _filled(value, n) for name, value in self.rule.items()}
        with warnings.catch_warnings():  # rules that lose are there to be seen
            warnings.simplefilter("ignore", UnreliableEstimateWarning)
            return rows_of(scores, clipdre.select(scores, seed=seed, **rule).places)


def rows_of(scores: clipdre.Scores, places: Any) -> Rows:
    """Return the places of a selection as rows, counted over all shards."""
    starts = np.cumsum([0, *(shard.rows for shard in scores.manifest.shards)])
    rows: Rows = starts[places.shard] + places.row
    return rows


def _filled(value: Any, n: int) -> Any:
    if value == BUDGET:
        return n
    return value.format(n=n, wide=round(WIDEN * n)) if isinstance(value, str) else value


def _best(by: str, **rule: Any) -> Filter:
    return Filter({"by": by, "top": BUDGET, **rule})


def _recipe(name: str, **measures: Mapping[str, Any]) -> Filter:
    by_scorer = {scorer.replace("_", "-"): settings for scorer, settings in measures.items()}
    return Filter({"recipe": name, "budget": BUDGET}, by_scorer)


CLUSTERS = {"clusters": 100}
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
}

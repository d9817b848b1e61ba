"""The columns that `clipdre score` writes: each with its unit, meaning and formula.

This module does not import torch, so that whoever only names columns starts quickly. To add a
column, add a line here; a quantity that is not there yet becomes a property of `core.pairs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipdre.core.columns import Column
from clipdre.core.modality import Modality

if TYPE_CHECKING:
    from torch import Tensor

    from clipdre.core.pairs import Pairs

NATS = "nats"
SE = "_se"
# How formulas write each modality: as a condition, and as what it conditions.
_SYMBOL = {Modality.IMAGE: ("i", "I", "image"), Modality.TEXT: ("t", "T", "caption")}


@dataclass(frozen=True)
class Score:
    """A column and the formula that gives it from a block of pairs.

    Attributes
    ----------
    column : Column
    formula : callable
        Takes `Pairs`, returns a Tensor of shape (n,).
    needs_tau : bool
        Whether the column is written only if the run has a `tau`.
    main : bool
        Whether curators look at it first: summaries show it.
    """

    column: Column
    formula: Callable[[Pairs], Tensor]
    needs_tau: bool = False
    main: bool = False


def _error(name: str, formula: Callable[[Pairs], Tensor]) -> Score:
    meaning = f"standard error of {name} from the sampled part of the reference; 0 if exact"
    return Score(Column(name + SE, NATS, meaning, "low"), formula)


def _log_partition(m: Modality) -> Score:
    other = _SYMBOL[m.other][2]
    meaning = f"log of the mean of exp(logit) over the pool's {other}s"
    return Score(Column(f"log_partition_{m}", NATS, meaning), lambda p: p.sides[m].log_partition)


def _log_ratio(m: Modality) -> tuple[Score, Score]:
    name = f"log_ratio_{m}"
    (given, _, _), (other, _, _) = _SYMBOL[m], _SYMBOL[m.other]
    meaning = f"estimate of log p({other}|{given}) / p({other})"
    return (
        Score(Column(name, NATS, meaning, "high"), lambda p: p.log_ratio_of(m)),
        _error(name, lambda p: p.sides[m].log_partition_se),
    )


def _divergences(m: Modality) -> tuple[Score, ...]:
    (given, _, own), (_, other, counterpart) = _SYMBOL[m], _SYMBOL[m.other]
    conditional, marginal = f"p({other}|{given})", f"p({other})"
    information = f"information the {own} carries about its {counterpart}, matching or not"
    spread = f"variance of the {own}'s logits"
    ruled_out = f"how much of the pool the {own} rules out"
    return (
        Score(
            Column(f"kl_{m}", NATS, f"KL({conditional} || {marginal}): {information}", "high"),
            lambda p: p.sides[m].kl,
            main=True,
        ),
        _error(f"kl_{m}", lambda p: p.sides[m].kl_se),
        Score(
            Column(f"klr_{m}", NATS, f"KL({marginal} || {conditional}): {ruled_out}", "high"),
            lambda p: p.sides[m].reverse_kl,
            main=True,
        ),
        # The mean logit is known, so the error is the log partition's.
        _error(f"klr_{m}", lambda p: p.sides[m].log_partition_se),
        Score(
            Column(f"dw_{m}", NATS, f"second-order reading: {spread}", "high"),
            lambda p: p.sides[m].covariance_norm,
        ),
        Score(
            Column(f"dc_{m}", NATS, f"squared distance of the {own} from the pool's mean", "high"),
            lambda p: p.sides[m].centred_norm,
        ),
        Score(
            Column(f"ess_{m}", "pairs", f"number of {counterpart}s that carry {conditional}"),
            lambda p: p.sides[m].effective_sample_size,
        ),
    )


def _with_tau(m: Modality) -> tuple[Score, ...]:
    no_log_z = "with -log tau in place of log Z"
    every = "with tau exp(logit) in place of every density ratio"
    return (
        Score(
            Column(f"kl_{m}_tau", NATS, f"kl_{m} {no_log_z}", "high"),
            lambda p: p.sides[m].kl_tau(p.log_tau),
            needs_tau=True,
        ),
        Score(
            Column(f"kl_{m}_tau_all", NATS, f"kl_{m} {every}", "high"),
            lambda p: p.sides[m].kl_tau_all(p.log_tau),
            needs_tau=True,
        ),
        Score(
            Column(f"klr_{m}_tau", NATS, f"klr_{m} {no_log_z}", "high"),
            lambda p: p.sides[m].reverse_kl_tau(p.log_tau),
            needs_tau=True,
        ),
    )


SCORES: tuple[Score, ...] = (
    Score(
        Column("similarity", "cosine", "cosine of image and caption: the CLIP score", "high"),
        lambda p: p.similarity,
        main=True,
    ),
    _log_partition(Modality.IMAGE),
    _log_partition(Modality.TEXT),
    *_log_ratio(Modality.IMAGE),
    *_log_ratio(Modality.TEXT),
    Score(
        Column(
            "log_ratio",
            NATS,
            "mean of log_ratio_image and log_ratio_text: estimate of log p(i,t) / p(i)p(t)",
            "high",
        ),
        lambda p: p.log_ratio,
        main=True,
    ),
    _error("log_ratio", lambda p: p.log_ratio_se),
    Score(
        Column(
            "negcliploss",
            NATS,
            "minus the CLIP loss with the whole pool as batch, plus log N: as log_ratio, with the "
            "pair itself counted, so at most log N",
            "high",
        ),
        lambda p: p.negcliploss,
    ),
    _error("negcliploss", lambda p: p.negcliploss_se),
    Score(
        Column("kl_contribution", NATS, "log_ratio / N: sums to the pool's mean log ratio"),
        lambda p: p.log_ratio / p.pool_size,
    ),
    *_divergences(Modality.IMAGE),
    *_divergences(Modality.TEXT),
    Score(
        Column("log_ratio_tau", NATS, "logit + log tau: the unnormalised log ratio", "high"),
        lambda p: p.log_ratio_tau,
        needs_tau=True,
    ),
    *_with_tau(Modality.IMAGE),
    *_with_tau(Modality.TEXT),
)
# What `similarity` is where vectors have lengths of their own.
INNER_PRODUCT = Column("similarity", "inner product", "inner product of image and caption", "high")
SCORE_COLUMNS = tuple(score.column.name for score in SCORES if not score.needs_tau)
MAIN_COLUMNS = tuple(score.column.name for score in SCORES if score.main)
ERROR_COLUMNS = tuple(name for name in SCORE_COLUMNS if name.endswith(SE))
# Columns that depend on the reference, so that its error and the pool's reliability are reported.
ESTIMATED_COLUMNS = tuple(name.removesuffix(SE) for name in ERROR_COLUMNS)


def declared(inner_product: bool = False) -> dict[str, Column]:
    """Return all columns by name, as scores of cosines or of inner products have them."""
    columns = {score.column.name: score.column for score in SCORES}
    return columns | ({INNER_PRODUCT.name: INNER_PRODUCT} if inner_product else {})


def score_columns(pairs: Pairs) -> dict[str, Tensor]:
    """Compute every column of a block of pairs: name to Tensor of shape (n,)."""
    columns = {
        score.column.name: score.formula(pairs)
        for score in SCORES
        if not score.needs_tau or pairs.tau is not None
    }
    for name in ESTIMATED_COLUMNS:  # what could not be estimated has no error either
        columns[name + SE] = columns[name + SE].masked_fill(columns[name].isnan(), math.nan)
    return columns


def half_columns(pairs: Pairs) -> dict[str, tuple[Tensor, ...]]:
    """Compute `ESTIMATED_COLUMNS` against each half of the pool: name to Tensors of shape (n,)."""
    formulas = {s.column.name: s.formula for s in SCORES if s.column.name in ESTIMATED_COLUMNS}
    halves = pairs.halves()
    return {name: tuple(formula(half) for half in halves) for name, formula in formulas.items()}

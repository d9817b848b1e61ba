"""What to know before trusting scores: signs of a wrong pool or model, or of a small reference."""

from __future__ import annotations

import math

from clipdre.formats.folders.records import ReferenceRecord
from clipdre.sql import statistics
from clipdre.sql.query import ScoreQuery

KLS = ("kl_image", "kl_text")
# A KL over N counterparts is log N at most; this close to it, it mostly shows N.
NEAR_LOG_N = 1.0
# Share of rows so close from which on most of a ranking is arbitrary.
SATURATED = 0.5
# Below this, ranks by KL share less than half of their variance (correlation 0.74, squared 0.54)
# with those over a pool of 80,000: see docs/scaling.md.
ENOUGH_TO_RANK = 40_000
# Standard errors by which the mean log ratio has to exceed 0.
CLEARLY = 2.0


def saturated_share(query: ScoreQuery, column: str, pairs: int) -> float:
    """Return the share of rows whose KL over a pool of `pairs` is within 1 nat of its limit."""
    return statistics.share(query, _saturated(column, pairs))


def _saturated(column: str, pairs: int) -> str:
    return f"{column} > {math.log(max(pairs - 1, 1)) - NEAR_LOG_N}"


def caveats(query: ScoreQuery, reference: ReferenceRecord) -> list[str]:
    """Return warnings about the scores of a folder; none if nothing looks wrong."""
    pairs = reference.pairs
    near = [_saturated(name, pairs) for name in KLS]
    signs, shares = statistics.signs_and_shares(query, "log_ratio", near)
    return [*_mismatch(query, signs), *_small_pool(query, pairs, shares)]


def _mismatch(query: ScoreQuery, signs: statistics.Signs) -> list[str]:
    """Compare pairs with random ones, whose mean log ratio is negative.

    The log ratio is positive if image and caption match better than the image with the pool's
    captions, and the caption with its images, on average of their exponentiated logits. By chance,
    at most half of the pairs do.
    """
    mean, spread, rows, positive = signs
    found = []
    if missing := query.manifest.rows - rows:
        found.append(
            f"{missing:,} of {query.manifest.rows:,} pairs have no log ratio: the rest of the pool "
            "is alike to each of them, so there is nothing to compare it with"
        )
    if not rows or (mean > CLEARLY * spread / math.sqrt(rows) and positive > 0.5):
        return found
    what = "many pairs match worse than random ones"
    if positive <= 0.5:
        what = "most pairs match no better than random ones"
    found.append(
        f"{what}: the mean log ratio is {mean:.3f} nats, and it is positive for {positive:.0%} of "
        "them; are the captions shuffled, or is this the wrong checkpoint?"
    )
    return found


def _small_pool(query: ScoreQuery, pairs: int, shares: list[float]) -> list[str]:
    found = []
    named = zip(KLS, shares, strict=True)
    if near := [f"{name} of {share:.0%}" for name, share in named if share > SATURATED]:
        found.append(
            f"{' and '.join(near)} of the pairs is within {NEAR_LOG_N:g} nat of log N, its limit: "
            "only a larger pool or reference can rank these pairs by KL"
        )
    # Where it was measured, the reliability of the pool says more.
    if pairs < ENOUGH_TO_RANK and not query.manifest.pool_reliability:
        found.append(
            f"KLs over {pairs:,} pairs rank otherwise than those over a larger pool: below "
            f"{ENOUGH_TO_RANK:,}, less than half of the variance agrees (docs/scaling.md); the log "
            "ratio needs fewer"
        )
    return found

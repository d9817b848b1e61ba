"""Selections as one would write them first: lists, sorts and loops.

Draws take `order`, a dict from key hash to the row's place in the random order (64 bits).
"""

import math


def is_number(value):
    return value is not None and not math.isnan(value)


def top(rows, n, sign=1):
    ranked = [row for row in rows if is_number(row["x"])]
    return sorted(ranked, key=lambda row: (-sign * row["x"], row["key_hash"]))[:n]


def uniform(rows, n, bins, order):
    """Take one row from each bin that has one left, round by round, starting at the top bin."""
    ranked = [row for row in rows if is_number(row["x"])]
    if not ranked:
        return []
    low, high = min(row["x"] for row in ranked), max(row["x"] for row in ranked)
    held = [[] for _ in range(bins)]
    for row in sorted(ranked, key=lambda row: order[row["key_hash"]]):
        place = 0
        if high > low:
            place = min(bins - 1, math.floor((row["x"] - low) / (high - low) * bins))
        held[place].append(row)
    kept = []
    while len(kept) < n and any(held):
        for bin_rows in reversed(held):
            if bin_rows and len(kept) < n:
                kept.append(bin_rows.pop(0))
    return kept


def sample(rows, n, order, weight=None):
    """Keep the largest log weights plus Gumbel noise."""

    def perturbed(row):
        u = ((order[row["key_hash"]] >> 11) + 0.5) / 2**53
        return math.log(1.0 if weight is None else row[weight]) - math.log(-math.log(u))

    able = [r for r in rows if weight is None or (is_number(r[weight]) and r[weight] > 0)]
    return sorted(able, key=lambda row: (-perturbed(row), order[row["key_hash"]]))[:n]


def balance(rows, cap, order):
    """Keep `cap` rows of each value of c: the best by x, or without x the first in `order`.

    Without a cap, a row is kept if its place is at most its own w.
    """
    able = [row for row in rows if row["c"] is not None and (order or is_number(row["x"]))]

    def rank(row):
        h = row["key_hash"]
        return (0, order[h]) if order else (-row["x"], h)

    kept, seen = [], {}
    for row in sorted(able, key=rank):
        seen[row["c"]] = seen.get(row["c"], 0) + 1
        if seen[row["c"]] <= (row["w"] if cap is None else cap):
            kept.append(row)
    return kept

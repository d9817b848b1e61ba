"""Rules of selection as anyone would first write them: lists, sorts and loops."""

import hashlib
import math

BITS = 2**64


def is_number(value):
    return value is not None and not math.isnan(value)


def seeded_hash(key_hash, seed):
    digest = hashlib.blake2b(f"seed {seed}".encode(), digest_size=8).digest()
    first = key_hash * (int.from_bytes(digest, "little") | 1) % BITS
    return (first ^ (first >> 32)) * 0x9E3779B97F4A7C15 % BITS


def top(rows, n, sign=1):
    ranked = [row for row in rows if is_number(row["x"])]
    return sorted(ranked, key=lambda row: (-sign * row["x"], row["key_hash"]))[:n]


def uniform(rows, n, bins, seed):
    """Round by round, one row from each bin that still has one; the last round from the top bin."""
    ranked = [row for row in rows if is_number(row["x"])]
    if not ranked:
        return []
    low, high = min(row["x"] for row in ranked), max(row["x"] for row in ranked)
    held = [[] for _ in range(bins)]
    for row in sorted(ranked, key=lambda row: seeded_hash(row["key_hash"], seed)):
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


def sample(rows, n, seed, weight=None):
    def race(row):
        u = ((seeded_hash(row["key_hash"], seed) >> 11) + 0.5) / 2**53
        return math.log(1.0 if weight is None else row[weight]) - math.log(-math.log(u))

    able = [r for r in rows if weight is None or (is_number(r[weight]) and r[weight] > 0)]
    return sorted(able, key=lambda row: (-race(row), seeded_hash(row["key_hash"], seed)))[:n]


def balance(rows, cap, seed, by_score):
    able = [row for row in rows if row["c"] is not None and (not by_score or is_number(row["x"]))]

    def order(row):
        h = row["key_hash"]
        return (-row["x"], h) if by_score else (0, seeded_hash(h, seed))

    kept, seen = [], {}
    for row in sorted(able, key=order):
        seen[row["c"]] = seen.get(row["c"], 0) + 1
        if seen[row["c"]] <= cap:
            kept.append(row)
    return kept

"""Words for messages: numbers with their nouns, and names that a user may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def count(number: int, noun: str) -> str:
    """Return a number with its noun: "1 shard", "1,200 shards"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def closest(name: str, known: Sequence[str], most: int = 3) -> str:
    """Return a hint for a name that is not `known`: the closest names; empty if none is close."""
    close = difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    close += [k for k in known if k not in close and (name in k or k in name)][: most - len(close)]
    return f"did you mean {' or '.join(close)}?" if close else ""

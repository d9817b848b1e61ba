"""Text from shards, so that a page can show it."""

from __future__ import annotations

import re

# Controls, what turns the direction of text that follows, lone surrogates, and Unicode's tags.
HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
)
LONGEST = 2_000


def plain(text: str | None, longest: int = LONGEST) -> str:
    """Return text without what would disturb its surroundings, and cut if it is very long."""
    shown = HARMFUL.sub("\N{REPLACEMENT CHARACTER}", text or "")
    return shown if len(shown) <= longest else shown[:longest] + "\N{HORIZONTAL ELLIPSIS}"

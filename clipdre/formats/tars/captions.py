"""What a caption shows without a tokenizer, so that `score` and `doctor` agree."""

from __future__ import annotations

import html
import re
import unicodedata

# A tokenizer of CLIP reads these names as its own marks, not as text.
MARKS = re.compile(r"<(start|end)_of_text>", re.IGNORECASE)


def says_nothing(caption: str) -> bool:
    """Return whether a caption has no visible character once its HTML entities are read."""
    text = MARKS.sub("", html.unescape(html.unescape(caption)))
    return not any(_is_visible(character) for character in text)


def longest_word(caption: str) -> int:
    """Return the length of the longest stretch without a space."""
    return max(map(len, caption.split()), default=0)


def _is_visible(character: str) -> bool:
    # Spaces, control characters such as NUL, and format characters such as a byte order mark.
    return not character.isspace() and unicodedata.category(character) not in ("Cc", "Cf", "Zs")

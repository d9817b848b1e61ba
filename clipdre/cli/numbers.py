"""Counts and sizes as people write them: 10k, 1.5M, 500MB."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from clipdre.words import whole_number


@dataclass(frozen=True)
class Count:
    """Parses a count: digits, or a number with the suffix k, M, G or T.

    Attributes
    ----------
    least : int
        Smaller counts are refused.
    """

    least: int = 1

    def __call__(self, value: str | int) -> int:
        """Return the count; `typer.BadParameter` if it is none, or too small."""
        try:
            number = whole_number(str(value))
        except ValueError:
            problem = f"{str(value)!r} is not a count"
            raise typer.BadParameter(f"{problem}: use a number such as 2000, 10k or 1.5M") from None
        if number < self.least:
            raise typer.BadParameter(f"use a value greater than or equal to {self.least}")
        return number


def parse_bytes(value: str | int) -> int:
    """Parse ``500MB``, ``1G`` or a plain number of bytes."""
    text = str(value).strip()
    try:
        size = whole_number(text.upper().removesuffix("B"))
    except ValueError:
        size = 0
    if size < 1:
        raise typer.BadParameter(f"invalid size {text!r}: use bytes or a suffix, e.g. 500MB")
    return size

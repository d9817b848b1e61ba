"""The two sides of a pair."""

from __future__ import annotations

from enum import StrEnum


class Modality(StrEnum):
    """Image or text; in a column's name, the side that is conditioned on."""

    IMAGE = "image"
    TEXT = "text"

    @property
    def other(self) -> Modality:
        """The side that this one is compared with."""
        return Modality.TEXT if self is Modality.IMAGE else Modality.IMAGE

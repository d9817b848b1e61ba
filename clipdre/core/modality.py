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


class Modalities(StrEnum):
    """Image, text, or both as one vector: a setting of what looks at vectors."""

    IMAGE = "image"
    TEXT = "text"
    BOTH = "both"

    @property
    def each(self) -> tuple[Modality, ...]:
        """The modalities that are meant."""
        return tuple(Modality) if self is Modalities.BOTH else (Modality(self.value),)

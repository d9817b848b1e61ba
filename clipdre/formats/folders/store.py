"""What score folders ask of the place where they are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Store(Protocol):
    """What a score folder does with its store; nothing if it is on a disk only."""

    @property
    def name(self) -> str:
        """The path or URL, without secrets."""
        ...

    def fetch(self, *paths: Path) -> None:
        """Fetch what is missing at or below paths of the score folder.

        Raises
        ------
        InputError
            If it cannot be read.
        ScoresError
            If another run has replaced the scores since they were opened.
        """
        ...

    def push(self) -> None:
        """Put what is new or has changed into the store; `OutputError` if that fails."""
        ...

    def publish(self, path: Path) -> None:
        """Put a file into the store unless it has one, which then takes its place here."""
        ...

    def claim(self, path: Path) -> None:
        """Let `settle` remove what the store has at or below a path and was never fetched."""
        ...

    def settle(self) -> None:
        """`push`, then remove from the store what has been removed here."""
        ...

    def check_writable(self) -> None:
        """Raise `OutputError` if the store cannot be written to."""
        ...

    def sizes(self) -> dict[str, int] | None:
        """Return the bytes of each file in the store; None if there is no store."""
        ...

    def holds(self, url: str) -> bool:
        """Whether a URL is that of a file which a run over the score folder may replace."""
        ...

    @property
    def shared(self) -> Path | None:
        """The scratch folder that workers have to see; None if there is no store."""
        ...


@dataclass(frozen=True)
class NoStore:
    """What a score folder on a disk has in the place of a store; see `Store`."""

    name: str

    def fetch(self, *paths: Path) -> None:
        """Do nothing."""

    def push(self) -> None:
        """Do nothing."""

    def publish(self, path: Path) -> None:
        """Do nothing."""

    def claim(self, path: Path) -> None:
        """Do nothing."""

    def settle(self) -> None:
        """Do nothing."""

    def check_writable(self) -> None:
        """Do nothing: files are written next to their final place."""

    def sizes(self) -> dict[str, int] | None:
        """Return None."""
        return None

    def holds(self, url: str) -> bool:  # noqa: ARG002
        """Return False."""
        return False

    @property
    def shared(self) -> Path | None:
        """None."""
        return None

"""`clipdre scorers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipdre.scorers.base import Scorer

EXAMPLE = "Example:  clipdre scorers"


def scorers() -> None:
    """List the scorers that 'clipdre measure' knows, including those of installed packages."""
    from clipdre.cli.terminal import table
    from clipdre.scorers.registry import scorers as known

    table(
        "Scorers",
        ("name", "measures", "columns", "source"),
        [
            (
                name,
                _described(scorer),
                "\n".join(_columns(scorer)),
                scorer.source,
            )
            for name, scorer in known().items()
        ],
        words=4,
        stdout=True,
    )


def _described(scorer: type[Scorer]) -> str:
    """Return what a scorer measures, and what it has to do for it."""
    cost = getattr(scorer, "cost", "")
    return f"{scorer.title}\n({cost})" if cost else scorer.title


def _columns(scorer: type[Scorer]) -> list[str]:
    """Return the columns that a scorer adds, with its example's settings."""
    return [column.name for column in scorer(**scorer.example).columns()]

"""`clipdre scorers`."""

from __future__ import annotations

EXAMPLE = "Example:  clipdre scorers"


def scorers() -> None:
    """List the scorers that 'clipdre measure' knows, installed ones included."""
    from clipdre.cli.terminal import table
    from clipdre.scorers.registry import scorers as known

    table(
        "Scorers",
        ("name", "measures", "source"),
        [(name, scorer.title, scorer.source) for name, scorer in known().items()],
        words=3,
        stdout=True,
    )

"""A score folder as `clipdre filter` queries it."""

from __future__ import annotations

from clipdre.cli import signals
from clipdre.sql.query import ScoreQuery


class MeasurableQuery(ScoreQuery):
    """A `ScoreQuery` that knows which scorer adds a missing column."""

    def stuck(self) -> None:
        """End the process, which is the only way to stop one call of a function."""
        late = f"the selection took longer than {self.time_limit:g} s"
        signals.end(1, f"clipdre: error: {late}: simplify it, or raise --time-limit\n")

    def unknown_column(self, name: str) -> tuple[str, str]:
        """See `ScoreQuery`."""
        from clipdre.scorers.registry import scorers  # loads torch

        problem, cure = super().unknown_column(name)
        for scorer, kind in scorers().items():
            columns = [column.name for column in kind(**kind.example).columns()]
            if name in columns and name not in self._stale:
                return problem, f"add it with 'clipdre measure SCORES {scorer}'"
        return problem, cure

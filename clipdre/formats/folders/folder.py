"""Where the files of a score folder are."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from clipdre.formats.files.storage import TEMPORARY_PREFIX
from clipdre.formats.folders.manifest import MANIFEST

# Everything that a run writes below its folder, besides the manifest.
PARTS = ("scores", "failures", "embeddings", "reference", "columns")


@dataclass(frozen=True)
class ScoreFolder:
    """A folder that `clipdre score` writes: manifest, scores, failures, embeddings."""

    path: Path

    def scores(self, shard: str) -> Path:
        """Return the path of a shard's scores: one row per scored sample, in shard order."""
        return self.path / "scores" / f"{shard}.parquet"

    def failures(self, shard: str) -> Path:
        """Return the path of a shard's failures: one row per sample without scores."""
        return self.path / "failures" / f"{shard}.parquet"

    @property
    def embeddings(self) -> Path:
        """Embeddings of all shards, in clip-retrieval's layout."""
        return self.path / "embeddings"

    @property
    def reference(self) -> Path:
        """What stands for the pool's marginals."""
        return self.path / "reference"

    @property
    def columns(self) -> Path:
        """Columns that scorers measured, a folder each."""
        return self.path / "columns"

    def failure_counts(self, shard: str) -> dict[str, int]:
        """Return how many samples of the shard failed, by reason."""
        reasons = pq.read_table(self.failures(shard), columns=["reason"])["reason"].to_pylist()
        return dict(sorted(Counter(reasons).items()))

    def is_foreign(self) -> bool:
        """Whether the path holds something that `clipdre score` did not make."""
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            return True
        if (self.path / MANIFEST).exists():
            return False
        # A run that was killed at its very start leaves nothing but a temporary file.
        return any(not path.name.startswith(TEMPORARY_PREFIX) for path in self.path.iterdir())

    def clear(self) -> None:
        """Remove the files of a run except its manifest; other files in the folder stay."""
        for name in PARTS:
            shutil.rmtree(self.path / name, ignore_errors=True)

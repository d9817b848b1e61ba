"""How far a run is that has not finished yet."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from clipdre.formats.files.parquet import count_rows, read_stamp
from clipdre.formats.folders.embeddings import embedding_files
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Unfinished:
    """How far a run is that has not finished yet.

    Attributes
    ----------
    manifest : Manifest
        With the counts of the shards that are encoded.
    replaces : bool
        Whether its scores are to replace finished ones in the same folder.
    encoded, scored : int
        Number of shards.
    encoded_bytes : int
        Size of the encoded shards.
    """

    manifest: Manifest
    replaces: bool
    encoded: int
    scored: int
    encoded_bytes: int

    @property
    def nbytes(self) -> int:
        """Size of all shards."""
        return sum(shard.nbytes for shard in self.manifest.shards)


def find_unfinished(folder: ScoreFolder) -> Unfinished | None:
    """Return how far the run is that has not finished in a score folder; None if all have.

    Raises
    ------
    ScoresError
        If the path is not a score folder.
    """
    manifest, replaces = read_manifest(folder.path), False
    if manifest.complete:
        folder, replaces = folder.replacement, True
        if not folder.path.exists() or folder.is_foreign() or folder.is_new():
            return None
        manifest = read_manifest(folder.path)
    folder.store.fetch(
        folder.embeddings / "metadata", folder.path / "failures", folder.path / "scores"
    )
    files = embedding_files(folder.embeddings, len(manifest.shards))
    encoded = {
        shard.name: msgspec.structs.replace(
            shard, rows=count_rows(own.metadata), failures=folder.failure_counts(shard.name)
        )
        for shard, own in zip(manifest.shards, files, strict=True)
        if read_stamp(own.metadata) and folder.failures(shard.name).exists()
    }
    shards = tuple(encoded.get(shard.name, shard) for shard in manifest.shards)
    return Unfinished(
        manifest=msgspec.structs.replace(manifest, shards=shards),
        replaces=replaces,
        encoded=len(encoded),
        scored=sum(folder.scores(shard.name).exists() for shard in shards),
        encoded_bytes=sum(shard.nbytes for shard in encoded.values()),
    )

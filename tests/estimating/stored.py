"""Small pools of stored embeddings, their references, and naive estimates from their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipdre.config import EstimateConfig
from clipdre.core.modality import Modality
from clipdre.estimating.reference import build_reference
from clipdre.formats.folders.embeddings import StoredPool, embedding_files
from clipdre.formats.folders.records import ModelRecord, ReferenceRecord
from clipdre.formats.folders.reference import ReferenceFolder
from clipdre.formats.folders.tables import SAMPLE_SCHEMA, key_hashes
from tests.core.oracle import Floats

SCALE, BIAS = 30.0, -2.0


def model_of(dim: int, digest: str = "made-up", scale: float = SCALE) -> ModelRecord:
    """Make up a model."""
    return ModelRecord(
        name="made-up",
        pretrained=None,
        digest=digest,
        embedding_dim=dim,
        logit_scale=scale,
        logit_bias=BIAS,
        precision="fp32",
        preprocessing={},
    )


@dataclass(frozen=True)
class Stored:
    """A pool on disk.

    Attributes
    ----------
    vectors : dict
        Modality to unit vectors as they are read back, float64 of shape (n, d).
    leaders : int64 array of shape (n,)
        The row that leads each row's group; by default, all are alone.
    """

    folder: Path
    pool: StoredPool
    hashes: np.ndarray
    leaders: np.ndarray
    vectors: dict[Modality, Floats]
    model: ModelRecord

    def logits(self, queries: Modality) -> Floats:
        """Compute the logits of all queries of a modality with the other modality."""
        own, other = self.vectors[queries], self.vectors[queries.other]
        return SCALE * own @ other.T + BIAS

    def reference(
        self, config: EstimateConfig, name: str
    ) -> tuple[ReferenceFolder, ReferenceRecord]:
        """Build a reference in a folder of this name."""
        folder = ReferenceFolder(self.folder / name)
        return folder, build_reference(
            self.pool, self.hashes, self.leaders, self.model, config, folder
        )


def store(
    folder: Path,
    images: Floats,
    texts: Floats,
    sizes: Sequence[int],
    leaders: np.ndarray | None = None,
) -> Stored:
    """Write embeddings as shards of these sizes."""
    files = embedding_files(folder / "embeddings", len(sizes))
    hashes = []
    start = 0
    for n, (file, size) in enumerate(zip(files, sizes, strict=True)):
        rows = slice(start, start + size)
        own = key_hashes(f"shard {n}", [str(row) for row in range(size)])
        columns = {c: pa.nulls(size, SAMPLE_SCHEMA.field(c).type) for c in SAMPLE_SCHEMA.names}
        samples = pa.table(columns | {"key_hash": pa.array(own)}, schema=SAMPLE_SCHEMA)
        file.write(images[rows].astype(np.float16), texts[rows].astype(np.float16), samples, {})
        hashes.append(own)
        start += size
    pool = StoredPool(files)
    vectors = {m: pool.read(m, 0, len(pool)).double().numpy() for m in Modality}
    everyone = np.arange(len(pool)) if leaders is None else leaders
    model = model_of(images.shape[1])
    return Stored(folder, pool, np.concatenate(hashes), everyone, vectors, model)


@dataclass(frozen=True)
class NaiveCells:
    """The cells of one modality, read from the files of a reference.

    Attributes
    ----------
    cell : int array of shape (n,)
        Cell of each row of the pool.
    """

    cell: np.ndarray
    counts: np.ndarray
    centroids: Floats
    variances: Floats

    @classmethod
    def read(cls, folder: Path, modality: Modality, hashes: np.ndarray) -> NaiveCells:
        """Read the cells; rows are matched by key hash."""
        with np.load(folder / f"cells_{modality}.npz") as arrays:
            counts, centroids, variances = (
                arrays[name].astype(float) for name in ("counts", "centroids", "variances")
            )
        by_place = np.repeat(np.arange(len(counts)), counts.astype(int))
        place = {int(h): p for p, h in enumerate(np.load(folder / f"pool_hash_{modality}.npy"))}
        cell = np.array([by_place[place[int(h)]] for h in hashes])
        return cls(cell, counts, centroids, variances)

    def near(self, queries: Floats, margin: float) -> np.ndarray:
        """Mask the cells that may hold more than ``e^-margin`` of a query's mass, (n, cells)."""
        with np.errstate(divide="ignore"):
            level = np.log(self.counts) + SCALE**2 * self.variances / 2
        mass = level + SCALE * queries @ self.centroids.T
        top = mass.max(axis=1, keepdims=True)
        total = top + np.log(np.exp(mass - top).sum(axis=1, keepdims=True))
        return (mass > total - margin) | (mass == top)

"""Measures a scorer on a score folder, and reads what came of it."""

import numpy as np
import pyarrow.parquet as pq

from clipdre.config import MeasureConfig
from clipdre.core.modality import Modality
from clipdre.formats.folders.embeddings import StoredPool, embedding_files
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import read_complete_manifest
from clipdre.pipelines.measure import measure


def measured(scores, scorer, **options):
    """Return the measured columns over all rows, and the record."""
    manifest = read_complete_manifest(scores)
    folder = ScoreFolder(scores)
    config = MeasureConfig(device="cpu", overwrite=True, **options)
    record = measure(folder, manifest, scorer, config)
    suffix = options.get("suffix", "")
    place = folder.columns / (f"{scorer.name}-{suffix}" if suffix else scorer.name)
    tables = [pq.read_table(place / f"{shard.name}.parquet") for shard in manifest.shards]
    columns = {
        column.name: np.concatenate([table[column.name].to_numpy() for table in tables])
        for column in record.columns
    }
    return columns, record


def stored_vectors(scores, modality):
    """Return the unit vectors of all rows in float64."""
    count = len(read_complete_manifest(scores).shards)
    pool = StoredPool(embedding_files(ScoreFolder(scores).embeddings, count))
    return pool.read(modality, 0, len(pool)).double().numpy()


def store_vectors(scores, images, texts):
    """Replace the embeddings of all rows, and keep the rest of the score folder."""
    manifest = read_complete_manifest(scores)
    ends = np.cumsum([shard.rows for shard in manifest.shards])[:-1]
    files = embedding_files(ScoreFolder(scores).embeddings, len(manifest.shards))
    for modality, vectors in ((Modality.IMAGE, images), (Modality.TEXT, texts)):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for file, part in zip(files, np.split(unit, ends), strict=True):
            np.save(file.array(modality), part.astype(np.float16))

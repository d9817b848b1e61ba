"""Estimation as work for an engine: a range of shards in, their score files written."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from clipdre.core.moments import Moments
from clipdre.core.reliability import split_half
from clipdre.core.scores import MAIN_COLUMNS
from clipdre.engines.base import Advance
from clipdre.estimating.estimate import (
    Columns,
    Estimator,
    estimate_rows,
    query_rows,
    usable_reference,
)
from clipdre.formats.files.parquet import read_stamp, read_table, write_table
from clipdre.formats.folders.columns import ROWS
from clipdre.formats.folders.embeddings import StoredPool, embedding_files
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.kept import kept_columns, kept_types, samples_stamp
from clipdre.formats.folders.manifest import PROBABILITIES, Manifest
from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.folders.reference import ReferenceFolder
from clipdre.formats.folders.tables import row_digest, sample_rows, scores_table
from clipdre.sql.query import ScoreQuery
from clipdre.sql.statistics import quantiles

# Threads that write score files: most of it is waiting for the disk.
WRITERS = 4
REFERENCE, TAU, HALVES = "clipdre.reference", "clipdre.tau", "clipdre.halves"
# Pairs of the pool that is scored, and where the shard is: a column depends on each of them.
PAIRS, CONTRIBUTION = "clipdre.pairs", "kl_contribution"
PLACE, PATH = "clipdre.place", "path"
# The sample columns, so that all files of a folder have the same ones.
SAMPLES = "clipdre.samples"


@dataclass(frozen=True)
class EstimateWork:
    """Scores shards against a reference.

    Attributes
    ----------
    folder : ScoreFolder
    manifest : Manifest
        With the counts of all shards.
    reference : Path
        Of a complete reference, of this run or another one.
    tau : int or None
        Negatives per positive in the model's training: adds `log_ratio_tau` and the like.
    """

    folder: ScoreFolder
    manifest: Manifest
    reference: Path
    tau: int | None

    def start(self, device: str, advance: Advance) -> Callable[[range], None]:
        """See `clipdre.engines.base.Work`; an item is a range of shards."""
        files = embedding_files(self.folder.embeddings, len(self.manifest.shards))
        pool, hashes = StoredPool(files), np.concatenate([file.hashes() for file in files])
        reference = ReferenceFolder(self.reference)
        model = self.manifest.model
        estimator = Estimator(reference, model, torch.device(device), tau=self.tau)
        kept = kept_types(self.manifest.reading.keep, files)
        places = _places(self.manifest)

        def do(shards: range) -> None:
            start, stop = pool.starts[shards.start], pool.starts[shards.stop]
            stamps = {
                n: {
                    REFERENCE: estimator.record.digest,
                    TAU: str(self.tau),
                    SAMPLES: samples_stamp(self.manifest.reading, kept),
                    ROWS: row_digest(hashes[pool.starts[n] : pool.starts[n + 1]]),
                }
                for n in shards
            }
            paths = {n: self.folder.scores(self.manifest.shards[n].name) for n in shards}
            found = {n: read_stamp(paths[n]) for n in shards}
            if all(stamps[n].items() <= found[n].items() for n in shards):
                for n in shards:
                    _update(paths[n], found[n], len(pool), places[n])
            else:
                estimates = estimate_rows(pool, hashes, estimator, start, stop)

                def write(n: int) -> None:
                    part = estimates[pool.starts[n] - start : pool.starts[n + 1] - start]
                    samples = files[n].samples()
                    rows = sample_rows(samples, places[n], kept_columns(samples, kept))
                    table = scores_table(rows, part.columns)
                    now = _stamp(len(pool), places[n])
                    stamp = {**now, HALVES: encoded(part.halves)}
                    write_table(table, paths[n], {**stamps[n], **stamp})

                with ThreadPoolExecutor(WRITERS) as threads:
                    list(threads.map(write, shards))
            advance(stop - start, stop - start)

        return do


def update_places(folder: ScoreFolder, manifest: Manifest) -> None:
    """Write where the shards are now into the scores of those that were moved."""
    for shard, place in zip(manifest.shards, _places(manifest), strict=True):
        path = folder.scores(shard.name)
        stamp = read_stamp(path)
        if PLACE in stamp:  # older files do not say it
            _update(path, stamp, int(stamp[PAIRS]), place)


def _places(manifest: Manifest) -> list[str | None]:
    """Return where each shard is, as score files say it; None without tars."""
    return [shard.place if manifest.has_tars else None for shard in manifest.shards]


def _stamp(pairs: int, place: str | None) -> dict[str, str]:
    return {PAIRS: str(pairs), PLACE: place or ""}


def _update(path: Path, stamp: Mapping[str, str], pairs: int, place: str | None) -> None:
    """Bring the scores of a shard up to a pool that has grown, or to where the shard is now."""
    now = _stamp(pairs, place)
    if now.items() <= stamp.items():
        return
    table = read_table(path)
    ratios = table["log_ratio"].to_numpy().astype(np.float64)
    columns = {
        CONTRIBUTION: pa.array((ratios / pairs).astype(np.float32)),
        PATH: pa.array([place] * len(table), pa.string()),
    }
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    write_table(table, path, {**stamp, **now})


def shard_ranges(
    shards: Sequence[ShardRecord], reference: Path, manifest: Manifest, device: str
) -> list[range]:
    """Split shards into ranges that are estimated together: each costs a pass over the pool."""
    record = usable_reference(reference, manifest.model)
    return list(_ranges(shards, query_rows(record, torch.device(device))))


def encoded(halves: Columns) -> str:
    """Return the moments of columns against both halves of the pool, as a score file keeps them."""
    found = {}
    for name, values in halves.items():
        finite = torch.from_numpy(values[np.isfinite(values).all(axis=1)])
        moments = Moments.of(finite)
        found[name] = [moments.count, moments.mean.tolist(), moments.covariance.tolist()]
    return json.dumps(found)


def pool_reliability(halves: Iterable[str]) -> dict[str, float]:
    """Return the correlation of each column between both halves of the pool.

    Columns that do not vary have none. See `clipdre.core.reliability.split_half`.

    Parameters
    ----------
    halves : iterable of str
        What `encoded` gave for each shard.
    """
    parts: dict[str, array[float]] = {}
    for raw in halves:
        for name, (rows, mean, covariance) in json.loads(raw).items():
            parts.setdefault(name, array("d")).extend((rows, *mean, *chain(*covariance)))
    found = {name: split_half(_united(numbers)) for name, numbers in parts.items()}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _united(numbers: array[float]) -> Moments:
    shards = torch.frombuffer(numbers, dtype=torch.float64).view(-1, 7)
    return Moments.union(shards[:, 0], shards[:, 1:3], shards[:, 3:].view(-1, 2, 2))


def pool_quantiles(folder: ScoreFolder, manifest: Manifest) -> dict[str, tuple[float, ...]]:
    """Return the quantiles of the main columns at `PROBABILITIES`, as the manifest keeps them."""
    found = quantiles(ScoreQuery(folder, manifest), MAIN_COLUMNS, PROBABILITIES)
    return {name: tuple(v) for name, v in found.items() if all(map(math.isfinite, v))}


def _ranges(shards: Sequence[ShardRecord], most: int) -> Iterator[range]:
    start = rows = 0
    for n, shard in enumerate(shards):
        rows += shard.rows
        if rows >= most or n == len(shards) - 1:
            yield range(start, n + 1)
            start, rows = n + 1, 0

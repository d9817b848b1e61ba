"""The pool as a scorer's `fit` sees it: passes that run on the engine and resume."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from clipdre.core.modality import Modality
from clipdre.core.spherical import concatenated
from clipdre.engines.base import Advance, Engine
from clipdre.errors import InputError, ScoresError, UsageError
from clipdre.estimating.alike import find_leaders, inverse
from clipdre.formats.files.storage import committed
from clipdre.formats.folders.columns import row_digests
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.folders.parts import (
    Parts,
    digest_of,
    read_part,
    stamp_of,
    write_part,
)
from clipdre.models.encoder import Encoder
from clipdre.pipelines.batches import Clusters, joined
from clipdre.pipelines.rows import PoolReader, StoredRows
from clipdre.pipelines.targets import target_texts, target_tiles
from clipdre.progress import Progress
from clipdre.scorers.base import Arrays, Cluster
from clipdre.slices import Slice

Part = Callable[[StoredRows], Arrays]
ClusterPart = Callable[[Cluster], Arrays]
Merge = Callable[[Arrays, Arrays], Arrays]


class WaitingError(Exception):
    """A slice has done its part of a step, and other slices have not: its result is unknown.

    Parameters
    ----------
    step : str
    missing : int
        Parts that other slices have to compute.
    """

    def __init__(self, step: str, missing: int) -> None:
        super().__init__(step, missing)
        self.step, self.missing = step, missing


@dataclass(frozen=True)
class ReduceWork:
    """Reduces one shard after another to arrays, and keeps them in files."""

    folder: ScoreFolder
    manifest: Manifest
    rows_at_once: int
    parts: Path
    part: Part
    merge: Merge

    def start(self, device: str, advance: Advance) -> Callable[[tuple[int, str]], None]:
        """See `clipdre.engines.base.Work`; an item is a shard's index and its part's stamp."""
        reader = PoolReader(self.folder, self.manifest, device, self.rows_at_once)

        def do(item: tuple[int, str]) -> None:
            shard, stamp = item
            merged: Arrays | None = None
            for rows in reader.rows(shard):
                found = self.part(rows)
                merged = found if merged is None else self.merge(merged, found)
                advance(len(rows), len(rows))
            write_part(self.parts / f"{shard}.safetensors", merged or {}, stamp)

        return do


@dataclass(frozen=True)
class ClusterWork:
    """Computes one batch of clusters after another, and keeps the results in files."""

    folder: ScoreFolder
    manifest: Manifest
    clusters: Clusters
    stamp: str
    part: ClusterPart

    def start(self, device: str, advance: Advance) -> Callable[[tuple[list[int], Path]], None]:
        """See `clipdre.engines.base.Work`; an item is the clusters of a batch, and its file."""
        reader = PoolReader(self.folder, self.manifest, device)

        def do(item: tuple[list[int], Path]) -> None:
            batch, path = item
            found = []
            for cluster in self.clusters.members(reader, batch):
                found.append(self.part(cluster))
                advance(len(cluster), len(cluster))
            write_part(path, joined(found), self.stamp)

        return do


@dataclass
class FitPool:
    """The pool as `fit` sees it; see `clipdre.scorers.base.Pool`.

    It records what was asked for (`asked`), and what came of it (`inputs`): together with the
    settings this decides what is learned, up to rounding, so it goes into the stamp of what is
    measured.

    With a `slice`, a pass computes only the parts of that slice, and raises `WaitingError` unless
    the others are there. What is not computed in parts is kept from whichever slice was first, so
    that all learn from the same.
    """

    reader: PoolReader
    engine: Engine
    identity: Mapping[str, Any]
    parts: Path
    inputs: list[str] = field(default_factory=list)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    slice: Slice | None = None

    def write_asked(self, path: Path) -> None:
        """Write what was asked for, so that `ask_again` can find out whether it is still the same.

        So a second run of a scorer that is done need not fit it again, which may take hours.
        """
        with committed(path) as temporary:
            temporary.write_bytes(msgspec.json.encode(self.asked))

    def ask_again(self, path: Path) -> None:
        """Ask for what an earlier run asked for, without learning from it; nothing if unknown."""
        try:
            asked = msgspec.json.decode(path.read_bytes(), type=list[tuple[str, ...]])
        except (OSError, ValueError):
            return
        for what in asked:
            match what:
                case "column", name:
                    self.column(name)
                case "has_column", name:
                    self.has_column(name)
                case "texts", place:
                    for _ in self.texts(place):
                        pass
                case "target", place, modality:
                    for _ in self.target(place, Modality(modality)):
                        pass
                case ("model",):
                    self._record_model()
                case _:
                    self._record_pool()

    def __len__(self) -> int:
        return self.reader.manifest.rows

    @cached_property
    def _digests(self) -> list[str]:
        return row_digests(self.reader.folder, self.reader.manifest.shards)

    @property
    def encoder(self) -> Encoder:
        """See `Pool`."""
        self._record_model()
        return self.reader.encoder

    @property
    def logit_scale(self) -> float:
        """See `Pool`."""
        self._record_model()
        model = self.reader.manifest.model
        if model.inner_product:
            problem = "these scores are of inner products, so cosines have no logits"
            raise ScoresError(problem, "measure the scores of a model of unit vectors")
        return model.logit_scale

    def column(self, name: str) -> npt.NDArray[Any]:
        """See `Pool`; its values are part of what was asked for, since scores may change."""
        found = self.reader.whole_column(name)
        self._record(f"{name} {_digest(found)}", "column", name)
        return found

    def sample(self, n: int) -> StoredRows:
        """See `Pool`."""
        indices = self._sampled(n)
        starts, shards = self.reader.starts, range(len(self.reader.manifest.shards))
        taken = []
        for shard, (low, high) in zip(
            shards, pairwise(np.searchsorted(indices, starts).tolist()), strict=True
        ):
            if high > low:
                rows = pa.array(indices[low:high] - starts[shard])
                taken.append((shard, self.reader.samples(shard).take(rows)))
        return StoredRows(self.reader, indices, taken)

    def reduce(self, step: str, part: Part, merge: Merge) -> Arrays:
        """See `Pool`; a shard's part that is there already is not computed again."""
        found: Arrays | None = None
        for arrays in self._parts(step, part, merge):
            found = arrays if found is None else merge(found, arrays)
        return found or {}

    def collect(self, step: str, part: Part) -> Arrays:
        """See `Pool` and `reduce`."""
        return joined(list(self._parts(step, part, _in_a_row)))

    def centroids(
        self, modalities: Sequence[Modality], count: int, seed: int
    ) -> npt.NDArray[np.float32]:
        """See `Pool`; they are kept in a file, so that a resumed run has the same ones."""
        from clipdre.clusters.spherical import spherical_kmeans, training_rows  # noqa: PLC0415

        if not 0 < count <= len(self):
            raise UsageError(
                f"`clusters` {count:,} is not between 1 and the number of rows, {len(self):,}",
                "use fewer, or 0 for a number that fits the pool",
            )
        vectors = self.reader.pool
        rows = self._sampled(training_rows(count, vectors.dim * len(modalities)))
        path, stamp = self._once(f"centroids-{'-'.join(modalities)}-{count}-{seed}")
        if stamp_of(path) != stamp:
            training = concatenated([vectors.take(modality, rows) for modality in modalities])
            found = spherical_kmeans(training, count, seed).numpy()
            write_part(path, {"centroids": found}, stamp, first=True)
            self.reader.folder.store.publish(path)
        centroids: npt.NDArray[np.float32] = read_part(path)["centroids"]
        return centroids

    def alike(self, modality: Modality, threshold: float) -> npt.NDArray[np.int64]:
        """See `Pool`; the search is that of `clipdre score`."""
        self._record_pool()
        path, stamp = self._once(f"alike-{modality}-{threshold}")
        if stamp_of(path) != stamp:
            by_rank = np.argsort(self.reader.all_hashes, kind="stable")
            parts = Parts(self.parts / path.stem, stamp)
            pool = self.reader.pool
            leaders = find_leaders(pool, by_rank, threshold, parts, self.engine, (modality,))
            write_part(path, {"leaders": leaders}, stamp, first=True)
            self.reader.folder.store.publish(path)
            if self.slice is None:  # other slices may be reading them
                parts.remove()
        found: npt.NDArray[np.int64] = read_part(path)["leaders"]
        return found

    def by_cluster(
        self,
        step: str,
        clusters: npt.NDArray[np.integer],
        part: ClusterPart,
        near: npt.NDArray[np.integer] | None = None,
    ) -> Arrays:
        """See `Pool`; a batch of clusters that is there already is not computed again."""
        self._record_pool()
        of_pool = Clusters.of(clusters, near)
        batches = of_pool.batches()
        asked = [self.identity, self.inputs, step, _digest(clusters), _digest(of_pool.near)]
        stamp = digest_of([*asked, batches])
        parts = self.parts / step
        paths = [parts / f"{number}.safetensors" for number in range(len(batches))]
        stamps = [stamp] * len(batches)
        missing = [(batches[n], paths[n]) for n in self._missing(paths, stamps)]
        work = ClusterWork(self.reader.folder, self.reader.manifest, of_pool, stamp, part)
        sizes = np.bincount(clusters)
        with Progress(step, sum(int(sizes[batch].sum()) for batch, _ in missing)) as progress:
            for _ in self.engine.run(work, missing, progress.advance):
                pass
        self._await_others(step, paths, stamps)
        found = joined([read_part(path) for path in paths])
        places = inverse(np.argsort(clusters, kind="stable"))
        return {name: values[places] for name, values in found.items()}

    def _parts(self, step: str, part: Part, merge: Merge) -> Iterator[Arrays]:
        """Compute the parts of shards that are missing; yield those of all shards with rows."""
        self._record_pool()
        parts = self.parts / step
        manifest = self.reader.manifest
        stamps = [digest_of([self.identity, self.inputs, step, rows]) for rows in self._digests]
        paths = [parts / f"{index}.safetensors" for index in range(len(stamps))]
        missing = [(n, stamps[n]) for n in self._missing(paths, stamps)]
        work = ReduceWork(
            self.reader.folder, manifest, self.reader.rows_at_once, parts, part, merge
        )
        with Progress(step, sum(manifest.shards[index].rows for index, _ in missing)) as progress:
            for _ in self.engine.run(work, missing, progress.advance):
                pass
        self._await_others(step, paths, stamps)
        for path, shard in zip(paths, manifest.shards, strict=True):
            if shard.rows:
                yield read_part(path)

    def _missing(self, paths: Sequence[Path], stamps: Sequence[str]) -> list[int]:
        """Return which parts are to be computed here: those that are missing, of this slice."""
        mine = [n for n in range(len(paths)) if self.slice is None or self.slice.takes(n)]
        return [n for n in mine if stamp_of(paths[n]) != stamps[n]]

    def _await_others(self, step: str, paths: Sequence[Path], stamps: Sequence[str]) -> None:
        if self.slice is not None:
            missing = replace(self, slice=None)._missing(paths, stamps)
            if missing:
                raise WaitingError(step, len(missing))

    def _once(self, name: str) -> tuple[Path, str]:
        """Return path and stamp of what is not computed in parts: the first to write it wins."""
        stamp = digest_of([self.identity, self.inputs, f"{name}.safetensors"])
        return self.parts / f"{name}-{stamp[:12]}.safetensors", stamp

    def has_column(self, name: str) -> bool:
        """See `Pool`; what the column holds is recorded, as it may be measured anew."""
        found = self.reader.has_column(name)
        shards = range(len(self.reader.manifest.shards)) if found else ()
        values = [digest_of(self.reader.column(shard, name).tolist()) for shard in shards]
        value = digest_of(values) if found else "missing"
        self._record(f"column {name} {value}", "has_column", name)
        return found

    def texts(self, place: str) -> Iterator[str]:
        """See `Pool`; `InputError` if there are none."""
        digest, is_empty = hashlib.blake2b(digest_size=16), True
        at = len(self.inputs)
        self._record("texts, not read to their end", "texts", place)
        for text in target_texts(Path(place)):
            digest.update(text.encode() + b"\0")
            is_empty = False
            yield text
        if is_empty:
            raise InputError(f"{place} has no texts", "name a file or score folder that has some")
        self.inputs[at] = f"texts {digest.hexdigest()}"

    def target(self, place: str, modality: Modality) -> Iterator[Tensor]:
        """See `Pool`."""
        digest, count = hashlib.blake2b(digest_size=16), 0
        at = len(self.inputs)
        self._record("target, not read to its end", "target", place, modality.value)
        for tile in target_tiles(Path(place), modality):
            if tile.shape[1] != self.reader.manifest.model.embedding_dim:
                raise InputError(
                    f"`target` {place} has vectors of length {tile.shape[1]}, the pool of "
                    f"{self.reader.manifest.model.embedding_dim}",
                    "encode it with the same model",
                )
            digest.update(tile.numpy().tobytes())
            count += len(tile)
            yield tile
        if not count:
            raise InputError(f"`target` {place} has no vectors", "name a set with rows")
        self.inputs[at] = f"target {digest.hexdigest()}"

    def _sampled(self, n: int) -> npt.NDArray[np.int64]:
        """Return the n rows of smallest key hash, ascending."""
        self._record_pool()
        return np.sort(np.argsort(self.reader.all_hashes, kind="stable")[:n])

    def _record_pool(self) -> None:
        digest = digest_of([self.reader.manifest.model.identity, self._digests])
        self._record(f"pool {digest}", "pool")

    def _record_model(self) -> None:
        self._record(f"model {self.reader.manifest.model.identity}", "model")

    def _record(self, value: str, *asked: str) -> None:
        self.inputs.append(value)
        self.asked.append(asked)


def _digest(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def _in_a_row(first: Arrays, second: Arrays) -> Arrays:
    return joined([first, second])

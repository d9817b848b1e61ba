"""The stages of a scoring run over its folder, and how a second run continues the first."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import msgspec
import numpy as np

from clipdre.config import RunConfig
from clipdre.encoding.jobs import ShardJob, together
from clipdre.engines.base import Engine, Work
from clipdre.errors import OutputError, ScoresError
from clipdre.estimating.estimate import usable_reference
from clipdre.estimating.jobs import (
    EstimateWork,
    pool_quantiles,
    pool_reliability,
    shard_ranges,
    update_places,
)
from clipdre.estimating.reference import build_reference, leaders_of
from clipdre.formats.files.storage import exclusive, remove_unfinished, shared
from clipdre.formats.folders.embeddings import StoredPool, embedding_files
from clipdre.formats.folders.folder import ScoreFolder, folder_at
from clipdre.formats.folders.manifest import Manifest, read_complete_manifest, read_manifest
from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.folders.reference import ReferenceFolder
from clipdre.pipelines.checks import (
    check_share,
    check_usable,
    is_failed_try,
    note_columns,
    warn_of_fields,
    warn_of_shards,
)
from clipdre.pipelines.duplicates import Duplicates, own_pairs, write_duplicates
from clipdre.pipelines.encoded import TRANSIENT, encoding_stamp, is_encoded, recounted, take_over
from clipdre.pipelines.same_run import continued, difference, is_begun, is_same_run
from clipdre.pipelines.scored import read_scored
from clipdre.pipelines.slices import join
from clipdre.progress import Progress
from clipdre.slices import Slice
from clipdre.words import changed, count

# Python users see these lines where they configure logging at the level INFO.
LOG = logging.getLogger("clipdre")
# Subfolders that a run writes into.
WRITTEN = ("scores/**", "failures/**", "reference", "reference/*", "embeddings/*")


@dataclass(frozen=True)
class Stages:
    """Runs a plan in a score folder: encodes what is missing, estimates, writes the scores.

    Attributes
    ----------
    work : Work or None
        Turns jobs into the records of encoded shards; None if nothing is left to encode.
    source : ScoreFolder or None
        Another score folder whose embeddings are taken over.
    """

    folder: ScoreFolder
    engine: Engine
    work: Work[Sequence[ShardJob], list[ShardRecord]] | None
    source: ScoreFolder | None = None

    def run(self, planned: Manifest, run: RunConfig) -> Manifest:
        """Run the plan, or what is left of it; return the finished manifest.

        A slice only encodes; the manifest that it returns has its shards only, and is unfinished.
        """
        found = self._run(planned, run)
        if run.slice is None:
            self.folder.store.settle()
        return found

    def _run(self, planned: Manifest, run: RunConfig) -> Manifest:
        folder = self.folder
        _check_saved(planned)
        if run.slice is not None:
            return self._slice(planned, run, run.slice)
        with exclusive(folder.path):
            folder.store.fetch(folder.replacement.path, folder.abandoned.path)
            folder.finish_replacement()  # of a run that was killed at that
            if run.overwrite:
                return self._started_over(planned, run)
            if folder.is_new():
                return self._finished(planned, run, None)
            found = read_manifest(folder.path)
            try:
                planned = continued(folder, found, planned, run)
            except ScoresError:
                if not is_failed_try(folder, found):
                    raise
                folder.clear()
                return self._finished(planned, run, None)
            if is_same_run(found, planned):
                return self._finished(planned, run, found)
            folder.store.fetch(folder.path)
            if not folder.embeddings.exists() and found.complete:
                raise ScoresError(
                    f"{folder.path} keeps no embeddings, and other scores need them",
                    "score into another `output`, with its scores as `reference` if shards were "
                    "added, or pass `overwrite` to encode everything again",
                )
            for line in difference(found, planned):
                LOG.info(line)
            note_columns(folder, planned)
            return self._replaced(planned, run)

    def _slice(self, planned: Manifest, run: RunConfig, part: Slice) -> Manifest:
        """Encode the shards of a slice; other slices may run at the same time."""
        with shared(self.folder.path):
            folder, plan = join(self.folder, planned, run)
            if plan.complete:
                return plan
            remove_unfinished(folder.path, *WRITTEN)
            shards = replace(self, folder=folder)._encoded(plan, part)
            found = msgspec.structs.replace(plan, shards=shards)
        warn_of_shards(found)
        return found

    def _started_over(self, planned: Manifest, run: RunConfig) -> Manifest:
        """Run the plan in the place of whatever there is, and take over nothing from it."""
        folder = self.folder
        if is_begun(folder, planned):
            found = None if folder.is_new() else read_manifest(folder.path)
            return self._finished(planned, run, found)
        note_columns(folder)
        if not folder.replacement.is_foreign() and not is_begun(folder.replacement, planned):
            folder.replacement.clear()
        return self._replaced(planned, run, take=False)

    def _replaced(self, planned: Manifest, run: RunConfig, take: bool = True) -> Manifest:
        """Run the plan beside the old scores, which stay until the new ones are complete."""
        folder, new = self.folder, self.folder.replacement
        if new.is_foreign():
            raise OutputError(f"{new.path} is not clipdre's", "move it elsewhere")
        if not is_begun(new, planned):
            folder.abandon_replacement()
        if new.is_new():
            planned.write(new.path)
        if take:
            for source in (folder, folder.abandoned):
                self._take_over(source, new, planned)
        folder.remove_abandoned()
        finished = replace(self, folder=new)._finished(planned, run, read_manifest(new.path))
        folder.store.push()
        folder.store.claim(folder.path)
        folder.finish_replacement()
        return finished

    def _finished(self, planned: Manifest, run: RunConfig, found: Manifest | None) -> Manifest:
        """Run what is left of a plan, of which the folder holds `found`."""
        folder = self.folder
        remove_unfinished(folder.path, *WRITTEN)
        if found is not None:  # files are stamped with the record that was written first
            planned = msgspec.structs.replace(planned, model=found.model)
        if found is None or not found.complete or (self.work is not None and _has_transient(found)):
            folder.store.fetch(folder.path)
            planned.write(folder.path)  # first: if this run is killed, it is still this run
            folder.store.push()
            if self.source is not None:
                self._take_over(self.source, folder, planned)
            shards = self._encoded(planned)
            encoded = msgspec.structs.replace(planned, shards=shards)
            warn_of_shards(encoded)
            check_usable(folder, encoded)
            warn_of_fields(folder, encoded)
            check_share(folder, encoded, run.max_bad_fraction)
            found = self._estimated(encoded)
            found.write(folder.path)
        else:
            if (moved := _moved(found, planned)) != found:
                found = moved
                update_places(folder, found)  # before the manifest: if this run is killed, again
                found.write(folder.path)
            warn_of_shards(found)
        if run.discard_embeddings:
            folder.store.claim(folder.embeddings)
            shutil.rmtree(folder.embeddings, ignore_errors=True)
        return found

    def _take_over(self, source: ScoreFolder, target: ScoreFolder, planned: Manifest) -> None:
        take_over(source, target, planned, retry=self.work is not None)

    def _encoded(self, manifest: Manifest, part: Slice | None = None) -> tuple[ShardRecord, ...]:
        """Encode the shards, or those of a slice, that are not yet; return them with counts."""
        done: dict[str, ShardRecord] = {}
        jobs: list[ShardJob] = []
        files = embedding_files(self.folder.embeddings, len(manifest.shards))
        mine = list(zip(manifest.shards, files, strict=True))
        if part is not None:
            mine = [pair for position, pair in enumerate(mine) if part.takes(position)]
            needed = [[self.folder.failures(shard.name), *own.paths] for shard, own in mine]
            self.folder.store.fetch(*chain.from_iterable(needed))
        with Progress("encode", sum(shard.nbytes for shard, _ in mine)) as progress:
            for shard, own in mine:
                stamp = encoding_stamp(manifest, shard)
                if is_encoded(self.folder, shard, own, stamp, retry=self.work is not None):
                    done[shard.name] = recounted(self.folder, shard, own, of_tar=manifest.has_tars)
                    progress.skip(shard.nbytes)
                else:
                    failures = self.folder.failures(shard.name)
                    jobs.append(ShardJob(shard, own, failures, stamp))
            if jobs and self.work is None:
                raise ScoresError(
                    f"{self.source and self.source.path} lacks embeddings of "
                    f"{count(len(jobs), 'shard')}, such as {jobs[0].shard.name}",
                    "score the shards themselves",
                )
            if self.work is not None:
                for _, records in self.engine.run(self.work, together(jobs), progress.advance):
                    done |= {record.name: record for record in records}
        return tuple(done[shard.name] for shard, _ in mine)

    def _estimated(self, manifest: Manifest) -> Manifest:
        """Score all shards that are not scored yet; return the finished manifest."""
        config = manifest.estimating
        files = embedding_files(self.folder.embeddings, len(manifest.shards))
        pool, hashes = StoredPool(files), np.concatenate([file.hashes() for file in files])
        own = ReferenceFolder(self.folder.reference)
        reference, kept = own.path, manifest.keeps_reference
        if config.saved is not None:
            reference, kept = folder_at(config.saved).reference, True
        alike = usable_reference(reference, manifest.model).alike if kept else config.alike
        leaders = leaders_of(pool, hashes, manifest.model, alike, own, self.engine)
        if not kept:
            together = own_pairs(manifest, files, leaders)
            build_reference(pool, hashes, together, manifest.model, config, own, self.engine)
        work = EstimateWork(self.folder, manifest, reference, config.tau)
        ranges = shard_ranges(manifest.shards, reference, manifest, self.engine.devices[0])
        with Progress("estimate", manifest.rows) as progress:
            for _ in self.engine.run(work, ranges, progress.advance):
                pass
        record = usable_reference(reference, manifest.model)
        scored = read_scored(self.folder, manifest.shards)
        write_duplicates(self.folder, manifest, Duplicates(hashes, leaders, alike), scored)
        return msgspec.structs.replace(
            manifest,
            reference=record,
            pool_reliability=pool_reliability(shard.halves for shard in scored),
            quantiles=pool_quantiles(self.folder, manifest),
            complete=True,
        )


def _moved(found: Manifest, planned: Manifest) -> Manifest:
    """Return a finished manifest with the places where its shards are now."""
    now = {shard.name: shard.url for shard in planned.shards}
    shards = (msgspec.structs.replace(shard, url=now[shard.name]) for shard in found.shards)
    return msgspec.structs.replace(found, shards=tuple(shards))


def _has_transient(manifest: Manifest) -> bool:
    """Whether a shard could not be read to its end, which another try may cure."""
    return any(TRANSIENT & shard.failures.keys() for shard in manifest.shards)


def _check_saved(planned: Manifest) -> None:
    """Refuse another run's reference that is missing or of another model, before encoding."""
    config, model = planned.estimating, planned.model
    if config.saved is None:
        return
    folder = folder_at(config.saved)
    saved = read_complete_manifest(folder.path).model
    folder.store.fetch(folder.reference)
    usable_reference(folder.reference, model)
    difference = saved.redefined(model)
    if difference is None and not saved.fingerprint and saved.name != model.name:
        difference = f"name ({changed(saved.name, model.name)})"
    if difference is not None:
        raise ScoresError(
            f"{config.saved} was made with the same weights, but its model differs in {difference}",
            "score with the same model, or without `reference`",
        )

"""Shards to a score folder: encode what is missing, estimate, write one file per shard."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from clipdre import __version__
from clipdre.config import EncodeConfig, EstimateConfig, ReadConfig, RunConfig
from clipdre.encoding.ingest import EmbeddingSource
from clipdre.encoding.jobs import (
    EncodeWork,
    IngestWork,
    ShardJob,
    together,
    workers_per_device,
)
from clipdre.engines.base import Engine, Work
from clipdre.engines.local import InProcess, local_engine
from clipdre.errors import InputError, OutputError, ScoresError
from clipdre.estimating.estimate import usable_reference
from clipdre.estimating.jobs import EstimateWork, pool_reliability, shard_ranges
from clipdre.estimating.reference import build_reference, leaders_of
from clipdre.formats.files.parquet import count_rows, read_table
from clipdre.formats.files.storage import exclusive, identify, real, real_paths, remove_unfinished
from clipdre.formats.folders.columns import DUPLICATES, column_folders
from clipdre.formats.folders.embeddings import EmbeddingFiles, StoredPool, embedding_files
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.kept import column_names
from clipdre.formats.folders.manifest import (
    MANIFEST,
    Manifest,
    read_complete_manifest,
    read_settings,
)
from clipdre.formats.folders.records import ModelRecord, ShardRecord, builtins
from clipdre.formats.folders.reference import ReferenceFolder
from clipdre.formats.tars.samples import Reason
from clipdre.formats.tars.shards import shard_name
from clipdre.models.load import load_encoder, usable_device, usable_devices
from clipdre.pipelines.duplicates import Duplicates, own_pairs, write_duplicates
from clipdre.pipelines.same_run import identity_of, same_run
from clipdre.progress import Progress
from clipdre.words import changed, count

# Subfolders that a run writes into.
WRITTEN = ("scores", "failures", "reference", "embeddings/*")
# Warnings about shards that are printed.
WARNED = 10
# Failures that another try may cure.
TRANSIENT = {Reason.UNREADABLE_SHARD.value, Reason.WORKER_DIED.value}


@dataclass(frozen=True)
class ScoreConfig:
    """All settings of a run."""

    read: ReadConfig = field(default_factory=ReadConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    estimate: EstimateConfig = field(default_factory=EstimateConfig)


def score(
    urls: Sequence[str],
    output: Path,
    config: ScoreConfig,
    run: RunConfig | None = None,
) -> Manifest:
    """Score the pairs of the shards `urls` against their own pool.

    A run that was killed resumes; a finished one is not run again.

    Returns
    -------
    Manifest
        Manifest of the finished folder `output`.

    Raises
    ------
    InputError, ModelError
        Before anything is written, when a shard is missing or the model cannot be loaded; later,
        when too many samples failed.
    OutputError, ScoresError
        When `output` holds something else, or a run with other settings.
    """
    folder = ScoreFolder(output)
    _check_output(folder, urls, config.estimate)
    column_names(config.read.keep)  # refuses those that cannot be
    shards = tuple(_shard_record(url) for url in urls)
    devices = usable_devices(config.encode.device)
    encoder = load_encoder(config.encode)
    encode = workers_per_device(config.encode, devices)
    # With several devices each process loads the model itself, and this one lets it go.
    work = EncodeWork(config.read, encode, encoder if len(devices) == 1 else None)
    planned = _planned(encoder.record, read_settings(config.read), config.estimate, shards)
    del encoder
    stages = _Stages(folder, config.estimate, local_engine(devices), work)
    return stages.run(planned, run or RunConfig())


def score_embeddings(
    source: EmbeddingSource,
    output: Path,
    config: EstimateConfig,
    *,
    device: str = "auto",
    run: RunConfig | None = None,
) -> Manifest:
    """Score pairs whose embeddings were made elsewhere; nothing is encoded.

    See `score`; each file of `source` takes the part of a shard.
    """
    folder = ScoreFolder(output)
    urls = source.files()
    _check_output(folder, urls, config)
    shards = tuple(_shard_record(url) for url in urls)
    planned = _planned(source.model, {"embeddings": source.layout}, config, shards)
    engine = InProcess(str(usable_device(device)))
    stages = _Stages(folder, config, engine, IngestWork(source))
    return stages.run(planned, run or RunConfig())


def _check_output(folder: ScoreFolder, urls: Sequence[str], config: EstimateConfig) -> None:
    """Refuse an output that is not a score folder, or that holds what the scores are made from."""
    if folder.is_foreign():
        damaged = ", or its manifest is damaged" if (folder.path / MANIFEST).exists() else ""
        raise OutputError(
            f"{folder.path} exists and is not a score folder{damaged}", "choose another `output`"
        )
    here = real(folder.path)
    paths = {"the input": [path for _, path in real_paths(urls)]}
    if config.saved is not None:
        paths["`reference`"] = [real(Path(config.saved))]
    for what, found in paths.items():
        if any(path.is_relative_to(here) for path in found):
            raise OutputError(f"{what} is in `output` {folder.path}", "choose another `output`")


def _planned(
    model: ModelRecord,
    read: dict[str, Any],
    config: EstimateConfig,
    shards: tuple[ShardRecord, ...],
) -> Manifest:
    return Manifest(
        clipdre_version=__version__,
        model=model,
        settings={"read": read, "estimate": builtins(config)},
        shards=shards,
    )


@dataclass(frozen=True)
class _Stages:
    """What a run needs besides its plan.

    Attributes
    ----------
    work : Work
        Turns jobs into the records of encoded shards.
    """

    folder: ScoreFolder
    config: EstimateConfig
    engine: Engine
    work: Work[Sequence[ShardJob], list[ShardRecord]]

    def run(self, planned: Manifest, run: RunConfig) -> Manifest:
        """Run the plan, or what is left of it; return the finished manifest."""
        folder = self.folder
        _check_saved(self.config, planned.model)
        with exclusive(folder.path):
            folder.finish_replacement()  # of a run that was killed at that
            if not run.overwrite or _is_begun(folder, planned):
                return self._finished(planned, run)
            _note_columns(folder)
            replacement = folder.replacement
            if replacement.is_foreign():
                raise OutputError(f"{replacement.path} is not clipdre's", "move it elsewhere")
            if not _is_begun(replacement, planned):
                replacement.clear()
            finished = replace(self, folder=replacement)._finished(planned, run)
            folder.finish_replacement()
            return finished

    def _finished(self, planned: Manifest, run: RunConfig) -> Manifest:
        folder = self.folder
        found = same_run(folder, planned)
        remove_unfinished(folder.path, *WRITTEN)
        if found is not None:  # files are stamped with the record that was written first
            planned = msgspec.structs.replace(planned, model=found.model)
        if found is None or not found.complete or _has_transient(found):
            planned.write(folder.path)  # first: if this run is killed, it is still this run
            shards = self._encoded(planned)
            encoded = msgspec.structs.replace(planned, shards=shards)
            _warn_of_shards(encoded)
            _check_usable(folder, encoded)
            _check_share(folder, encoded, run.max_bad_fraction)
            found = self._estimated(encoded)
            found.write(folder.path)
        else:
            _warn_of_shards(found)
        if run.discard_embeddings:
            shutil.rmtree(folder.embeddings, ignore_errors=True)
        return found

    def _encoded(self, manifest: Manifest) -> tuple[ShardRecord, ...]:
        """Encode the shards that are not encoded yet; return all with their counts."""
        done: dict[str, ShardRecord] = {}
        jobs: list[ShardJob] = []
        files = embedding_files(self.folder.embeddings, len(manifest.shards))
        with Progress("encode", sum(shard.nbytes for shard in manifest.shards)) as progress:
            for shard, own in zip(manifest.shards, files, strict=True):
                stamp = _encoding_stamp(manifest, shard)
                if _is_encoded(self.folder, shard, own, stamp):
                    found = _recounted(self.folder, shard, own, of_tar=manifest.has_tars)
                    done[shard.name] = found
                    progress.advance(shard.nbytes)
                else:
                    failures = self.folder.failures(shard.name)
                    jobs.append(ShardJob(shard, own, failures, stamp))
            for _, records in self.engine.run(self.work, together(jobs), progress.advance):
                done |= {record.name: record for record in records}
        return tuple(done[shard.name] for shard in manifest.shards)

    def _estimated(self, manifest: Manifest) -> Manifest:
        """Score all shards that are not scored yet; return the finished manifest."""
        files = embedding_files(self.folder.embeddings, len(manifest.shards))
        pool, hashes = StoredPool(files), np.concatenate([file.hashes() for file in files])
        own = ReferenceFolder(self.folder.reference)
        alike, device = self._alike(manifest), torch.device(self.engine.devices[0])
        leaders = leaders_of(pool, hashes, manifest.model, alike, own, device)
        reference = own.path
        if self.config.saved is not None:
            reference = ScoreFolder(Path(self.config.saved)).reference
        else:
            together = own_pairs(manifest, files, leaders)
            build_reference(pool, hashes, together, manifest.model, self.config, own)
        work = EstimateWork(self.folder, manifest, reference, self.config.tau)
        ranges = shard_ranges(manifest.shards, reference, manifest, self.engine.devices[0])
        with Progress("estimate", manifest.rows) as progress:
            for _ in self.engine.run(work, ranges, progress.advance):
                pass
        record = usable_reference(reference, manifest.model)
        _check_whole(self.folder, manifest)
        write_duplicates(self.folder, manifest, Duplicates(hashes, leaders, alike))
        return msgspec.structs.replace(
            manifest,
            reference=record,
            pool_reliability=pool_reliability(self.folder, manifest.shards),
            complete=True,
        )

    def _alike(self, manifest: Manifest) -> float:
        """Return from which cosine on pairs are alike; a saved reference brings its own."""
        if self.config.saved is None:
            return self.config.alike
        saved = ScoreFolder(Path(self.config.saved)).reference
        return usable_reference(saved, manifest.model).alike


def _is_begun(folder: ScoreFolder, planned: Manifest) -> bool:
    """Whether the folder is empty, or holds an unfinished part of the planned run."""
    try:
        found = same_run(folder, planned)
    except ScoresError:
        return False
    return found is None or not found.complete


def _note_columns(folder: ScoreFolder) -> None:
    """Warn about measured columns, which belong to the scores that are replaced."""
    measured = (columns.name for columns in column_folders(folder))
    names = ", ".join(name for name in measured if name != DUPLICATES)
    if names:
        warnings.warn(
            f"columns measured for the old scores will be removed with them: {names}; measure them "
            "again afterwards",
            stacklevel=2,
        )


def _has_transient(manifest: Manifest) -> bool:
    """Whether a shard could not be read to its end, which another try may cure."""
    return any(TRANSIENT & shard.failures.keys() for shard in manifest.shards)


def _warn_of_shards(manifest: Manifest) -> None:
    """Warn of shards that may lack samples."""
    warned = [(shard.name, text) for shard in manifest.shards for text in shard.warnings]
    for name, text in warned[:WARNED]:
        warnings.warn(f"shard {name}: {text}", stacklevel=2)
    if len(warned) > WARNED:
        more = count(len(warned) - WARNED, "more warning")
        warnings.warn(f"the manifest has {more} about shards", stacklevel=2)


def _check_usable(folder: ScoreFolder, manifest: Manifest) -> None:
    """Stop before the estimates if no sample is usable, and say why."""
    if manifest.rows or not manifest.failures:
        return
    reason, samples = next(iter(manifest.failures.items()))
    shard = next(shard for shard in manifest.shards if reason in shard.failures)
    table = read_table(folder.failures(shard.name), ["reason", "message"])
    example = table["message"][table["reason"].to_pylist().index(reason)].as_py()
    raise InputError(
        f"no pair is usable: {samples:,} of {count(manifest.samples, 'sample')} failed for "
        f"{reason} ({example})",
        "'clipdre doctor' explains each reason; if `text_key` or `image_key` is wrong, correct it "
        "and pass `overwrite`",
    )


def _check_share(folder: ScoreFolder, manifest: Manifest, most: float) -> None:
    """Stop before the estimates if too much of the pool is bad."""
    bad = manifest.samples - manifest.rows
    if bad > most * manifest.samples:
        raise InputError(
            f"{bad:,} of {count(manifest.samples, 'sample')} failed "
            f"({bad / manifest.samples:.1%}), more than `max_bad_fraction` {most:g}",
            f"see {folder.path}/failures for the reasons, or raise it to continue",
        )


def _check_whole(folder: ScoreFolder, manifest: Manifest) -> None:
    """Check that rows and failures, as the files hold them, are the samples of each shard."""
    for shard in manifest.shards:
        rows = count_rows(folder.scores(shard.name))
        failures = count_rows(folder.failures(shard.name))
        if (rows, failures) != (shard.rows, sum(shard.failures.values())):
            raise ScoresError(
                f"{shard.name}: its files hold {count(rows, 'row')} and "
                f"{count(failures, 'failure')} of {count(shard.samples, 'sample')}, "
                f"so something else wrote to {folder.path}",
                "pass `overwrite`",
            )


def _check_saved(config: EstimateConfig, model: ModelRecord) -> None:
    """Refuse another run's reference that is missing or of another model, before encoding."""
    if config.saved is None:
        return
    saved = read_complete_manifest(Path(config.saved)).model
    usable_reference(ScoreFolder(Path(config.saved)).reference, model)
    difference = saved.redefined(model)
    if difference is None and not saved.fingerprint and saved.name != model.name:
        difference = f"name ({changed(saved.name, model.name)})"
    if difference is not None:
        raise ScoresError(
            f"{config.saved} was made with the same weights, but its model differs in {difference}",
            "score with the same model, or without `reference`",
        )


def _shard_record(url: str) -> ShardRecord:
    identity = identify(url)
    return ShardRecord(
        name=shard_name(url), url=url, nbytes=identity.nbytes, modified=identity.modified
    )


def _is_encoded(
    folder: ScoreFolder, shard: ShardRecord, files: EmbeddingFiles, stamp: dict[str, str]
) -> bool:
    """Whether a shard is encoded as planned; files that something damaged are written again."""
    if not stamp.items() <= files.stamp().items() or not files.is_whole():
        return False
    try:
        return not TRANSIENT & folder.failure_counts(shard.name).keys()
    except ScoresError:
        return False


def _encoding_stamp(manifest: Manifest, shard: ShardRecord) -> dict[str, str]:
    """Return what decides a shard's embeddings, which its metadata file is stamped with."""
    decided_by = {
        "model": builtins(manifest.model),
        "read": manifest.settings["read"],
        "shard": identity_of(shard),
    }
    digest = hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()
    return {"clipdre.encoded": digest}


def _recounted(
    folder: ScoreFolder, shard: ShardRecord, files: EmbeddingFiles, *, of_tar: bool
) -> ShardRecord:
    rows, warned = count_rows(files.metadata), files.warnings(of_tar=of_tar)
    failures = folder.failure_counts(shard.name)
    return msgspec.structs.replace(shard, rows=rows, failures=failures, warnings=warned)

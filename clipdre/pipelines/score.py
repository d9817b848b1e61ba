"""Shards to a score folder: encode what is not encoded yet, estimate, write one file per shard."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from clipdre import __version__
from clipdre.config import EncodeConfig, EstimateConfig, ReadConfig
from clipdre.encoding.encode import ShardEmbeddings, encode_shard
from clipdre.encoding.ingest import EmbeddingSource
from clipdre.encoding.jobs import JobRunner, ShardJob, here, on_devices
from clipdre.errors import InputError, OutputError, ScoresError
from clipdre.estimating.estimate import Columns, Estimator, estimate, unnormalised
from clipdre.estimating.reference import build_reference
from clipdre.formats.files.parquet import read_stamp, write_table
from clipdre.formats.files.storage import exclusive, identify, remove_unfinished
from clipdre.formats.folders.embeddings import EmbeddingFiles, Pool, embedding_files
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import (
    Manifest,
    ModelRecord,
    ShardRecord,
    read_complete_manifest,
    read_manifest,
)
from clipdre.formats.folders.reference import Hashes, ReferenceFolder
from clipdre.formats.folders.tables import SCORE_COLUMNS, scores_table
from clipdre.formats.tars.samples import Reason
from clipdre.formats.tars.shards import shard_name
from clipdre.models.load import load_encoder, usable_device, usable_devices
from clipdre.progress import Progress

UNREAD = {Reason.UNREADABLE_SHARD.value, Reason.WORKER_DIED.value}


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
    *,
    overwrite: bool = False,
    discard_embeddings: bool = False,
    max_bad_fraction: float = 1.0,
) -> Manifest:
    """Score the pairs of the shards `urls` against their own pool.

    A run that was killed goes on where it was; a finished one is not run again.

    Parameters
    ----------
    overwrite : bool
        Drop what another run left in `output`.
    discard_embeddings : bool
        Keep no embeddings of the pool once it is scored.
    max_bad_fraction : float
        Share of samples that may fail.

    Returns
    -------
    Manifest
        Of the finished folder `output`.

    Raises
    ------
    InputError, ModelError
        Before anything is written, when a shard is missing or the model cannot be loaded; when more
        than the bearable share of samples failed.
    OutputError, ScoresError
        When `output` holds something else, or a run with other settings.
    """
    folder = ScoreFolder(output)
    _refuse_foreign(folder)
    shards = tuple(_shard_record(url) for url in urls)
    run, model, device = _encoding(config)
    planned = _planned(model, asdict(config.read), config.estimate, shards)
    options = _Options(overwrite, discard_embeddings, max_bad_fraction, device)
    return _run(folder, planned, run, config.estimate, options)


def _encoding(config: ScoreConfig) -> tuple[JobRunner, ModelRecord, torch.device]:
    """How shards are encoded, by which model, and the device for what comes after."""
    encoder = load_encoder(config.encode)
    devices = usable_devices(config.encode.device)
    if len(devices) > 1:  # each process loads the model itself, and this one lets it go
        run = on_devices(devices, config.read, config.encode)
        return run, encoder.record, encoder.device

    def encode(shard: ShardRecord, progress: Progress) -> ShardEmbeddings:
        return encode_shard(shard, encoder, config.read, config.encode, progress)

    return here(encode), encoder.record, encoder.device


def score_embeddings(
    source: EmbeddingSource,
    output: Path,
    config: EstimateConfig,
    *,
    device: str = "auto",
    overwrite: bool = False,
    discard_embeddings: bool = False,
    max_bad_fraction: float = 1.0,
) -> Manifest:
    """Score pairs whose embeddings were made elsewhere; nothing is encoded.

    See `score`; each file of `source` takes the part of a shard.
    """
    folder = ScoreFolder(output)
    _refuse_foreign(folder)
    shards = tuple(_shard_record(url) for url in source.files())
    settings = {"embeddings": source.layout}
    planned = _planned(source.model, settings, config, shards)
    chosen = usable_device(device)
    options = _Options(overwrite, discard_embeddings, max_bad_fraction, chosen)
    return _run(folder, planned, here(source.read), config, options)


def _refuse_foreign(folder: ScoreFolder) -> None:
    if folder.is_foreign():
        raise OutputError(f"{folder.path} exists and is no score folder: choose another --output")


def _planned(
    model: ModelRecord,
    read: dict[str, Any],
    config: EstimateConfig,
    shards: tuple[ShardRecord, ...],
) -> Manifest:
    return Manifest(
        clipdre_version=__version__,
        model=model,
        settings={"read": read, "estimate": asdict(config)},
        shards=shards,
    )


@dataclass(frozen=True)
class _Options:
    """What a run does with its folder; it decides no score."""

    overwrite: bool
    discard_embeddings: bool
    max_bad_fraction: float
    device: torch.device


def _run(
    folder: ScoreFolder,
    planned: Manifest,
    run: JobRunner,
    config: EstimateConfig,
    options: _Options,
) -> Manifest:
    _check_saved(config, planned.model)
    with exclusive(folder.path):
        places = ("scores", "failures", "reference", "embeddings/*", "columns/*")
        remove_unfinished(folder.path, *places, everyone=True)
        found = None if options.overwrite else _same_run(folder, planned)
        if found is not None and found.complete and not _unread(found):
            return found
        planned.write(folder.path)  # before anything goes: what is killed here is still this run
        if options.overwrite:
            folder.clear()
        encoded = planned.with_shards(_encode_shards(folder, planned, run))
        _check_share(folder, encoded, options.max_bad_fraction)
        finished = _estimate_shards(folder, encoded, config, options.device)
        _check_whole(folder, finished)
        finished.write(folder.path)
        if options.discard_embeddings:
            shutil.rmtree(folder.embeddings)
        return finished


def _unread(manifest: Manifest) -> bool:
    """Whether a shard could not be read to its end, which may be otherwise another day."""
    return any(UNREAD & shard.failures.keys() for shard in manifest.shards)


def _check_share(folder: ScoreFolder, manifest: Manifest, most: float) -> None:
    """Stop before the estimates when more of the pool is bad than the user bears."""
    bad = manifest.samples - manifest.rows
    if bad > most * manifest.samples:
        raise InputError(
            f"{bad:,} of {manifest.samples:,} samples failed ({bad / manifest.samples:.1%}), more "
            f"than --max-bad-fraction {most:g}: {folder.path}/failures says why; give a larger one "
            "to go on"
        )


def _check_whole(folder: ScoreFolder, manifest: Manifest) -> None:
    """Rows and failures, as the files hold them, are the samples of each shard."""
    for shard in manifest.shards:
        rows = pq.read_metadata(folder.scores(shard.name)).num_rows
        failures = pq.read_metadata(folder.failures(shard.name)).num_rows
        if (rows, failures) != (shard.rows, sum(shard.failures.values())):
            raise ScoresError(
                f"{shard.name}: its files hold {rows} rows and {failures} failures of "
                f"{shard.samples} samples; something else wrote to {folder.path}: give --overwrite"
            )


def _check_saved(config: EstimateConfig, model: ModelRecord) -> None:
    """Say before any encoding that another run's reference is not there, or of another model."""
    if config.saved is not None:
        read_complete_manifest(Path(config.saved))
        Estimator(ReferenceFolder(ScoreFolder(Path(config.saved)).reference), model)


def _shard_record(url: str) -> ShardRecord:
    identity = identify(url)
    return ShardRecord(shard_name(url), url, identity.nbytes, identity.modified)


def _same_run(folder: ScoreFolder, planned: Manifest) -> Manifest | None:
    """The manifest in `folder`, when there is one and it is of the run that is planned."""
    if not folder.path.exists() or not any(folder.path.iterdir()):
        return None
    found = read_manifest(folder.path)
    differences = [
        f"{name} ({before} then, {now} now)"
        for name, before, now in _compared(found, planned)
        if before != now
    ]
    if differences:
        raise ScoresError(
            f"{folder.path} holds a run that differs in {'; '.join(differences[:3])}: "
            "choose another --output, or give --overwrite"
        )
    return found


def _compared(found: Manifest, planned: Manifest) -> Iterator[tuple[str, object, object]]:
    for name in ("name", "pretrained", "digest", "precision"):
        yield f"model {name}", getattr(found.model, name), getattr(planned.model, name)
    for stage, settings in json.loads(json.dumps(planned.settings)).items():
        for name, value in settings.items():
            yield f"{stage} {name}", found.settings.get(stage, {}).get(name), value
    yield "number of shards", len(found.shards), len(planned.shards)
    for before, now in zip(found.shards, planned.shards, strict=False):
        yield f"shard {now.name}", _identity(before), _identity(now)


def _identity(shard: ShardRecord) -> tuple[str, int, str]:
    return shard.name, shard.nbytes, shard.modified


def _encode_shards(
    folder: ScoreFolder, manifest: Manifest, run: JobRunner
) -> tuple[ShardRecord, ...]:
    done: dict[int, ShardRecord] = {}
    jobs: list[ShardJob] = []
    files = embedding_files(folder.embeddings, len(manifest.shards))
    with Progress("encode", sum(shard.nbytes for shard in manifest.shards)) as progress:
        for n, (shard, shard_files) in enumerate(zip(manifest.shards, files, strict=True)):
            stamp = _encoding_stamp(manifest, shard)
            same = stamp.items() <= shard_files.stamp().items()
            if same and not UNREAD & folder.failure_counts(shard.name).keys():
                done[n] = _recounted(folder, shard, shard_files)
                progress.advance(shard.nbytes)
            else:
                failures = folder.failures(shard.name)
                jobs.append(ShardJob(n, shard, shard_files, failures, stamp))
        done |= dict(run(jobs, progress))
    return tuple(done[n] for n in range(len(manifest.shards)))


def _encoding_stamp(manifest: Manifest, shard: ShardRecord) -> dict[str, str]:
    """What decides a shard's embeddings, kept in its metadata file: the record that it is done."""
    decided_by = {
        "model": asdict(manifest.model),
        "read": manifest.settings["read"],
        "shard": _identity(shard),
    }
    return {"clipdre.encoded": _digest(decided_by)}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _recounted(folder: ScoreFolder, shard: ShardRecord, files: EmbeddingFiles) -> ShardRecord:
    rows = pq.read_metadata(files.metadata).num_rows
    return replace(shard, rows=rows, failures=folder.failure_counts(shard.name))


def _estimate_shards(
    folder: ScoreFolder, manifest: Manifest, config: EstimateConfig, device: torch.device
) -> Manifest:
    files = embedding_files(folder.embeddings, len(manifest.shards))
    pool, hashes = Pool(files), np.concatenate([file.hashes() for file in files])
    reference = _reference(folder, pool, hashes, manifest, config)
    estimator = Estimator(reference, manifest.model, device)
    stamp = {"clipdre.reference": estimator.record.digest, "clipdre.tau": str(config.tau)}
    with Progress("estimate", len(pool)) as progress:
        for group in _groups(manifest.shards, estimator.query_rows):
            paths = [folder.scores(manifest.shards[n].name) for n in group]
            start, stop = pool.starts[group.start], pool.starts[group.stop]
            if all(stamp.items() <= read_stamp(path).items() for path in paths):
                progress.advance(stop - start)
                continue
            columns = _joined(estimate(pool, hashes, estimator, start, stop, progress))
            if config.tau is not None:
                columns["log_ratio_tau"] = unnormalised(columns, manifest.model, config.tau)
            for n, path in zip(group, paths, strict=True):
                low, high = pool.starts[n] - start, pool.starts[n + 1] - start
                part = {name: column[low:high] for name, column in columns.items()}
                write_table(scores_table(files[n].samples(), part), path, stamp)
    return replace(manifest, reference=asdict(estimator.record), complete=True)


def _reference(
    folder: ScoreFolder, pool: Pool, hashes: Hashes, manifest: Manifest, config: EstimateConfig
) -> ReferenceFolder:
    if config.saved is not None:
        return ReferenceFolder(ScoreFolder(Path(config.saved)).reference)
    reference = ReferenceFolder(folder.reference)
    build_reference(pool, hashes, manifest.model, config, reference)
    return reference


def _groups(shards: Sequence[ShardRecord], most: int) -> Iterator[range]:
    """Ranges of shards that are estimated together: each costs a pass over the pool."""
    start = rows = 0
    for n, shard in enumerate(shards):
        rows += shard.rows
        if rows >= most or n == len(shards) - 1:
            yield range(start, n + 1)
            start, rows = n + 1, 0


def _joined(blocks: Iterator[Columns]) -> Columns:
    listed = list(blocks)
    return {
        name: np.concatenate([block[name] for block in listed]) if listed else np.empty(0)
        for name in SCORE_COLUMNS
    }

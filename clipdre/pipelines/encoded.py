"""Which shards of a score folder are encoded as planned; what another folder has of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec

from clipdre.core.modality import Modality
from clipdre.errors import ScoresError
from clipdre.formats.files.parquet import count_rows
from clipdre.formats.files.storage import committed
from clipdre.formats.folders.columns import DUPLICATES, RECORD, ColumnFolder, column_folders
from clipdre.formats.folders.embeddings import SAMPLE, EmbeddingFiles, embedding_files
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest, read_manifest
from clipdre.formats.folders.records import ShardRecord, builtins
from clipdre.formats.folders.reference import LEADERS
from clipdre.formats.tars.samples import Reason
from clipdre.pipelines.same_run import identity_of

# Failures that another try may cure.
TRANSIENT = {Reason.UNREADABLE_SHARD.value, Reason.WORKER_DIED.value}


def is_encoded(
    folder: ScoreFolder,
    shard: ShardRecord,
    files: EmbeddingFiles,
    stamp: dict[str, str],
    *,
    retry: bool,
) -> bool:
    """Whether a shard is encoded as planned; files that something damaged are written again.

    With `retry` it is not if it could not be read to its end.
    """
    if not stamp.items() <= files.stamp().items() or not files.is_whole():
        return False
    try:
        failures = folder.failure_counts(shard.name).keys()
        return not (retry and TRANSIENT & failures)
    except ScoresError:
        return False


def encoding_stamp(manifest: Manifest, shard: ShardRecord) -> dict[str, str]:
    """Return what decides a shard's embeddings, which its metadata file is stamped with."""
    decided_by = {
        "model": builtins(manifest.model),
        "read": manifest.settings["read"],
        "shard": identity_of(shard),
    }
    digest = hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()
    return {"clipdre.encoded": digest}


def recounted(folder: ScoreFolder, shard: ShardRecord, files: EmbeddingFiles) -> ShardRecord:
    """Return the record of an encoded shard with its counts."""
    rows = count_rows(files.metadata)
    return msgspec.structs.replace(
        shard,
        rows=rows,
        failures=folder.failure_counts(shard.name),
        warnings=files.warnings(),
        sample=files.stamp().get(SAMPLE, ""),
    )


def take_over(source: ScoreFolder, target: ScoreFolder, planned: Manifest, *, retry: bool) -> None:
    """Take over what a folder has of the planned shards: nothing is encoded or measured twice.

    Files are linked, not copied, where the file system can: clipdre never changes a file in place.
    What `target` has stays. Scores are taken over if their reference is.
    """
    try:
        found = read_manifest(source.path)
    except ScoresError:  # there is none
        return
    if planned.keeps_reference:
        _link_all(source.reference, target.reference)
    _link(source.reference / LEADERS, target.reference / LEADERS)
    stored = embedding_files(source.embeddings, len(found.shards))
    files = {shard.name: own for shard, own in zip(found.shards, stored, strict=True)}
    for shard, own in zip(
        planned.shards, embedding_files(target.embeddings, len(planned.shards)), strict=True
    ):
        before, stamp = files.get(shard.name), encoding_stamp(planned, shard)
        if before is None or not is_encoded(source, shard, before, stamp, retry=retry):
            continue
        _link_embeddings(before, own)
        _link(source.failures(shard.name), target.failures(shard.name))
        if planned.keeps_reference or planned.estimating.saved is not None:
            _link(source.scores(shard.name), target.scores(shard.name))
        for columns in column_folders(source):
            if columns.name != DUPLICATES:
                measured = ColumnFolder(target.columns / columns.name)
                _link(columns.file(shard.name), measured.file(shard.name))
                _link(columns.path / RECORD, measured.path / RECORD)


def _link_embeddings(source: EmbeddingFiles, target: EmbeddingFiles) -> None:
    for modality in Modality:
        _link(source.array(modality), target.array(modality))
    _link(source.metadata, target.metadata)  # last: it marks the shard as encoded


def _link_all(source: Path, target: Path) -> None:
    for path in source.iterdir() if source.is_dir() else ():
        _link(path, target / path.name)


def _link(source: Path, target: Path) -> None:
    """Give a file another name, or copy it to another file system."""
    if not source.is_file() or target.exists():
        return
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)
        return
    with committed(target) as temporary:
        shutil.copyfile(source, temporary)

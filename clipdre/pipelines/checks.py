"""What a run checks before and after the estimates: bad shards, bad samples, foreign files."""

from __future__ import annotations

import warnings

from clipdre.errors import InputError, ScoresError
from clipdre.formats.files.parquet import count_rows
from clipdre.formats.folders.columns import DUPLICATES, column_folders
from clipdre.formats.folders.embeddings import embedding_files
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.kept import fields_without_values
from clipdre.formats.folders.manifest import Manifest, read_manifest
from clipdre.formats.folders.records import ShardRecord
from clipdre.formats.tars.samples import Reason
from clipdre.formats.tars.seen import members_seen
from clipdre.pipelines.same_run import identity_of
from clipdre.words import count

# Pairs of which ratios can be estimated.
FEWEST = 2
# Failures of samples that lack what an option names.
NAMED_WRONG = {
    Reason.MISSING_CAPTION.value: "text_key",
    Reason.MISSING_IMAGE.value: "image_key",
}
# Warnings about shards that are printed.
WARNED = 10


def note_columns(folder: ScoreFolder, planned: Manifest | None = None) -> None:
    """Warn about measured columns that are removed with old scores, or are of other shards.

    Parameters
    ----------
    planned : Manifest, optional
        Of the scores that take the columns over; by default none do.
    """
    names = [columns.name for columns in column_folders(folder) if columns.name != DUPLICATES]
    listed = ", ".join(names)
    if not listed:
        return
    if planned is None:
        warnings.warn(
            f"columns measured for the old scores will be removed with them: {listed}; measure "
            "them again afterwards",
            stacklevel=2,
        )
    elif _shards(planned) != _shards(read_manifest(folder.path)):
        warnings.warn(
            f"columns were measured for the shards as they were: {listed}; run the same "
            "'clipdre measure' again afterwards, which keeps what is still valid",
            stacklevel=2,
        )


def _shards(manifest: Manifest) -> set[tuple[str, int, str]]:
    return set(map(identity_of, manifest.shards))


def warn_of_shards(manifest: Manifest) -> None:
    """Warn of shards that may lack samples."""
    warned = [(shard.name, text) for shard in manifest.shards for text in shard.warnings]
    for name, text in warned[:WARNED]:
        warnings.warn(f"shard {name}: {text}", stacklevel=2)
    if len(warned) > WARNED:
        more = count(len(warned) - WARNED, "more warning")
        warnings.warn(f"the manifest has {more} about shards", stacklevel=2)


def warn_of_fields(folder: ScoreFolder, manifest: Manifest) -> None:
    """Warn of json fields to keep that no sample has, and say which there are."""
    files = embedding_files(folder.embeddings, len(manifest.shards))
    fields = fields_without_values(manifest.reading.keep, files) if manifest.has_tars else []
    if fields and manifest.rows:
        shard = next(shard for shard in manifest.shards if shard.rows)
        seen = members_seen(shard.url)
        warnings.warn(
            f"no sample has a value of the json field{'s' if len(fields) > 1 else ''} "
            f"{', '.join(map(repr, fields))}, so what `keep` adds is empty"
            + (f"; samples of {shard.name} have {seen}" if seen else ""),
            stacklevel=2,
        )


def check_usable(folder: ScoreFolder, manifest: Manifest) -> None:
    """Stop before the estimates if no sample is usable, and say why."""
    if manifest.rows or not manifest.failures:
        return
    reason, samples = next(iter(manifest.failures.items()))
    shard = next(shard for shard in manifest.shards if reason in shard.failures)
    example = folder.failure_example(shard.name, reason)
    problem = (
        f"no pair is usable: {samples:,} of {count(manifest.samples, 'sample')} failed for "
        f"{reason} ({example.message if example else 'see failures/'})"
    )
    cure = "'clipdre doctor' explains each reason; run again with other shards or options"
    if reason in NAMED_WRONG:
        option = NAMED_WRONG[reason]
        seen = members_seen(shard.url) if manifest.has_tars else ""
        problem += f"; samples of {shard.name} have {seen}" if seen else ""
        cure = f"if `{option}` is wrong, correct it and run again; or see 'clipdre doctor'"
    raise InputError(problem, cure)


def is_failed_try(folder: ScoreFolder, manifest: Manifest) -> bool:
    """Whether an unfinished run encoded so few pairs that nothing is lost with them."""
    if manifest.complete:
        return False
    folder.store.fetch(folder.embeddings / "metadata")
    files = embedding_files(folder.embeddings, len(manifest.shards))
    metadata = (own.metadata for own in files if own.metadata.exists())
    return sum(map(count_rows, metadata)) < FEWEST


def check_share(folder: ScoreFolder, manifest: Manifest, most: float) -> None:
    """Stop before the estimates if too much of the pool is bad."""
    bad = manifest.samples - manifest.rows
    if bad > most * manifest.samples:
        raise InputError(
            f"{bad:,} of {count(manifest.samples, 'sample')} failed "
            f"({bad / manifest.samples:.1%}), more than `max_bad_fraction` {most:g}",
            f"see {folder.path}/failures for the reasons, or raise it to continue",
        )


def check_whole(folder: ScoreFolder, shard: ShardRecord, rows: int) -> None:
    """Check that rows and failures, as the files hold them, are the samples of a shard."""
    failures = count_rows(folder.failures(shard.name))
    if (rows, failures) != (shard.rows, sum(shard.failures.values())):
        raise ScoresError(
            f"{shard.name}: its files hold {count(rows, 'row')} and "
            f"{count(failures, 'failure')} of {count(shard.samples, 'sample')}, "
            f"so something else wrote to {folder.path}",
            "pass `overwrite`",
        )

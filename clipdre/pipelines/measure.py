"""One scorer over a score folder: columns beside the scores, row for row."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdre.config import MeasureConfig
from clipdre.core.columns import Column
from clipdre.engines.base import Advance, Engine
from clipdre.engines.local import local_engine
from clipdre.errors import ScoresError, UsageError
from clipdre.formats.files.parquet import list_columns
from clipdre.formats.files.storage import exclusive, remove_unfinished, shared
from clipdre.formats.folders.columns import (
    RESERVED,
    ColumnFolder,
    column_folders,
    is_current,
    row_digests,
)
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.folders.records import ColumnRecord, MeasureRecord, builtins
from clipdre.models.load import usable_devices
from clipdre.pipelines.fit import FitPool, digest_of
from clipdre.pipelines.rows import PoolReader
from clipdre.progress import Progress
from clipdre.scorers.base import Arrays, Scorer
from clipdre.words import changed, count

SUFFIX = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
# What a scorer learns from, while it does, and what it asked for.
FIT, ASKED = ".fit", ".asked.json"


def measure(
    folder: ScoreFolder,
    manifest: Manifest,
    scorer: Scorer,
    config: MeasureConfig | None = None,
) -> MeasureRecord:
    """Measure a scorer's columns; a run that was stopped resumes, a finished one is kept.

    Raises
    ------
    ScoresError
        When columns of this name were measured with other settings, or what the scorer needs is not
        kept.
    UsageError
        When the suffix is not a name, or a column would have the name of another one.
    """
    config = config or MeasureConfig()
    columns = _named(scorer, config.suffix)
    name = f"{scorer.name}-{config.suffix}" if config.suffix else scorer.name
    final = ColumnFolder(folder.columns / name)
    _check_names(folder, manifest, name, columns)
    replacement = ColumnFolder(folder.columns / f".{name}")
    replacing = _is_replaced(final, scorer, config.overwrite) or _is_finished(replacement)
    written = replacement if replacing else final
    with shared(folder.path), exclusive(written.path):
        remove_unfinished(written.path, "**")
        engine = local_engine(usable_devices(config.device))
        identity = {"scorer": scorer.name, "version": scorer.version, "settings": builtins(scorer)}
        reader = PoolReader(folder, manifest, engine.devices[0], config.rows_at_once)
        pool = FitPool(reader, engine, identity, written.path / FIT)
        pool.ask_again(written.path / ASKED)
        record = written.record()
        if (
            record is None
            or record.stamp != _stamp(pool, columns)
            or not is_current(written, record, folder, manifest)
        ):
            pool = replace(pool, inputs=[], asked=[])
            record = _measured(scorer, columns, pool, written)
        shutil.rmtree(written.path / FIT, ignore_errors=True)
    if replacing:
        _swap(written.path, final.path)
    return record


def _measured(
    scorer: Scorer, columns: tuple[Column, ...], pool: FitPool, written: ColumnFolder
) -> MeasureRecord:
    """Fit the scorer, and measure the shards that are not done yet."""
    reader, learned = pool.reader, scorer.fit(pool)
    record = MeasureRecord(
        scorer=scorer.name,
        version=scorer.version,
        settings=builtins(scorer),
        stamp=_stamp(pool, columns),
        columns=tuple(map(ColumnRecord.of, columns)),
        figures={n: float(v) for n, v in learned.items() if v.ndim == 0},
        rows=reader.manifest.rows,
    )
    work = MeasureWork(
        reader.folder, reader.manifest, reader.rows_at_once, scorer, columns, learned, written
    )
    _measure_shards(work, pool.engine, record.stamp)
    pool.write_asked(written.path / ASKED)
    written.write_record(record)
    return record


def _stamp(pool: FitPool, columns: tuple[Column, ...]) -> str:
    return digest_of([pool.identity, pool.inputs, [column.name for column in columns]])


@dataclass(frozen=True)
class MeasureWork:
    """Scores the rows of one shard after another, and writes their columns."""

    folder: ScoreFolder
    manifest: Manifest
    rows_at_once: int
    scorer: Scorer
    columns: tuple[Column, ...]
    learned: Mapping[str, npt.NDArray[Any]]
    written: ColumnFolder

    def start(self, device: str, advance: Advance) -> Callable[[tuple[int, dict[str, str]]], None]:
        """See `clipdre.engines.base.Work`; an item is a shard's index and its stamp."""
        reader = PoolReader(self.folder, self.manifest, device, self.rows_at_once)

        def do(item: tuple[int, dict[str, str]]) -> None:
            shard, stamp = item
            blocks = []
            for rows in reader.rows(shard):
                blocks.append(self._checked(self.scorer.score(rows, self.learned), len(rows)))
                advance(len(rows), len(rows))
            self.written.write(self.manifest.shards[shard].name, self._joined(blocks), stamp)

        return do

    def _checked(self, found: Arrays, rows: int) -> list[npt.NDArray[Any]]:
        """Return the declared columns in order, with the shapes they must have."""
        declared = [column.name for column in self.scorer.columns()]
        if sorted(found) != sorted(declared) or any(v.shape != (rows,) for v in found.values()):
            shapes = {name: value.shape for name, value in found.items()}
            raise ScoresError(
                f"scorer {self.scorer.name} returned {shapes} for {count(rows, 'row')}",
                f"it must return {', '.join(declared)}, each of shape ({rows},)",
            )
        return [_compact(found[name]) for name in declared]

    def _joined(self, blocks: list[list[npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
        names = [column.name for column in self.columns]
        return {
            name: np.concatenate(parts)
            for name, parts in zip(names, zip(*blocks, strict=True), strict=True)
        }


def _compact(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Store floats as all scores are stored."""
    return values.astype(np.float32) if values.dtype == np.float64 else values


def _measure_shards(work: MeasureWork, engine: Engine, stamp: str) -> None:
    shards = work.manifest.shards
    digests = row_digests(work.folder, [shard.name for shard in shards])
    stamps = [work.written.stamp(stamp, rows) for rows in digests]
    left = [
        (index, own)
        for index, own in enumerate(stamps)
        if not work.written.is_done(shards[index].name, own)
    ]
    with_rows = [(index, own) for index, own in left if shards[index].rows]
    with Progress("measure", sum(shards[index].rows for index, _ in left)) as progress:
        for _ in engine.run(work, with_rows, progress.advance):
            pass
    # All files of a column have one type, which only shards with rows can tell.
    like = next(shard.name for shard in shards if shard.rows)
    for index, own in left:
        if not shards[index].rows:
            work.written.write_empty(shards[index].name, like, own)


def _named(scorer: Scorer, suffix: str) -> tuple[Column, ...]:
    if suffix and not SUFFIX.fullmatch(suffix):
        raise UsageError(
            f"`suffix` {suffix!r} is not a name", "use lower-case letters, digits and underscores"
        )
    return tuple(
        replace(column, name=f"{column.name}_{suffix}" if suffix else column.name)
        for column in scorer.columns()
    )


def _check_names(
    folder: ScoreFolder, manifest: Manifest, name: str, columns: tuple[Column, ...]
) -> None:
    """Refuse columns that the folder has from elsewhere."""
    scored = list_columns(folder.scores(manifest.shards[0].name))
    taken = dict.fromkeys((*RESERVED, *map(str.lower, scored)), "clipdre score")
    for other in column_folders(folder):
        record = other.record() if other.name != name else None
        taken |= {c.name.lower(): other.name for c in (record.columns if record else ())}
    clash = next((c.name for c in columns if c.name.lower() in taken), None)
    if clash is not None:
        raise UsageError(
            f"column {clash} exists already, from {taken[clash.lower()]}",
            "add a `suffix` to the new one",
        )


def _is_replaced(final: ColumnFolder, scorer: Scorer, overwrite: bool) -> bool:
    """Whether complete columns of other settings are to be replaced; refuse it unless asked to."""
    try:
        record = final.record()
    except ScoresError:
        if not overwrite:
            raise
        return True
    if record is None:
        return False
    before = {"scorer": record.scorer, "version": record.version}
    now = {"scorer": scorer.name, "version": scorer.version}
    settings = builtins(scorer)
    same = (before, record.settings) == (now, settings)
    if not same and not overwrite:
        difference = changed(before | record.settings, now | settings)
        raise ScoresError(
            f"{final.path} was measured with other settings ({difference})",
            "pass `overwrite` to replace it, or a `suffix` to keep both",
        )
    return not same


def _is_finished(replacement: ColumnFolder) -> bool:
    """Whether columns are complete but a killed run did not put them in their place."""
    try:
        return replacement.record() is not None
    except ScoresError:
        return False


def _swap(new: Path, final: Path) -> None:
    """Put complete columns in the place of old ones."""
    shutil.rmtree(final, ignore_errors=True)
    new.rename(final)

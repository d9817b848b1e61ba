"""One scorer over a score folder: columns beside the scores, row for row."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from clipdre.config import MeasureConfig
from clipdre.core.columns import Column
from clipdre.engines.base import Advance, Engine
from clipdre.errors import ScoresError, UsageError
from clipdre.formats.files.parquet import list_columns
from clipdre.formats.files.storage import committed, exclusive, remove_unfinished, shared
from clipdre.formats.folders.columns import (
    RESERVED,
    ColumnFolder,
    column_folders,
    row_digests,
)
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.formats.folders.parts import digest_of
from clipdre.formats.folders.records import ColumnRecord, MeasureRecord, builtins
from clipdre.pipelines.engine import followed, open_engine
from clipdre.pipelines.fit import FitPool, WaitingError
from clipdre.pipelines.rows import PoolReader
from clipdre.progress import Progress
from clipdre.scorers.base import Arrays, Scorer
from clipdre.slices import Slice
from clipdre.words import changed, count

SUFFIX = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")
# What a scorer learns from, while it does, and what it asked for.
FIT, ASKED = ".fit", ".asked.json"
# What the slices of an unfinished run measure.
PLAN = ".plan.json"


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
    _open_columns(folder)
    columns, final = _columns(folder, manifest, scorer, config)
    replacement = ColumnFolder(final.path.with_name(f".{final.name}"))
    replacing = _is_replaced(final, scorer, config.overwrite) or _is_finished(replacement)
    written = replacement if replacing else final
    with shared(folder.path), exclusive(written.path):
        remove_unfinished(written.path, "**")
        pool = _pool(folder, manifest, scorer, config, written)
        record = _current(pool, columns, written)
        if record is None:
            record = _measured(scorer, columns, pool, written)
        shutil.rmtree(written.path / FIT, ignore_errors=True)
        (written.path / PLAN).unlink(missing_ok=True)
    if replacing:
        _swap(written.path, final.path)
    folder.store.settle()
    return record


def measure_slice(
    folder: ScoreFolder,
    manifest: Manifest,
    scorer: Scorer,
    part: Slice,
    config: MeasureConfig | None = None,
) -> str:
    """Do one slice of `measure`; other slices may run at the same time.

    A scorer may learn from the whole pool, in steps. A slice ends at the first step of which other
    slices have not done their part; when they have, the same slice continues behind it.

    Returns
    -------
    str
        The step at which the slice ended, for example ``"counts: 3 parts"``; empty if it has
        measured all of its shards.

    Raises
    ------
    ScoresError, UsageError
        As for `measure`; also when another slice was begun with other settings, and when the slice
        is to overwrite.
    """
    config = config or MeasureConfig()
    if config.overwrite:
        raise UsageError("`slice` cannot be used with `overwrite`", "choose a `suffix`")
    _open_columns(folder)
    columns, final = _columns(folder, manifest, scorer, config)
    _is_replaced(final, scorer, overwrite=False)  # refuses other settings
    with shared(folder.path), shared(final.path):
        remove_unfinished(final.path, "**")
        pool = replace(_pool(folder, manifest, scorer, config, final), slice=part)
        _check_plan(folder, final, pool)
        if _current(pool, columns, final) is not None:
            return ""
        try:
            work, stamp = _fitted(scorer, columns, pool, final)
        except WaitingError as waiting:
            return f"{waiting.step}: {count(waiting.missing, 'part')}"
        _measure_shards(work, pool.engine, stamp, part)
    return ""


def _open_columns(folder: ScoreFolder) -> None:
    """Make what was measured there, finished or not, available here."""
    folder.store.check_writable()
    folder.store.fetch(folder.columns)


def _columns(
    folder: ScoreFolder, manifest: Manifest, scorer: Scorer, config: MeasureConfig
) -> tuple[tuple[Column, ...], ColumnFolder]:
    """Return the columns under their names, and where they go."""
    columns = _named(scorer, config.suffix)
    name = f"{scorer.name}-{config.suffix}" if config.suffix else scorer.name
    _check_names(folder, manifest, name, columns)
    return columns, ColumnFolder(folder.columns / name)


def _pool(
    folder: ScoreFolder,
    manifest: Manifest,
    scorer: Scorer,
    config: MeasureConfig,
    written: ColumnFolder,
) -> FitPool:
    engine, _ = open_engine(config.engine, config.device, folder.path)
    engine = followed(engine, folder)
    identity = {"scorer": scorer.name, "version": scorer.version, "settings": builtins(scorer)}
    reader = PoolReader(folder, manifest, engine.devices[0], config.rows_at_once)
    return FitPool(reader, engine, identity, written.path / FIT)


def _current(
    pool: FitPool, columns: tuple[Column, ...], written: ColumnFolder
) -> MeasureRecord | None:
    """Return the record of finished columns if they are still what the pool gives."""
    asking = replace(pool, inputs=[], asked=[])
    asking.ask_again(written.path / ASKED)
    record, reader = written.record(), pool.reader
    if (
        record is None
        or record.stamp != _stamp(asking, columns)
        or not reader.is_current(written, record)
    ):
        return None
    return record


def _check_plan(folder: ScoreFolder, written: ColumnFolder, pool: FitPool) -> None:
    """Write what the slices measure, or refuse one that differs from what is written."""
    path = written.path / PLAN
    plan = msgspec.json.encode(pool.identity, order="deterministic")
    if not path.exists():
        with committed(path, first=True) as temporary:
            temporary.write_bytes(plan)
        folder.store.publish(path)
    begun = path.read_bytes()
    if begun != plan:
        before, now = (_flat(msgspec.json.decode(each)) for each in (begun, plan))
        raise ScoresError(
            f"slices of {written.path} were begun with other settings ({changed(before, now)})",
            "give each slice the same settings, or a `suffix` to keep both",
        )


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {"version": identity["version"], **identity["settings"]}


def _fitted(
    scorer: Scorer, columns: tuple[Column, ...], pool: FitPool, written: ColumnFolder
) -> tuple[MeasureWork, str]:
    """Fit the scorer; return the work that measures a shard, and the stamp of what it writes."""
    reader, learned = pool.reader, scorer.fit(pool)
    work = MeasureWork(
        reader.folder, reader.manifest, reader.rows_at_once, scorer, columns, learned, written
    )
    return work, _stamp(pool, columns)


def _measured(
    scorer: Scorer, columns: tuple[Column, ...], pool: FitPool, written: ColumnFolder
) -> MeasureRecord:
    """Fit the scorer, and measure the shards that are not done yet."""
    work, stamp = _fitted(scorer, columns, pool, written)
    figures = {n: float(v) for n, v in work.learned.items() if v.ndim == 0}
    if wrong := sorted(name for name, value in figures.items() if not math.isfinite(value)):
        problem = f"scorer {scorer.name} cannot learn from this pool: {wrong[0]} is not finite"
        raise ScoresError(problem, "use other settings: some are too large or too small")
    record = MeasureRecord(
        scorer=scorer.name,
        version=scorer.version,
        settings=builtins(scorer),
        stamp=stamp,
        columns=tuple(map(ColumnRecord.of, columns)),
        figures=figures,
        rows=work.manifest.rows,
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


def _measure_shards(
    work: MeasureWork, engine: Engine, stamp: str, part: Slice | None = None
) -> None:
    shards = work.manifest.shards
    digests = row_digests(work.folder, shards)
    stamps = [work.written.stamp(stamp, rows) for rows in digests]
    left = [
        (index, own)
        for index, own in enumerate(stamps)
        if (part is None or part.takes(index)) and not work.written.is_done(shards[index].name, own)
    ]
    with_rows = [(index, own) for index, own in left if shards[index].rows]
    with Progress("measure", sum(shards[index].rows for index, _ in left)) as progress:
        for _ in engine.run(work, with_rows, progress.advance):
            pass
    if part is not None:
        return
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

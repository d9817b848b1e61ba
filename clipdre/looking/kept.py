"""What a finished subset or a list keeps of a pool."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipdre.emitting.place import SUMMARY
from clipdre.emitting.shard import SOURCE_KEY
from clipdre.errors import SelectionError
from clipdre.formats.name_lists import NameList, read_name_file
from clipdre.selecting.listed import Listed, select_listed
from clipdre.sql.query import ScoreQuery
from clipdre.words import one_line


def select_kept(query: ScoreQuery, place: Path) -> Listed:
    """Select what a subset that clipdre wrote, or a list of samples, keeps.

    Raises
    ------
    SelectionError
        If it cannot be read, or names none of the rows.
    """
    cure = "name a subset or a list"
    try:
        is_folder = place.is_dir()
        names = _names_of_subset(place) if is_folder else read_name_file(place, "kept", cure)
    except OSError as error:
        raise SelectionError(f"cannot read `kept` {place} ({one_line(error)})", cure) from error
    found = select_listed(query, names, str(place))
    rule = replace(found.selection.rule, name=place.name)
    return replace(found, selection=replace(found.selection, rule=rule))


def _names_of_subset(folder: Path) -> NameList:
    """Return shard and key, as in the pool, of the samples of a folder of tars."""
    tables = sorted(p for p in folder.glob("*.parquet") if p.with_suffix(".tar").exists())
    if not (folder / SUMMARY).exists() or not tables:
        problem = f"{folder} is not a subset that 'clipdre filter' finished"
        raise SelectionError(problem, "name a folder of tars with their scores, or a list")
    parts = []
    for path in tables:
        try:
            columns = pq.read_schema(path).names
            key = SOURCE_KEY if SOURCE_KEY in columns else "key"
            table = pq.read_table(path, columns=["shard", key])
        except (OSError, ValueError, pa.ArrowException) as error:
            problem = f"{path} cannot be read ({one_line(error)})"
            raise SelectionError(problem, "write the subset again") from error
        parts.append(table.rename_columns(["shard", "key"]).replace_schema_metadata(None))
    return NameList(pa.concat_tables(parts))

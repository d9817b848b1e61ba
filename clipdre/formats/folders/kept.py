"""Fields of samples' json that `clipdre score` keeps as columns.

Shards are encoded apart, and a field may hold numbers in one and text in another. So embeddings are
stored with the values as JSON, stamped with their kinds, and a column gets its type when the kinds
in all shards are known: the same whatever shards there are and in which order they were encoded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from clipdre.config import ReadConfig
from clipdre.core.columns import Column
from clipdre.errors import UsageError
from clipdre.formats.folders.columns import CAPTION_SOURCE, RESERVED
from clipdre.formats.folders.tables import SAMPLE_SCHEMA, is_private
from clipdre.formats.tars.samples import printable

if TYPE_CHECKING:  # it loads torch
    from clipdre.formats.folders.embeddings import EmbeddingFiles

KINDS = "clipdre.kinds"
PREFIX = "json_"
BOOL, INT, FLOAT, TEXT, OTHER = "bool", "int", "float", "text", "other"
INT64 = range(-(2**63), 2**63)


def column_names(fields: Sequence[str]) -> dict[str, str]:
    """Return the column of each json field: its name, with a prefix if clipdre's columns have it.

    Raises
    ------
    UsageError
        If a field has no name, or two have the same column (SQL ignores case).
    """
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for field in fields:
        name = printable(field)
        if name.lower() in RESERVED or is_private(name):
            name = PREFIX + name
        if not field.strip():
            raise UsageError("a field of `keep` has no name", "use json:FIELD")
        if name.lower() in taken:
            raise UsageError(
                f"`keep` has {taken[name.lower()]!r} and {field!r}, whose columns have one name",
                "drop one of them",
            )
        taken[name.lower()] = field
        names[field] = name
    return names


def kept_described(fields: Sequence[str]) -> dict[str, Column]:
    """Return what each kept column is, by its name."""
    names = column_names(fields)
    return {
        name: Column(name, "", f"{field} of the sample's json") for field, name in names.items()
    }


def kinds_stamp(values: Mapping[str, Sequence[str | None]]) -> dict[str, str]:
    """Return what a shard's rows are stamped with: the kinds of JSON values in each column."""
    kinds = {name: sorted({_kind(text) for text in of if text}) for name, of in values.items()}
    return {KINDS: json.dumps(kinds)}


def _kind(text: str) -> str:
    value = json.loads(text)
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return INT if value in INT64 else OTHER
    return FLOAT if isinstance(value, float) else TEXT if isinstance(value, str) else OTHER


def kept_types(fields: Sequence[str], shards: Iterable[EmbeddingFiles]) -> dict[str, pa.DataType]:
    """Return the columns of json fields and their types, from the stamps of all shards."""
    return {name: _type(found) for name, found in _kinds(fields, shards).items()}


def fields_without_values(fields: Sequence[str], shards: Iterable[EmbeddingFiles]) -> list[str]:
    """Return the json fields that no row of any shard has a value of."""
    kinds = _kinds(fields, shards)
    return [field for field, name in column_names(fields).items() if not kinds[name]]


def _kinds(fields: Sequence[str], shards: Iterable[EmbeddingFiles]) -> dict[str, set[str]]:
    """Return the kinds of JSON values in each column of a json field."""
    kinds: dict[str, set[str]] = {name: set() for name in column_names(fields).values()}
    for shard in shards if kinds else ():
        for name, found in json.loads(shard.stamp().get(KINDS, "{}")).items():
            kinds[name].update(found)
    return kinds


def _type(kinds: set[str]) -> pa.DataType:
    """Return the narrowest type of all values: truth values, whole numbers, numbers, else text."""
    if kinds == {BOOL}:
        return pa.bool_()
    if kinds == {INT}:
        return pa.int64()
    return pa.float64() if kinds in ({FLOAT}, {INT, FLOAT}) else pa.string()


def kept_columns(samples: pa.Table, types: Mapping[str, pa.DataType]) -> dict[str, pa.Array]:
    """Return the kept columns of a shard's rows; as text, whatever is no text stays JSON."""
    return {
        name: pa.array((text and _value(text, kind) for text in samples[name].to_pylist()), kind)
        if name in samples.column_names
        else pa.nulls(len(samples), kind)
        for name, kind in types.items()
    }


def read_kept(stored: pa.Table) -> pa.Table:
    """Return rows of one shard's stored embeddings with values in the place of their JSON."""
    kinds = json.loads((stored.schema.metadata or {}).get(KINDS.encode(), b"{}"))
    # Columns without values may be of any type, which other shards decide.
    types = {name: _type(set(found)) if found else pa.null() for name, found in kinds.items()}
    for name, values in kept_columns(stored, types).items():
        stored = stored.set_column(stored.column_names.index(name), name, values)
    return stored


def _value(text: str, kind: pa.DataType) -> object:
    value = json.loads(text)
    if kind == pa.string():
        return printable(value) if isinstance(value, str) else text
    return float(value) if kind == pa.float64() else value


def samples_stamp(read: ReadConfig, types: Mapping[str, pa.DataType]) -> str:
    """Return what score files are stamped with, so that all have the same sample columns."""
    several = [CAPTION_SOURCE.name] if len(read.captions) > 1 else []
    kept = [[name, str(kind)] for name, kind in types.items()]
    return json.dumps([*SAMPLE_SCHEMA.names, *several, *kept])

"""Lists of samples from any tool: keys or uids as lines, tables, or DataComp's .npy."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from clipdre.errors import SelectionError
from clipdre.formats.files.lines import split_lines
from clipdre.formats.uids import UID_DTYPE, uid_digits

NUMPY, PARQUET, ARROW_FILE, ARROW_STREAM = b"\x93NUMPY", b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
# Columns that name a sample. One of the last two has to be there.
COLUMNS = ("shard", "key", "uid")
# A column of names of any kind: shard/key, key, uid, or a file's name.
NAME = "name"
# Columns that other tools call so.
FILE_NAMES = ("file_name", "filename", "image_path", "path")
DELIMITERS = ",\t;"
# Text that may be a key or shard whose leading zeros a tool dropped, and fits into 64 bits.
NUMBER = "^(0|[1-9][0-9]{0,17})$"


# A list that takes more bytes in memory, and so many times its own size, is a bomb.
LARGE = 2**30
MOST_EXPANDED = 64


@dataclass(frozen=True)
class NameList:
    """Names of samples.

    Attributes
    ----------
    names : pa.Table
        One row per sample, with the column `NAME` or those of `COLUMNS` that the list has. A null
        says nothing. A key or shard that is a number may lack leading zeros.
    """

    names: pa.Table


def read_names(file: BinaryIO, label: str) -> NameList:
    """Read a list of names, detecting its format from the content.

    Parameters
    ----------
    file : binary file
    label : str
        Name of the list in messages.

    Raises
    ------
    SelectionError
        If the list is damaged, or none of its columns identifies samples.
    """
    data = file.read()
    try:
        return NameList(_names(data))
    except Exception as error:  # of numpy, pyarrow and json, which have no common base class
        reason = str(error).partition("\n")[0]
        raise SelectionError(
            f"{label} cannot be read as a list of samples: {reason}",
            "pass keys or uids as lines, JSON lines, CSV, Parquet, Arrow, or DataComp's .npy",
        ) from error


def read_name_file(path: str | Path, parameter: str, cure: str) -> NameList:
    """Read a list of names from a file; see `read_names`.

    Parameters
    ----------
    parameter, cure : str
        Of the message if the file cannot be opened, which is a `SelectionError` too.
    """
    try:
        with open(path, "rb") as file:
            return read_names(file, str(path))
    except OSError as error:
        raise SelectionError(
            f"cannot read `{parameter}` {path} ({error.strerror})", cure
        ) from error


def _names(data: bytes) -> pa.Table:
    if data.startswith(NUMPY):
        return _from_numpy(np.load(io.BytesIO(data), allow_pickle=False))
    if data.startswith(PARQUET):
        return _from_table(_parquet_table(data))
    if data.startswith(ARROW_FILE):
        return _from_table(pa.ipc.open_file(data).read_all())
    if data.startswith(ARROW_STREAM):
        return _from_table(pa.ipc.open_stream(data).read_all())
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as Windows' tools write
        data = data.decode("utf-16").encode()
    return _from_text(data)


def _parquet_table(data: bytes) -> pa.Table:
    """Read the columns that name samples; repeated values stay dictionaries."""
    schema = pq.read_schema(io.BytesIO(data))
    held = _naming(schema.names)
    if not held:
        return schema.empty_table()
    file = pq.ParquetFile(io.BytesIO(data), read_dictionary=held)
    groups = (file.metadata.row_group(n) for n in range(file.metadata.num_row_groups))
    stored = sum(
        group.column(n).total_uncompressed_size
        for group in groups
        for n in range(group.num_columns)
        if group.column(n).path_in_schema in held
    )
    _check_expanded(stored, len(data))
    return file.read(held)


def _check_expanded(nbytes: int, size: int) -> None:
    """Raise ValueError if a list of `size` bytes is a bomb."""
    if nbytes > max(LARGE, MOST_EXPANDED * size):
        raise ValueError(f"its {size:,} bytes expand to {nbytes:,}")


def _text_bytes(column: pa.ChunkedArray) -> int:
    """Return how many bytes a column of texts takes without its dictionaries."""
    total = 0
    for chunk in column.chunks:
        lengths = pc.binary_length(chunk.dictionary).fill_null(0).take(chunk.indices)
        total += pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0
    return total


def _from_text(data: bytes) -> pa.Table:
    text = data.decode("utf-8-sig")
    if text.lstrip().startswith("{"):
        return _from_table(_json_table(text))
    header = text.partition("\n")[0].rstrip("\r")
    for delimiter in DELIMITERS:
        columns = [column.strip().strip('"').lower() for column in header.split(delimiter)]
        # A line with a slash is a sample of a shard, whatever its key is.
        if _names_samples(columns) and "/" not in header:
            return _from_table(_csv_table(data, delimiter, columns))
    return pa.table({NAME: pa.array(split_lines(text), pa.string())})


def _names_samples(columns: Sequence[str]) -> bool:
    return not {"key", "uid", *FILE_NAMES}.isdisjoint(columns)


def _naming(columns: Sequence[str]) -> list[str]:
    """Return the columns that name samples: those of clipdre, else one of file names."""
    if "key" in columns or "uid" in columns:
        return [name for name in COLUMNS if name in columns]
    return [name for name in FILE_NAMES if name in columns][:1]


def _from_table(table: pa.Table) -> pa.Table:
    """Return the columns that name samples, as text or numbers."""
    if not _names_samples(table.column_names):
        columns = f"columns {', '.join(table.column_names)}, but " if table.column_names else ""
        raise ValueError(f"it has {columns}no key and no uid")
    names = table.select(_naming(table.column_names))
    names.validate(full=True)
    repeated = (c for c in names.columns if pa.types.is_dictionary(c.type))
    texts = (c for c in repeated if not _is_number(_plain(c.type)))
    _check_expanded(sum(map(_text_bytes, texts)), names.nbytes)
    plain = [_plain(f.type) for f in names.schema]
    kinds = [kind if _is_number(kind) else pa.string() for kind in plain]
    names = names.cast(pa.schema(zip(names.column_names, kinds, strict=True)))
    if names.column_names[0] in FILE_NAMES:
        return pa.table({NAME: names[0].cast(pa.string())})
    return names


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column's values."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _from_numpy(array: npt.NDArray[Any]) -> pa.Table:
    if array.dtype == UID_DTYPE:
        return pa.table({"uid": uid_digits(array)})
    if array.ndim != 1 or array.dtype.kind not in "iuUS" or not array.dtype.itemsize:
        raise ValueError(f"dtype {array.dtype} is not DataComp's {UID_DTYPE}, and not that of keys")
    if array.dtype.kind in "iu":
        return pa.table({"key": array})
    return pa.table({NAME: pa.array(array.astype(str).tolist(), pa.string())})


def _json_table(text: str) -> pa.Table:
    rows = [json.loads(line) for line in split_lines(text)]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("not every line is a JSON object")
    columns = {name: [row.get(name) for row in rows] for name in (*COLUMNS, *FILE_NAMES)}
    known = {n: c for n, c in columns.items() if any(value is not None for value in c)}
    return pa.table({name: _json_column(column) for name, column in known.items()})


def _json_column(values: Sequence[Any]) -> pa.Array:
    if all(value is None or (type(value) is int and abs(value) < 2**63) for value in values):
        return pa.array(values, pa.int64())
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _csv_table(data: bytes, delimiter: str, columns: Sequence[str]) -> pa.Table:
    table = pcsv.read_csv(
        io.BytesIO(data),
        read_options=pcsv.ReadOptions(skip_rows=1, column_names=columns),
        parse_options=pcsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pcsv.ConvertOptions(
            include_columns=_naming(columns),
            column_types=dict.fromkeys((*COLUMNS, *FILE_NAMES), pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return pa.table({f.name: _csv_column(f.name, table[f.name]) for f in table.schema})


def _csv_column(name: str, texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return keys and shards as numbers if none has a leading zero, which CSV cannot tell."""
    is_number = pc.all(pc.match_substring_regex(texts, NUMBER)).as_py()
    return texts.cast(pa.int64()) if is_number and name in ("key", "shard") else texts

"""Lists of samples from any tool: keys or uids as lines, JSON lines, Parquet or DataComp's .npy."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipdre.errors import SelectionError
from clipdre.formats.uids import UID_DTYPE, uid_digits

NUMPY, PARQUET = b"\x93NUMPY", b"PAR1"
# Columns that identify a sample. The first kind whose columns a table has is used.
KINDS = {"pair": ("shard", "key"), "uid": ("uid",), "key": ("key",)}
ANY = "any"


@dataclass(frozen=True)
class NameList:
    """Names of samples.

    Attributes
    ----------
    kind : str
        Kind of the names: ``pair`` (shard/key), ``uid``, ``key``, or ``any`` of these.
    names : pa.Array
        Strings; uids as written in the list.
    """

    kind: str
    names: pa.Array


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
        if data.startswith(NUMPY):
            return _numpy(data)
        if data.startswith(PARQUET):
            return _table(pq.read_table(io.BytesIO(data)))
        text = data.decode("utf-8")
        if text.lstrip().startswith("{"):
            return _table(pa.Table.from_pylist(_objects(text)))
    except (ValueError, pa.ArrowException) as error:
        raise SelectionError(
            f"{label} cannot be read as a list of samples: {error}",
            "pass keys or uids as lines, JSON lines, Parquet, or DataComp's .npy",
        ) from error
    lines = [line.strip("\r") for line in text.split("\n")]
    return NameList(ANY, pa.array([line for line in lines if line.strip()], pa.string()))


def _objects(text: str) -> list[dict[str, Any]]:
    wanted = {name for columns in KINDS.values() for name in columns}
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("not every line is a JSON object")
    return [{name: str(row[name]) for name in wanted if row.get(name) is not None} for row in rows]


def _numpy(data: bytes) -> NameList:
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.dtype != UID_DTYPE:
        raise ValueError(f"dtype {array.dtype} is not DataComp's {UID_DTYPE}")
    return NameList("uid", uid_digits(array))


def _table(table: pa.Table) -> NameList:
    for kind, needed in KINDS.items():
        if set(needed) <= set(table.column_names):
            parts = [table[column].cast(pa.string()) for column in needed]
            names = parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "/")
            return NameList(kind, names.combine_chunks().drop_null())
    columns = f"columns {', '.join(table.column_names)}, but " if table.column_names else ""
    raise ValueError(f"it has {columns}no key and no uid")

"""Gives a score folder other captions, or a column of the pool's own metadata."""

from itertools import chain, cycle, islice

import pyarrow as pa
import pyarrow.parquet as pq


def recaptioned(scores, captions, first=()):
    """Give all rows captions in turn, after some for the first rows; return them all."""
    paths = sorted((scores / "scores").glob("*.parquet"))
    rows = sum(pq.read_metadata(path).num_rows for path in paths)
    given = list(islice(chain(first, cycle(captions)), rows))
    add_column(scores, "caption", given)
    return given


def add_column(scores, name, values, kind=None):
    """Set a column of the score files themselves, as `clipdre score --keep` adds one."""
    values = iter(values)
    for path in sorted((scores / "scores").glob("*.parquet")):
        table = pq.read_table(path)
        own = pa.array(list(islice(values, len(table))), kind or pa.string())
        table = table.drop_columns([name] if name in table.column_names else [])
        pq.write_table(table.append_column(name, own), path)

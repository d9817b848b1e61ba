"""Where the samples of a subset are: byte spans of its tars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from clipdre.emitting.subset import Subset
from clipdre.errors import InputError
from clipdre.formats.files.remote import redacted
from clipdre.formats.tars.spans import SCORE_AGAIN
from clipdre.sql.expressions import FILE

PLACE = ("key", "offset", "nbytes")


def located(subset: Subset, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the kept rows with key, offset and nbytes, and `columns`.

    Raises
    ------
    InputError
        If the scores do not say where a sample is, as those of a stranger might not.
    """
    for batch in subset.batches(list(dict.fromkeys([*PLACE, *columns]))):
        for name in PLACE:
            if batch[name].null_count:
                row = batch[name].is_null().index(True).as_py()
                shard = redacted(subset.source(batch[FILE][row].as_py()).url)
                problem = f"the scores do not say where the samples of {shard} are"
                raise InputError(problem, SCORE_AGAIN)
        yield batch

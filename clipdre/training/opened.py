"""Open a subset for training: select, check, and index it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipdre.api.arguments import Places, listed
from clipdre.api.scores import Scores, open_scores
from clipdre.api.subsets import select
from clipdre.emitting.index import located
from clipdre.emitting.relocate import relocated
from clipdre.emitting.subset import Subset
from clipdre.errors import SelectionError, UsageError
from clipdre.formats.tars.places import expand_shards
from clipdre.selecting.select import Selection
from clipdre.sql.expressions import FILE
from clipdre.training.index import SPAN, Index
from clipdre.training.pipeline import SubsetDataset
from clipdre.training.spans import Spans
from clipdre.words import count

SHUFFLE = 1000


def dataset(  # noqa: PLR0913 (one parameter per option)
    scores: str | Path | Scores | Selection,
    *,
    columns: str | Sequence[str] = (),
    shuffle: int = SHUFFLE,
    seed: int = 0,
    epoch: int = 0,
    shards: Places | None = None,
    **rule: Any,
) -> SubsetDataset:
    """Return a subset as a webdataset pipeline that reads it from the scored tars.

    Only the byte spans of kept samples are read, local or remote, and nothing is copied. Each
    sample is a dict as webdataset has it, ``__key__``, ``__url__`` and the bytes of each member by
    suffix, with the asked columns beside them. Ranks and workers share the samples without loss or
    repeat; the order depends on seed, epoch, and the numbers of ranks and workers only.

    Parameters
    ----------
    scores : path, Scores or Selection
        Score folder, or what `clipdre.select` or `clipdre.select_listed` selected.
    columns : str or sequence of str
        Scores, measured or joined columns to put into the samples, such as a weight.
    shuffle : int
        Samples in the buffer from which the next one is drawn. 1 shuffles shards only; 0 is pool
        order.
    seed, epoch : int
        Both decide the order; see `SubsetDataset.set_epoch`.
    shards : path or sequence of paths, optional
        Tars to take the samples from, if they moved; see `clipdre.emit`.
    **rule
        What to keep, as for `clipdre.select` (`recipe`, `where`, `by`, `top`, ...); everything by
        default.

    Raises
    ------
    SelectionError
        If nothing is kept, or an asked column is unknown or has no value in a kept row.
    InputError
        If a tar is missing or has changed since it was scored: all local ones and the first remote
        one are checked here, each again when it is opened.

    Examples
    --------
    >>> from clipdre import training
    >>> data = training.dataset("demo/scores-clean", columns="log_ratio", by="log_ratio", top=10)
    >>> sorted(next(iter(data)))
    ['__key__', '__url__', 'json', 'log_ratio', 'png', 'txt']
    >>> loader = data.to_tuple("png", "txt", "log_ratio").batched(5)
    >>> [len(captions) for _, captions, _ in loader]
    [5, 5]
    """
    if shuffle < 0:
        raise UsageError(f"`shuffle` is {shuffle}", "set it to 0 for pool order, or more")
    if isinstance(scores, Selection):
        if rule:
            problem = f"`{next(iter(rule))}` cannot be used with a selection, which is made already"
            raise UsageError(problem, "pass the score folder, or drop it")
        selection = scores
    else:
        opened = scores if isinstance(scores, Scores) else open_scores(scores)
        selection = select(opened, **rule)
    subset = (
        Subset(selection) if shards is None else relocated(selection, expand_shards(listed(shards)))
    )
    return SubsetDataset(Spans(read_index(subset, listed(columns)), shuffle, seed, epoch))


def read_index(subset: Subset, columns: Sequence[str]) -> Index:
    """Return the index of a subset, and check its tars: all local ones, and the first remote one.

    Raises
    ------
    SelectionError
        If nothing is kept, or an asked column is unknown or lacks values.
    InputError
        If a tar is missing or has changed since it was scored.
    OutputError
        If there are no tars.
    """
    if not len(subset.selection):
        raise SelectionError("nothing is kept, so there is nothing to read", "loosen the selection")
    query = subset.selection.query
    if unknown := [name for name in columns if name not in query.columns]:
        raise SelectionError(*query.unknown_column(unknown[0]))
    subset.check()
    asked = tuple(dict.fromkeys(columns))
    table = pa.Table.from_batches(list(located(subset, asked))).combine_chunks()
    for name in asked:
        _check_values(table[name], name)
    files = table[FILE].to_numpy()
    bounds = [0, *(np.flatnonzero(np.diff(files)) + 1).tolist(), len(files)]
    rows = [range(*pair) for pair in pairwise(bounds)]
    shards = [(subset.source(int(files[part.start])), part) for part in rows]
    digest = hashlib.blake2b(repr(bounds).encode(), digest_size=16)
    for name in ("offset", "nbytes"):
        digest.update(table[name].to_numpy().tobytes())
    digest.update("\0".join(table["key"].to_pylist()).encode())
    kept = table.select(list(dict.fromkeys([*SPAN, *asked])))
    return Index(kept, asked, shards, digest.hexdigest())


def _check_values(values: pa.ChunkedArray, name: str) -> None:
    """Refuse a column that lacks values: as weights, they would end up in the loss as NaN."""
    lacking = pc.sum(pc.is_null(values, nan_is_null=True)).as_py()
    if lacking:
        condition = (
            f"isfinite({name})" if pa.types.is_floating(values.type) else f"{name} IS NOT NULL"
        )
        raise SelectionError(
            f"column {name} has no value in {count(lacking, 'kept row')}",
            f"leave them out with `where` {condition!r}, or drop it from `columns`",
        )

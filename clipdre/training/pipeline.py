"""A webdataset pipeline over a subset where it lies: only the kept spans of its tars are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import webdataset as wds
from webdataset.compat import FluidInterface

from clipdre.api.arguments import Places, listed
from clipdre.api.scores import Scores, open_scores
from clipdre.api.subsets import select
from clipdre.emitting.relocate import relocated
from clipdre.emitting.subset import Subset
from clipdre.errors import UsageError
from clipdre.formats.tars.places import expand_shards
from clipdre.selecting.select import Selection
from clipdre.training.index import read_index
from clipdre.training.spans import Spans

SHUFFLE = 1000


def dataset(  # noqa: PLR0913 (one parameter per option)
    scores: str | Path | Scores | Selection,
    *,
    columns: Sequence[str] = (),
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
    columns : sequence of str
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
    >>> data = training.dataset("demo/scores-clean", columns=["log_ratio"], by="log_ratio", top=10)
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
    return SubsetDataset(Spans(read_index(subset, columns), shuffle, seed, epoch))


class SubsetDataset(wds.DataPipeline, FluidInterface):  # type: ignore[misc]
    """A subset as a webdataset pipeline: see `dataset`, which makes it.

    It has the methods of `webdataset.WebDataset`: ``decode``, ``map``, ``to_tuple``, ``batched``,
    ... What they return are `SubsetDataset` too, with one epoch and one state.
    """

    @property
    def samples(self) -> int:
        """Number of samples in the subset, over all ranks."""
        return len(self._spans.index)

    @property
    def _spans(self) -> Spans:
        spans: Spans = self.pipeline[0]
        return spans

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the passes to come, also in workers that are running.

        Until then, each pass has the same order.
        """
        self._spans.epoch.fill_(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return how far this process has come in its epoch.

        A sample counts once it is handed out. Call it in the process that iterates over the
        dataset, as torchdata's ``StatefulDataLoader`` does in its workers. With another loader,
        whose workers run ahead, use `state_after`.
        """
        return self._spans.state().to_dict()

    def state_after(
        self, batches: int, *, batch_size: int, workers: int, partial: bool = True
    ) -> dict[str, Any]:
        """Return the state after the first `batches` of a loader, from the start of this pass.

        Parameters
        ----------
        batches : int
            Batches that this rank has taken from the loader in this pass.
        batch_size, workers : int
            The loader's; 0 workers is this process.
        partial : bool
            Whether a worker's last batch may be smaller.
        """
        state = self._spans.state_after(batches, batch_size, max(1, workers), partial)
        return state.to_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where a state was taken: the passes of its epoch begin there.

        The samples, their order and their batches are those that would have followed. All ranks may
        load the state of one, if they have taken the same number of batches.

        Raises
        ------
        UsageError
            If the state is of another subset, seed, buffer or number of ranks. One of another
            number of workers is refused when the pass begins.
        """
        self._spans.load(state)

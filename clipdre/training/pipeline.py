"""A webdataset pipeline over a subset where it lies: only the kept spans of its tars are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial as bound
from itertools import islice
from typing import Any

import webdataset as wds
from webdataset.compat import FluidInterface
from webdataset.filters import default_collation_fn

from clipdre.training.spans import Spans


class SubsetDataset(wds.DataPipeline, FluidInterface):  # type: ignore[misc]
    """A subset as a webdataset pipeline: see `clipdre.training.dataset`, which makes it.

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

    def decode(self, *args: Any, partial: bool = True, **options: Any) -> SubsetDataset:
        """Decode members as webdataset does; columns are no members, and stay as they are."""
        decoded: SubsetDataset = super().decode(*args, partial=partial, **options)
        return decoded

    def batched(
        self,
        batchsize: int,
        collation_fn: Callable[[list[Any]], Any] | None = default_collation_fn,
        partial: bool = True,
    ) -> SubsetDataset:
        """Make batches as webdataset does, but without a look at the sample that follows."""
        made: SubsetDataset = self.compose(
            bound(_batches, size=batchsize, collate=collation_fn, partial=partial)
        )
        return made

    def listed(self, batchsize: int, partial: bool = True) -> SubsetDataset:
        """Make lists of samples; see `batched`."""
        return self.batched(batchsize, None, partial)

    def even_batches(self, batch_size: int, workers: int = 0) -> int:
        """Return how many full batches each worker of each rank has.

        Shares differ by a sample, so some may have one more. With ``.batched(batch_size,
        partial=False).with_epoch(n)`` all end after n batches, and ranks stay in step.

        Raises
        ------
        UsageError
            If a worker does not have one full batch.
        """
        return self._spans.even_batches(batch_size, max(1, workers))

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


def _batches(
    samples: Iterator[Any], size: int, collate: Callable[[list[Any]], Any] | None, partial: bool
) -> Iterator[Any]:
    """Yield batches. One that is handed out leaves no sample behind, so its state is exact."""
    while batch := list(islice(samples, size)):
        if partial or len(batch) == size:
            yield batch if collate is None else collate(batch)

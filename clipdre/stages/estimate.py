"""Embeddings to scores: every pair against the pool's own marginals."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.config import EstimateConfig, ReferenceMethod
from clipdre.core.density_ratio import log_ratio, pointwise_mutual_information, similarity
from clipdre.core.divergence import effective_sample_size, kl, reverse_kl
from clipdre.core.partition import RunningPartition, accumulate
from clipdre.errors import InputError
from clipdre.formats.embeddings import Modality, Pool
from clipdre.formats.manifest import ModelRecord
from clipdre.progress import Progress

EXACT_UP_TO = 32_768
QUERY_ROWS = 16_384
TILE_ROWS = 2048

Columns = dict[str, npt.NDArray[np.floating]]


@dataclass(frozen=True)
class Reference:
    """The counterparts that stand for the pool's marginals.

    Attributes
    ----------
    method : ReferenceMethod
        `EXACT` or `SAMPLE`.
    rows : int64 array of shape (m,) or None
        Ascending rows of the pool that are drawn; None for all of them.
    digest : str
        Names the reference: the method and the keys of its pairs, in order.
    """

    pool: Pool
    method: ReferenceMethod
    rows: npt.NDArray[np.int64] | None
    digest: str

    def __len__(self) -> int:
        return len(self.pool) if self.rows is None else len(self.rows)

    def tiles(self, modality: Modality) -> Iterator[tuple[int, Tensor]]:
        """The reference's vectors, tile by tile."""
        if self.rows is None:
            yield from self.pool.tiles(modality, TILE_ROWS)
            return
        for start in range(0, len(self.rows), TILE_ROWS):
            yield start, self.pool.take(modality, self.rows[start : start + TILE_ROWS])

    def own(self, start: int, stop: int) -> Tensor:
        """For pool rows `start` to `stop`, the index of each among the references, or -1."""
        queries = np.arange(start, stop)
        if self.rows is None:
            return torch.from_numpy(queries)
        found = np.searchsorted(self.rows, queries)
        found[found == len(self.rows)] = 0
        return torch.from_numpy(np.where(self.rows[found] == queries, found, -1))


def build_reference(
    pool: Pool, key_hashes: npt.NDArray[np.uint64], config: EstimateConfig
) -> Reference:
    """Choose the references: the whole pool, or the `bulk` pairs of smallest key hash.

    Raises
    ------
    InputError
        When a pool of fewer than two pairs leaves nothing to compare with.
    """
    if len(pool) < 2:
        raise InputError(
            f"the shards hold {len(pool)} usable pair(s), and a density ratio compares a pair with "
            "others: see failures/ in the output folder, or score more shards together"
        )
    method = config.method
    if method is ReferenceMethod.AUTO:
        exact = len(pool) <= EXACT_UP_TO
        method = ReferenceMethod.EXACT if exact else ReferenceMethod.SAMPLE
    rows = None
    if method is ReferenceMethod.SAMPLE:
        # A stable sort keeps the draw the same where hashes repeat.
        rows = np.sort(np.argsort(key_hashes, kind="stable")[: config.bulk])
    drawn = key_hashes if rows is None else key_hashes[rows]
    digest = hashlib.sha256(method.value.encode() + drawn.tobytes()).hexdigest()
    return Reference(pool, method, rows, digest)


def estimate(
    pool: Pool, reference: Reference, model: ModelRecord, start: int, stop: int, progress: Progress
) -> Iterator[Columns]:
    """Score columns of the pool's rows `start` to `stop`, block by block, in pool order."""
    for low in range(start, stop, QUERY_ROWS):
        high = min(low + QUERY_ROWS, stop)
        yield _estimate_rows(pool, reference, model, low, high)
        progress.advance(high - low, high - low)


def _estimate_rows(
    pool: Pool, reference: Reference, model: ModelRecord, start: int, stop: int
) -> Columns:
    images, texts = pool.read("img", start, stop), pool.read("text", start, stop)
    own = reference.own(start, stop)

    def partition(queries: Tensor, other: Modality) -> RunningPartition:
        return accumulate(
            queries,
            reference.tiles(other),
            scale=model.logit_scale,
            bias=model.logit_bias,
            own=own,
        )

    over_texts, over_images = partition(images, "text"), partition(texts, "img")
    cosine = similarity(images, texts)
    logits = model.logit_scale * cosine.double() + model.logit_bias
    ratio_image, ratio_text = log_ratio(logits, over_texts), log_ratio(logits, over_images)
    ratio = pointwise_mutual_information(ratio_image, ratio_text)
    columns = {
        "similarity": cosine,
        "log_partition_image": over_texts.log_mean_exp(),
        "log_partition_text": over_images.log_mean_exp(),
        "log_ratio_image": ratio_image,
        "log_ratio_text": ratio_text,
        "log_ratio": ratio,
        "kl_contribution": ratio / len(pool),
        "kl_image": kl(over_texts),
        "kl_text": kl(over_images),
        "klr_image": reverse_kl(over_texts),
        "klr_text": reverse_kl(over_images),
        "ess_image": effective_sample_size(over_texts),
        "ess_text": effective_sample_size(over_images),
    }
    return {name: column.numpy() for name, column in columns.items()}

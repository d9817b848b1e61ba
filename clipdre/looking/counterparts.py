"""What the model would have put beside an image or a caption: their likeliest counterparts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from clipdre.core.modality import Modality
from clipdre.formats.folders.embeddings import pool_of
from clipdre.looking.points import Places
from clipdre.looking.samples import listed_rows
from clipdre.sql.expressions import FILE, POOL, ROW
from clipdre.sql.query import ScoreQuery

NEAREST = 5
# Pairs that counterparts are looked for among; of a larger pool, evenly spaced runs of rows.
SEARCHED = 500_000
TILE = 8192

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Nearest:
    """The likeliest counterparts of some rows, other than their own, the likeliest first.

    Attributes
    ----------
    places : int64 array of shape (n, k)
    log_ratios : float64 array of shape (n, k)
        Log density ratios given the row's own image or caption, in nats.
    """

    places: Places
    log_ratios: Floats


class Model:
    """A model's view of a pool: stored vectors, and what turns their products into log ratios.

    Raises
    ------
    ScoresError
        If the score folder has no embeddings, or they are damaged.
    """

    def __init__(self, query: ScoreQuery) -> None:
        self.query, self.pool = query, pool_of(query.folder, query.manifest)
        model = query.manifest.model
        self._scale, self._bias = model.logit_scale, model.logit_bias

    @property
    def searched(self) -> int:
        """Number of pairs that counterparts are looked for among."""
        return sum(stop - start for start, stop in self._tiles())

    def nearest(self, places: Places, modality: Modality) -> Nearest:
        """Find the likeliest counterparts of rows, given their images or their captions."""
        own = torch.from_numpy(places)
        queries = self.pool.take(modality, places)
        best = torch.empty((len(places), 0)), torch.empty((len(places), 0), dtype=torch.int64)
        for start, stop in self._tiles():
            products = queries @ self.pool.read(modality.other, start, stop).T
            inside = torch.nonzero((own >= start) & (own < stop))[:, 0]
            products[inside, own[inside] - start] = -torch.inf
            found, columns = products.topk(min(NEAREST, stop - start), dim=1)
            values = torch.cat([best[0], found], dim=1)
            top, order = values.topk(min(NEAREST, values.shape[1]), dim=1)
            best = top, torch.cat([best[1], columns + start], dim=1).gather(1, order)
        logits = self._scale * best[0].double().numpy() + self._bias
        with np.errstate(invalid="ignore"):  # a partition of no other pair is not finite
            ratios = logits - self._log_partitions(places, modality)[:, None]
        return Nearest(best[1].numpy(), ratios)

    def log_ratios(self, places: Places) -> Floats:
        """Return the log ratio of each image (rows) with each caption (columns), in nats."""
        images, texts = (self.pool.take(modality, places).double() for modality in Modality)
        logits = self._scale * (images @ texts.T).numpy() + self._bias
        image, text = (self._log_partitions(places, modality) for modality in Modality)
        with np.errstate(invalid="ignore"):
            ratios: Floats = logits - (image[:, None] + text[None, :]) / 2
        return ratios

    def _tiles(self) -> Iterator[tuple[int, int]]:
        total = len(self.pool)
        every = -(-total // max(SEARCHED, 1)) or 1
        for start in range(0, total, TILE * every):
            yield start, min(start + TILE, total)

    def _log_partitions(self, places: Places, modality: Modality) -> Floats:
        """Return the log partition of distinct ascending rows; NaN if it could not be estimated."""
        found = self.query.fetchall(
            f"SELECT log_partition_{modality}::DOUBLE FROM {POOL} "
            f"JOIN {listed_rows(self.query, places)} USING ({FILE}, {ROW}) ORDER BY {FILE}, {ROW}"
        )
        return np.array([np.nan if value is None else value for (value,) in found])

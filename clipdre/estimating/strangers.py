"""Pairs that a reference does not hold, found among its pairs by what they are alike to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from clipdre.core.cells import nearest
from clipdre.core.density_ratio import unit
from clipdre.core.modality import Modality
from clipdre.estimating.alike import PROBES, Cell, Take, by_cell, first_alike
from clipdre.estimating.marginal import Marginal

Marginals = Mapping[Modality, Marginal]


def places_alike(
    marginals: Marginals, queries: Mapping[Modality, Tensor], threshold: float
) -> Tensor:
    """Return where a reference's images hold a pair that each query is alike to, -1 if nowhere.

    A reference that is a sample holds its bulk only.

    Parameters
    ----------
    marginals : mapping of Modality to Marginal
    queries : mapping of Modality to float32 Tensor of shape (n, d)
    threshold : float
        Cosine; see `clipdre.estimating.alike`.

    Returns
    -------
    int64 Tensor of shape (n,)
    """
    count = len(queries[Modality.IMAGE])
    nowhere = len(marginals[Modality.IMAGE])
    queries = {modality: unit(rows) for modality, rows in queries.items()}
    found = torch.full((count,), nowhere)
    for rows, places, members in _candidates(marginals, queries[Modality.IMAGE]):

        def pairs(modality: Modality, k: Tensor, rows: Tensor = rows) -> Tensor:
            return queries[modality][rows[k]]

        cell = Cell(torch.full((len(rows),), nowhere), places, pairs, members)
        found.scatter_reduce_(0, rows, first_alike(cell, threshold), "amin")
    return torch.where(found == nowhere, -1, found)


def _candidates(marginals: Marginals, images: Tensor) -> Iterator[tuple[Tensor, Tensor, Take]]:
    """Yield queries, places of pairs to compare them with, and how to read these."""
    if marginals[Modality.IMAGE].is_sample:
        yield torch.arange(len(images)), *_in_bulk(marginals)
        return
    if marginals[Modality.IMAGE].has_lengths:  # vectors of one direction may be in any cell
        places = torch.arange(len(marginals[Modality.IMAGE]))
        yield torch.arange(len(images)), places, _in_pool(marginals, places)
        return
    stretches = marginals[Modality.IMAGE].stretches.tolist()
    rows, cells = _probed(marginals[Modality.IMAGE], images)
    probing = by_cell(rows.numpy(), cells.numpy(), len(stretches))
    for cell, (first, _, last) in enumerate(stretches):
        own = torch.from_numpy(probing(cell))
        if len(own) and first < last:
            places = torch.arange(first, last)
            yield own, places, _in_pool(marginals, places)


def _probed(marginal: Marginal, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return queries and the cells that they probe."""
    rows = torch.arange(len(images))
    if not marginal.has_cells:
        return rows, torch.zeros_like(rows)
    probes = min(PROBES, len(marginal.cells))
    cells = nearest(images, marginal.cells.centroids, probes).cpu()
    return rows.repeat_interleave(probes), cells.flatten()


def _in_pool(marginals: Marginals, places: Tensor) -> Take:
    images, texts = marginals[Modality.IMAGE], marginals[Modality.TEXT]

    def members(modality: Modality, k: Tensor) -> Tensor:
        of_images = places[k].numpy()
        if modality is Modality.IMAGE:
            return unit(images.vectors(of_images))
        return unit(texts.vectors(texts.places(images.hashes[of_images]).numpy()))

    return members


def _in_bulk(marginals: Marginals) -> tuple[Tensor, Take]:
    bulks = {modality: marginal.bulk for modality, marginal in marginals.items()}
    bulk = bulks[Modality.IMAGE]
    assert bulk is not None  # a sample has one
    places, order = torch.sort(marginals[Modality.IMAGE].places(bulk.hashes))

    def members(modality: Modality, k: Tensor) -> Tensor:
        of_modality = bulks[modality]
        assert of_modality is not None
        return unit(of_modality.vectors[order[k]])

    return places, members

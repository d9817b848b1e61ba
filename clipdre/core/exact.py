"""The quantities of pairs in arrays, exactly: each pair against the counterparts of all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.core import divergence
from clipdre.core.density_ratio import log_ratio, pointwise_mutual_information, similarity, unit
from clipdre.core.moments import Moments, mean_logit
from clipdre.core.partition import RunningPartition
from clipdre.core.tiles import accumulate
from clipdre.core.weights import importance_weights as _importance_weights
from clipdre.core.weights import log_mixture

TILE_ROWS = 2048
Array = npt.ArrayLike
Floats = npt.NDArray[np.float64]


class ByModality(NamedTuple):
    """A quantity of each image and of each text: two float64 arrays of shape (n,)."""

    image: Floats
    text: Floats


def density_ratio(
    images: Array,
    texts: Array,
    *,
    logit_scale: float,
    logit_bias: float = 0.0,
    inner_product: bool = False,
) -> Floats:
    """Compute ``log p(i,t) / p(i)p(t)`` of each pair: the pointwise mutual information, in nats.

    Parameters
    ----------
    images, texts : array-like of shape (n, d)
        Embeddings of n pairs, n >= 2, of any length: they are scaled to 1.
    logit_scale, logit_bias : float
        The model's scale and bias of cosines.
    inner_product : bool
        Do not scale embeddings: logits are of inner products, not of cosines.

    Returns
    -------
    float64 array of shape (n,)

    Raises
    ------
    ValueError
        When the arrays do not pair, or a vector has no direction.

    Examples
    --------
    >>> import clipdre
    >>> pairs = [[1, 0], [0, 1], [-1, 0]]
    >>> clipdre.density_ratio(pairs, pairs, logit_scale=2.0).round(3)
    array([2.566, 2.   , 2.566])
    """
    pairs = _ExactPairs.of(images, texts, (logit_scale, logit_bias), inner_product)
    by_image = log_ratio(pairs.logits, pairs.over_texts)
    by_text = log_ratio(pairs.logits, pairs.over_images)
    return pointwise_mutual_information(by_image, by_text).numpy()


def kl_divergence(
    images: Array,
    texts: Array,
    *,
    logit_scale: float,
    logit_bias: float = 0.0,
    inner_product: bool = False,
) -> ByModality:
    """Compute ``KL(p(T|i) || p(T))`` of each image and ``KL(p(I|t) || p(I))`` of each text.

    See `density_ratio` for the parameters.

    Examples
    --------
    >>> import clipdre
    >>> pairs = [[1, 0], [0, 1], [-1, 0]]
    >>> clipdre.kl_divergence(pairs, pairs, logit_scale=2.0).image.round(3)
    array([0.328, 0.   , 0.328])
    """
    pairs = _ExactPairs.of(images, texts, (logit_scale, logit_bias), inner_product)
    by_image, by_text = divergence.kl(pairs.over_texts), divergence.kl(pairs.over_images)
    return ByModality(by_image.numpy(), by_text.numpy())


def reverse_kl_divergence(
    images: Array,
    texts: Array,
    *,
    logit_scale: float,
    logit_bias: float = 0.0,
    inner_product: bool = False,
) -> ByModality:
    """Compute ``KL(p(T) || p(T|i))`` of each image and ``KL(p(I) || p(I|t))`` of each text.

    See `density_ratio` for the parameters.

    Examples
    --------
    >>> import clipdre
    >>> pairs = [[1, 0], [0, 1], [-1, 0]]
    >>> clipdre.reverse_kl_divergence(pairs, pairs, logit_scale=2.0).image.round(3)
    array([0.434, 0.   , 0.434])
    """
    pairs = _ExactPairs.of(images, texts, (logit_scale, logit_bias), inner_product)
    by_image = divergence.reverse_kl(pairs.over_texts, pairs.mean_over_texts)
    by_text = divergence.reverse_kl(pairs.over_images, pairs.mean_over_images)
    return ByModality(by_image.numpy(), by_text.numpy())


def effective_sample_size(
    images: Array,
    texts: Array,
    *,
    logit_scale: float,
    logit_bias: float = 0.0,
    inner_product: bool = False,
) -> ByModality:
    """Compute how many counterparts carry the conditional of each image, and of each text.

    See `density_ratio` for the parameters.

    Examples
    --------
    >>> import clipdre
    >>> pairs = [[1, 0], [0, 1], [-1, 0]]
    >>> clipdre.effective_sample_size(pairs, pairs, logit_scale=2.0).image.round(3)
    array([1.266, 2.   , 1.266])
    """
    pairs = _ExactPairs.of(images, texts, (logit_scale, logit_bias), inner_product)
    by_image = divergence.effective_sample_size(pairs.over_texts)
    by_text = divergence.effective_sample_size(pairs.over_images)
    return ByModality(by_image.numpy(), by_text.numpy())


def importance_weights(images: Array, prompts: Array, *, logit_scale: float = 10.0) -> Floats:
    """Compute weights of mean 1 proportional to ``exp(logit_scale * cosine)``.

    Parameters
    ----------
    images : array-like of shape (n, d)
    prompts : array-like of shape (k, d)
        Several prompts are a mixture.

    Examples
    --------
    >>> import clipdre
    >>> clipdre.importance_weights([[1, 0], [0, 1]], [[1, 0]], logit_scale=2.0).round(3)
    array([1.762, 0.238])
    """
    mixture = log_mixture(_rows(images, "images"), _rows(prompts, "prompts"), logit_scale)
    return _importance_weights(mixture).numpy()


@dataclass(frozen=True)
class _ExactPairs:
    """Partitions of both sides of some pairs over the other side."""

    logits: Tensor
    over_texts: RunningPartition
    over_images: RunningPartition
    mean_over_texts: Tensor
    mean_over_images: Tensor

    @classmethod
    def of(
        cls, images: Array, texts: Array, model: tuple[float, float], inner_product: bool
    ) -> _ExactPairs:
        i, t = _rows(images, "images", inner_product), _rows(texts, "texts", inner_product)
        scale, bias = model
        if len(i) < 2:
            raise ValueError(f"The 'images' must hold at least 2 pairs to compare. Got {len(i)}.")
        logits = scale * similarity(i, t) + bias
        own = torch.arange(len(i))

        def partition(queries: Tensor, others: Tensor) -> RunningPartition:
            tiles = zip(torch.split(others, TILE_ROWS), torch.split(own, TILE_ROWS), strict=True)
            return accumulate(
                queries, tiles, scale=scale, bias=bias, groups=own, has_lengths=inner_product
            )

        def mean(queries: Tensor, others: Tensor) -> Tensor:
            one = torch.ones_like(logits)
            return mean_logit(queries, Moments.of(others), scale, bias, logits, one)

        return cls(logits, partition(i, t), partition(t, i), mean(i, t), mean(t, i))


def _rows(vectors: Array, name: str, has_lengths: bool = False) -> Tensor:
    rows = torch.tensor(np.asarray(vectors, dtype=np.float64))
    if rows.ndim != 2 or not torch.isfinite(unit(rows)).all():
        raise ValueError(
            f"The '{name}' must be of shape (n, d), finite and without zero rows. "
            f"Got shape {tuple(rows.shape)} instead, or such rows."
        )
    return rows if has_lengths else unit(rows)

"""Log density ratios of pairs, in nats.

A contrastively trained model's logit is the log density ratio of image and text up to a function
of either; dividing by the partition over the marginal removes it (Uchiyama et al., CVPR 2026,
Eq. 1 and 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipdre.core.partition import RunningPartition


def unit(vectors: Tensor) -> Tensor:
    """Rows of `vectors`, shape (n, d), scaled to length 1. A zero row gives NaN."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / norms


def similarity(images: Tensor, texts: Tensor) -> Tensor:
    """``<v_i, v_t>`` of each pair: shapes (n, d) and (n, d), unit rows, to (n,)."""
    if images.shape != texts.shape:
        msg = (
            "The 'images' and 'texts' of similarity must have the same shape. "
            f"Got {tuple(images.shape)} and {tuple(texts.shape)} instead."
        )
        raise ValueError(msg)
    cosines: Tensor = torch.linalg.vecdot(images, texts)
    return cosines


def log_ratio(logits: Tensor, partition: RunningPartition) -> Tensor:
    """``s(i,t) - log Z``: log p(y|x) / p(y) of each pair in nats, float64 of shape (n,).

    Parameters
    ----------
    logits : Tensor of shape (n,)
        Logit of each pair.
    partition : RunningPartition
        Of the conditioning side over the other side's marginal: of the images over texts for
        ``log p(t|i)/p(t)``.
    """
    return logits.double() - partition.log_mean_exp()


def pointwise_mutual_information(ratio_image: Tensor, ratio_text: Tensor) -> Tensor:
    """Mean of both readings of ``log p(i,t) / p(i)p(t)``, in nats.

    Against the whole pool this is minus the symmetric CLIP loss of the pair (negCLIPLoss).
    """
    return (ratio_image + ratio_text) / 2

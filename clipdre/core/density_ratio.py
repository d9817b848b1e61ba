"""Log density ratios of pairs, in nats.

The logit of a contrastively trained model is the log density ratio of image and text, up to a
function of either one. Dividing by the partition over the marginal removes that function (Uchiyama
et al., CVPR 2026, Eq. 1 and 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipdre.core.partition import RunningPartition


def unit(vectors: Tensor) -> Tensor:
    """Scale the rows of `vectors`, shape (n, d), to length 1. A zero row becomes NaN."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / norms


def similarity(images: Tensor, texts: Tensor) -> Tensor:
    """Compute ``<v_i, v_t>`` of each pair, of unit rows the cosine: (n, d) and (n, d) to (n,)."""
    if images.shape != texts.shape:
        msg = (
            "The 'images' and 'texts' parameters of similarity must have the same shape. "
            f"Got {tuple(images.shape)} and {tuple(texts.shape)} instead."
        )
        raise ValueError(msg)
    cosines: Tensor = torch.linalg.vecdot(images, texts)
    return cosines


def log_ratio(logits: Tensor, partition: RunningPartition) -> Tensor:
    """Compute ``s(i,t) - log Z``: log p(y|x) / p(y) of each pair in nats, float64 of shape (n,).

    Parameters
    ----------
    logits : Tensor of shape (n,)
        Logit of each pair.
    partition : RunningPartition
        Partition of the conditioning modality over the marginal of the other: for
        ``log p(t|i) / p(t)``, of the images over the texts.
    """
    return logits.double() - partition.log_mean_exp()


def pointwise_mutual_information(ratio_image: Tensor, ratio_text: Tensor) -> Tensor:
    """Average both estimates of ``log p(i,t) / p(i)p(t)``, in nats.

    Its mean over a pool is minus the InfoLOOB loss up to a constant: each pair's own counterpart is
    left out (Fuerst et al., arXiv 2110.11316), where the CLIP loss counts it.
    """
    return (ratio_image + ratio_text) / 2

"""Embeddings and a reference to scores: every pair against the pool's marginals."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.core.density_ratio import log_ratio, pointwise_mutual_information, similarity
from clipdre.core.divergence import effective_sample_size, kl, reverse_kl
from clipdre.core.moments import centred_norm, covariance_norm
from clipdre.core.partition import RunningPartition
from clipdre.core.stratified import StratifiedPartition, standard_error
from clipdre.errors import ScoresError
from clipdre.estimating.marginal import Marginal
from clipdre.formats.folders.embeddings import Pool
from clipdre.formats.folders.manifest import ModelRecord
from clipdre.formats.folders.reference import Hashes, ReferenceFolder
from clipdre.progress import Progress

CPU = torch.device("cpu")
# Pairs that are estimated together. Each block costs a pass over the pool; where cells are gathered
# or a device has to be fed, larger blocks pay, and take more memory.
QUERY_ROWS, MANY_QUERY_ROWS = 8192, 65_536

Columns = dict[str, npt.NDArray[np.floating]]


class Estimator:
    """Scores of pairs under one model, against one reference."""

    def __init__(
        self, folder: ReferenceFolder, model: ModelRecord, device: torch.device = CPU
    ) -> None:
        """Of a model, by a reference, on a device: the CPU, or a GPU."""
        record = folder.record()
        if record is None:
            raise ScoresError(f"{folder.path} holds no reference: score that pool to its end first")
        if record.model_digest != model.digest:
            raise ScoresError(
                f"{folder.path} was made with other weights than {model.name} as loaded now: "
                "score with the same model, or without --reference"
            )
        self.record = record
        self._model = model
        # Sums are kept in float64, which other accelerators than CUDA's do not have.
        self._device = device if device.type == "cuda" else CPU
        self._images = Marginal(folder, record, "img", self._device)
        self._texts = Marginal(folder, record, "text", self._device)

    @property
    def query_rows(self) -> int:
        """Pairs that `estimate` takes at once."""
        many = self.record.method == "stratified" or self._device.type == "cuda"
        return MANY_QUERY_ROWS if many else QUERY_ROWS

    def columns(self, images: Tensor, texts: Tensor, hashes: Hashes, pairs: int) -> Columns:
        """All score columns of some pairs.

        Parameters
        ----------
        images, texts : float32 Tensors of shape (n, d), unit rows
        hashes : uint64 array of shape (n,)
            Key hashes of the pairs.
        pairs : int
            Pairs of the pool that is scored, of which `kl_contribution` is a share.
        """
        images, texts = images.to(self._device), texts.to(self._device)
        scale = self._model.logit_scale
        cosine = similarity(images, texts)
        logits = scale * cosine.double() + self._model.logit_bias
        over_texts, mean_over_texts = self._texts.partition(images, hashes, logits)
        over_images, mean_over_images = self._images.partition(texts, hashes, logits)
        columns = {"similarity": cosine, **_ratios(logits, over_texts, over_images, pairs)}
        for side, queries, own, other, partition, mean_logit in (
            (
                "image",
                images,
                self._images.moments,
                self._texts.moments,
                over_texts,
                mean_over_texts,
            ),
            (
                "text",
                texts,
                self._texts.moments,
                self._images.moments,
                over_images,
                mean_over_images,
            ),
        ):
            whole = partition.whole()
            columns |= {
                f"kl_{side}": kl(whole),
                f"kl_{side}_se": standard_error(partition.deviations(kl)),
                f"klr_{side}": reverse_kl(whole, mean_logit),
                # The mean logit is known, so the error is the log partition's.
                f"klr_{side}_se": columns[f"log_ratio_{side}_se"],
                f"dw_{side}": covariance_norm(queries, own, other, scale),
                f"dc_{side}": centred_norm(queries, own, scale),
                f"ess_{side}": effective_sample_size(whole),
            }
        return {name: column.cpu().numpy() for name, column in columns.items()}


def _ratios(
    logits: Tensor, over_texts: StratifiedPartition, over_images: StratifiedPartition, pairs: int
) -> dict[str, Tensor]:
    by_image, by_text = over_texts.whole(), over_images.whole()
    image, text = log_ratio(logits, by_image), log_ratio(logits, by_text)
    ratio = pointwise_mutual_information(image, text)
    # Both sides' folds hold the same pairs, so the mean's error takes their covariance along.
    image_apart = over_texts.deviations(RunningPartition.log_mean_exp)
    text_apart = over_images.deviations(RunningPartition.log_mean_exp)
    return {
        "log_partition_image": by_image.log_mean_exp(),
        "log_partition_text": by_text.log_mean_exp(),
        "log_ratio_image": image,
        "log_ratio_image_se": standard_error(image_apart),
        "log_ratio_text": text,
        "log_ratio_text_se": standard_error(text_apart),
        "log_ratio": ratio,
        "log_ratio_se": standard_error((image_apart + text_apart) / 2),
        "kl_contribution": ratio / pairs,
    }


def unnormalised(columns: Columns, model: ModelRecord, tau: int) -> npt.NDArray[np.floating]:
    """``s + log tau``: the reading of a noise-contrastive model (SigLIP) with tau negatives."""
    return model.logit_scale * columns["similarity"] + model.logit_bias + math.log(tau)


def estimate(
    pool: Pool, hashes: Hashes, estimator: Estimator, start: int, stop: int, progress: Progress
) -> Iterator[Columns]:
    """Score columns of the pool's rows `start` to `stop`, block by block, in pool order."""
    for low in range(start, stop, estimator.query_rows):
        high = min(low + estimator.query_rows, stop)
        images, texts = pool.read("img", low, high), pool.read("text", low, high)
        yield estimator.columns(images, texts, hashes[low:high], len(pool))
        progress.advance(high - low, high - low)

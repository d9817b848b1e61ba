"""Importance weights for a target that prompts describe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.core.columns import Column
from clipdre.core.modality import Modality
from clipdre.core.weights import log_mixture
from clipdre.scorers.base import Arrays, Pool, Rows, setting
from clipdre.scorers.common import encoded


@dataclass(frozen=True)
class PromptWeight:
    """``exp(c <v, prompt> + b)``; several prompts are a mixture, negative ones divide.

    It helps to draw pairs of a domain that words can name (``--sample 10% --by prompt_weight``), or
    to weigh them in training (`clipdre.training.ClipLoss`). The model has to know the words, and
    cosines of a prompt differ little, so a small c hardly changes the pool while a large one leaves
    few effective pairs (`prompt_weight_ess` in the record). It misleads as a measure of quality: a
    pair of the domain may have any caption. Small models trained with these weights were no better
    in their domain than without (docs/evidence.md).
    """

    name: ClassVar = "prompt-weight"
    title: ClassVar = "Importance weights for a target that prompts describe"
    source: ClassVar = "Uchiyama et al., CVPR 2026 (arXiv 2506.22881), importance-weighted learning"
    cost: ClassVar = "one pass over vectors"
    version: ClassVar = 1
    example: ClassVar = {"prompt": ("a red circle",)}

    prompt: tuple[str, ...] = setting("Text that describes the target; repeat it for a mixture.")
    negative_prompt: tuple[str, ...] = setting("Text that describes what to avoid.", default=())
    logit_scale: float = setting("Scale c of the logits; larger is sharper.", default=10.0)
    logit_bias: float = setting("Bias b of the logits.", default=0.0)
    modality: Modality = setting("Vectors to compare with the prompts.", default=Modality.IMAGE)

    def columns(self) -> tuple[Column, ...]:
        """See `Scorer`."""
        target = " or ".join(self.prompt)
        return (
            Column("prompt_weight", "", f"importance weight for {target}; mean 1", "high"),
            Column("prompt_log_weight", "nats", "log of the weight before scaling to mean 1"),
        )

    def fit(self, pool: Pool) -> Arrays:
        """Encode the prompts; sum weights and their squares over the pool."""
        learned = {"prompts": encoded(pool.encoder, self.prompt)}
        if self.negative_prompt:
            learned["avoided"] = encoded(pool.encoder, self.negative_prompt)
        sums = pool.reduce("log-sums", partial(self._log_sums, learned=learned), _merged)
        log_sum, log_sum_of_squares = sums["log_sum"], sums["log_sum_of_squares"]
        return {
            **learned,
            "prompt_weight_log_mean": log_sum - math.log(len(pool)),
            "prompt_weight_ess": np.exp(2 * log_sum - log_sum_of_squares),
        }

    def score(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """See `Scorer`."""
        log_weights = self._log_weights(rows, learned)
        log_mean = float(learned["prompt_weight_log_mean"])
        return {
            "prompt_weight": torch.exp(log_weights - log_mean).numpy(),
            "prompt_log_weight": log_weights.numpy(),
        }

    def _log_weights(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Tensor:
        """Return the log weight of each row in nats, float64 of shape (n,)."""
        vectors = rows.vectors(self.modality)

        def weights(name: str) -> Tensor:
            prompts = torch.from_numpy(learned[name])
            return log_mixture(vectors, prompts, self.logit_scale) + self.logit_bias

        return (
            weights("prompts") - weights("avoided") if "avoided" in learned else weights("prompts")
        )

    def _log_sums(self, rows: Rows, learned: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        log_weights = self._log_weights(rows, learned)
        return {
            "log_sum": torch.logsumexp(log_weights, 0).numpy(),
            "log_sum_of_squares": torch.logsumexp(2 * log_weights, 0).numpy(),
        }


def _merged(first: Arrays, second: Arrays) -> Arrays:
    return {name: np.logaddexp(value, second[name]) for name, value in first.items()}

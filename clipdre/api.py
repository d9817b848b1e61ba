"""clipdre from Python: the core on arrays, score folders as Arrow datasets, the stages.

Everything on arrays is exact, against the pairs given: each pair is compared with the counterparts
of all others. All results are in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.dataset as ds
import torch
from torch import Tensor

from clipdre.config import EmitConfig, EncodeConfig, EstimateConfig, ReadConfig
from clipdre.core.density_ratio import log_ratio, pointwise_mutual_information, similarity, unit
from clipdre.core.divergence import effective_sample_size as _effective_sample_size
from clipdre.core.divergence import kl, reverse_kl
from clipdre.core.moments import Moments, mean_logit
from clipdre.core.partition import RunningPartition
from clipdre.core.tiles import accumulate
from clipdre.core.weights import importance_weights as _importance_weights
from clipdre.core.weights import log_mixture
from clipdre.emitting import emit as _emit
from clipdre.emitting import subset as _subset
from clipdre.encoding import ingest as _ingest
from clipdre.estimating import check as _report
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest, read_complete_manifest
from clipdre.formats.tars.shards import expand_shards
from clipdre.pipelines import score as _score
from clipdre.pipelines import weigh as _weigh
from clipdre.selecting import select as _select
from clipdre.selecting.recipes import read_recipe
from clipdre.selecting.rules import AMOUNTS, Rule, Step, parse_amount
from clipdre.sql.query import ScoreQuery

TILE_ROWS = 2048
Array = npt.ArrayLike
Floats = npt.NDArray[np.float64]


def density_ratio(
    images: Array, texts: Array, *, logit_scale: float, logit_bias: float = 0.0
) -> Floats:
    """``log p(i,t) / p(i)p(t)`` of each pair: the pointwise mutual information.

    Parameters
    ----------
    images, texts : array-like of shape (n, d)
        Embeddings of n pairs, n >= 2, of any length: they are scaled to 1.
    logit_scale, logit_bias : float
        Of the model, as it multiplies cosines.

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
    pool = _Pool.of(images, texts, logit_scale, logit_bias)
    by_image = log_ratio(pool.logits, pool.over_texts)
    by_text = log_ratio(pool.logits, pool.over_images)
    return pointwise_mutual_information(by_image, by_text).numpy()


def kl_divergence(
    images: Array, texts: Array, *, logit_scale: float, logit_bias: float = 0.0
) -> tuple[Floats, Floats]:
    """``KL(p(T|i) || p(T))`` of each image and ``KL(p(I|t) || p(I))`` of each text.

    See `density_ratio` for the parameters.

    Examples
    --------
    >>> import clipdre
    >>> pairs = [[1, 0], [0, 1], [-1, 0]]
    >>> image, text = clipdre.kl_divergence(pairs, pairs, logit_scale=2.0)
    >>> image.round(3)
    array([0.328, 0.   , 0.328])
    """
    pool = _Pool.of(images, texts, logit_scale, logit_bias)
    return kl(pool.over_texts).numpy(), kl(pool.over_images).numpy()


def reverse_kl_divergence(
    images: Array, texts: Array, *, logit_scale: float, logit_bias: float = 0.0
) -> tuple[Floats, Floats]:
    """``KL(p(T) || p(T|i))`` of each image and ``KL(p(I) || p(I|t))`` of each text.

    See `density_ratio` for the parameters.

    Examples
    --------
    >>> import clipdre
    >>> pairs = [[1, 0], [0, 1], [-1, 0]]
    >>> image, text = clipdre.reverse_kl_divergence(pairs, pairs, logit_scale=2.0)
    >>> image.round(3)
    array([0.434, 0.   , 0.434])
    """
    pool = _Pool.of(images, texts, logit_scale, logit_bias)
    by_image = reverse_kl(pool.over_texts, pool.mean_over_texts)
    return by_image.numpy(), reverse_kl(pool.over_images, pool.mean_over_images).numpy()


def effective_sample_size(
    images: Array, texts: Array, *, logit_scale: float, logit_bias: float = 0.0
) -> tuple[Floats, Floats]:
    """How many counterparts carry the conditional of each image, and of each text.

    See `density_ratio` for the parameters.

    Examples
    --------
    >>> import clipdre
    >>> pairs = [[1, 0], [0, 1], [-1, 0]]
    >>> image, text = clipdre.effective_sample_size(pairs, pairs, logit_scale=2.0)
    >>> image.round(3)
    array([1.266, 2.   , 1.266])
    """
    pool = _Pool.of(images, texts, logit_scale, logit_bias)
    over_texts = _effective_sample_size(pool.over_texts).numpy()
    return over_texts, _effective_sample_size(pool.over_images).numpy()


def importance_weights(images: Array, prompts: Array, *, logit_scale: float = 10.0) -> Floats:
    """Weights of mean 1, proportional to ``exp(logit_scale * cosine)``; prompts are a mixture.

    Parameters
    ----------
    images : array-like of shape (n, d)
    prompts : array-like of shape (k, d)

    Examples
    --------
    >>> import clipdre
    >>> clipdre.importance_weights([[1, 0], [0, 1]], [[1, 0]], logit_scale=2.0).round(3)
    array([1.762, 0.238])
    """
    mixture = log_mixture(_rows(images, "images"), _rows(prompts, "prompts"), logit_scale)
    return _importance_weights(mixture).numpy()


@dataclass(frozen=True)
class Scores:
    """A finished score folder.

    Attributes
    ----------
    folder : ScoreFolder
        Where its files lie.
    manifest : Manifest
        What was run, on what, and what came of it.
    """

    folder: ScoreFolder
    manifest: Manifest

    def dataset(self) -> ds.Dataset:
        """All score rows in pool order, as an Arrow dataset that is read as it is needed."""
        paths = [str(self.folder.scores(shard.name)) for shard in self.manifest.shards]
        return ds.dataset(paths, format="parquet")


def open_scores(folder: str | Path) -> Scores:
    """Open a score folder; `ScoresError` when it is none, or unfinished.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> table = scores.dataset().to_table(columns=["key", "log_ratio"])
    >>> table.num_rows == scores.manifest.rows
    True
    """
    return Scores(ScoreFolder(Path(folder)), read_complete_manifest(Path(folder)))


def score(
    shards: Sequence[str],
    output: str | Path,
    *,
    read: ReadConfig | None = None,
    encode: EncodeConfig | None = None,
    estimate: EstimateConfig | None = None,
    **options: Any,
) -> Scores:
    """`clipdre score`: folders, tars, globs, brace patterns or URLs to a score folder.

    `options` are those of `clipdre.pipelines.score.score`: `overwrite`, `discard_embeddings`,
    `max_bad_fraction`.

    Examples
    --------
    >>> import clipdre
    >>> from clipdre.config import EncodeConfig
    >>> tiny = EncodeConfig(model="clipdre-tiny")
    >>> scores = clipdre.score(["demo/clean"], "demo/scores-api", encode=tiny)
    >>> scores.manifest.complete
    True
    """
    config = _score.ScoreConfig(
        read or ReadConfig(), encode or EncodeConfig(), estimate or EstimateConfig()
    )
    manifest = _score.score(expand_shards(list(shards)), Path(output), config, **options)
    return Scores(ScoreFolder(Path(output)), manifest)


def score_embeddings(
    embeddings: str | Path,
    output: str | Path,
    *,
    architecture: str = "l14",
    logit_scale: float | None = None,
    logit_bias: float = 0.0,
    estimate: EstimateConfig | None = None,
    **options: Any,
) -> Scores:
    """`clipdre score --embeddings`: DataComp metadata or clip-retrieval output to scores.

    Examples
    --------
    >>> import clipdre
    >>> folder = "demo/scores-clean/embeddings"
    >>> scores = clipdre.score_embeddings(folder, "demo/scores-again", logit_scale=30.0)
    >>> scores.manifest.model.logit_scale
    30.0
    """
    source = _ingest.open_embeddings(Path(embeddings), architecture, logit_scale, logit_bias)
    manifest = _score.score_embeddings(
        source, Path(output), estimate or EstimateConfig(), **options
    )
    return Scores(ScoreFolder(Path(output)), manifest)


def select(
    scores: Scores,
    *,
    where: str | None = None,
    by: str | None = None,
    top: int | float | None = None,
    recipe: str | None = None,
    budget: int | float | None = None,
    joined: Sequence[str | Path] = (),
    **step: Any,
) -> _select.Selection:
    """The rows that `clipdre filter` keeps: a count (int) or a fraction (float) as `top`.

    `step` are the other attributes of `clipdre.selecting.rules.Step` (`bottom`, `uniform`, `bins`, `sample`,
    `balance`, `cap`) and the `seed` of the rule; `joined` are Parquet files whose columns join by
    key; with a `recipe`, `budget` is the size of the subset.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> len(clipdre.select(scores, by="log_ratio", top=0.5)) * 2 == scores.manifest.rows
    True
    >>> len(clipdre.select(scores, recipe="log-ratio-then-kl", budget=10))
    10
    >>> shard, row = clipdre.select(scores, by="kl_text", balance="caption", cap=1).places
    """
    query = ScoreQuery(scores.folder, scores.manifest, [Path(path) for path in joined])
    seed = step.pop("seed", 0)
    if recipe is not None:
        size = None if budget is None else parse_amount(str(budget), "budget")
        rule = read_recipe(recipe).rule(query, budget=size, where=where, seed=seed)
        return _select.select(query, rule)
    for name, amount in (("top", top), *step.items()):
        if name in AMOUNTS and amount is not None:
            step[name] = parse_amount(str(amount), name)
    return _select.select(query, Rule((Step(where=where, by=by, **step),), seed=seed))


def emit(
    selection: _select.Selection,
    output: str | Path,
    *,
    shard_size: int = 10_000,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the selected samples as tars; returns the summary. See `clipdre filter`.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> best = clipdre.select(scores, by="log_ratio", top=10)
    >>> clipdre.emit(best, "demo/best")["kept"]
    10
    """
    config = EmitConfig(shard_size=shard_size)
    subset = _subset.Subset(selection)
    return _emit.write_tar_folder(subset, output, config, overwrite=overwrite)


def reference_report(scores: Scores) -> _report.ReferenceReport:
    """What `clipdre reference` tells: errors claimed and measured, per column.

    Examples
    --------
    >>> import clipdre
    >>> report = clipdre.reference_report(clipdre.open_scores("demo/scores-clean"))
    >>> {column.reliability for column in report.columns}
    {1.0}
    """
    return _report.report(scores.folder, scores.manifest)


def weigh(
    scores: Scores,
    output: str | Path,
    prompts: Sequence[str],
    avoided: Sequence[str] = (),
    *,
    logit_scale: float = 10.0,
) -> _weigh.Weighing:
    """Write importance weights for what `prompts` describe. See `clipdre weigh`.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> weighing = clipdre.weigh(scores, "demo/circles.parquet", ["a circle"])
    >>> weighing.sample_size < weighing.rows
    True
    """
    return _weigh.weigh(
        scores.folder,
        scores.manifest,
        Path(output),
        prompts,
        avoided,
        logit_scale=logit_scale,
    )


@dataclass(frozen=True)
class _Pool:
    """Partitions of both sides of some pairs over the other side."""

    logits: Tensor
    over_texts: RunningPartition
    over_images: RunningPartition
    mean_over_texts: Tensor
    mean_over_images: Tensor

    @classmethod
    def of(cls, images: Array, texts: Array, scale: float, bias: float) -> _Pool:
        i, t = _rows(images, "images"), _rows(texts, "texts")
        if len(i) < 2:
            raise ValueError(f"A pair is compared with others: give 2 pairs or more, not {len(i)}.")
        logits = scale * similarity(i, t) + bias
        own = torch.arange(len(i))

        def partition(queries: Tensor, others: Tensor) -> RunningPartition:
            tiles = (
                (start, others[start : start + TILE_ROWS])
                for start in range(0, len(others), TILE_ROWS)
            )
            return accumulate(queries, tiles, scale=scale, bias=bias, own=own)

        def mean(queries: Tensor, others: Tensor) -> Tensor:
            return mean_logit(queries, Moments.of(others), scale, bias, logits, own >= 0)

        return cls(logits, partition(i, t), partition(t, i), mean(i, t), mean(t, i))


def _rows(vectors: Array, name: str) -> Tensor:
    rows = torch.tensor(np.asarray(vectors, dtype=np.float64))
    if rows.ndim != 2 or not torch.isfinite(unit(rows)).all():
        raise ValueError(
            f"The '{name}' must be of shape (n, d), finite and without zero rows. "
            f"Got shape {tuple(rows.shape)} instead, or such rows."
        )
    return unit(rows)

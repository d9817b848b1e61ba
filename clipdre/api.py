"""clipdre from Python: the same functions as the command line, on score folders.

`clipdre.core.exact` has the quantities of pairs in arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.dataset as ds

from clipdre.config import (
    TIME_LIMIT,
    EmitConfig,
    EncodeConfig,
    EstimateConfig,
    MeasureConfig,
    ReadConfig,
    RunConfig,
    SubsetFormat,
)
from clipdre.doctor import Diagnosis
from clipdre.doctor import diagnose as _diagnose
from clipdre.emitting.write import Written, write_subset
from clipdre.encoding.ingest import open_embeddings
from clipdre.estimating import check as _check
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest, read_complete_manifest
from clipdre.formats.folders.records import MeasureRecord
from clipdre.formats.name_lists import read_names
from clipdre.formats.tars.shards import expand_shards
from clipdre.pipelines import measure as _measure
from clipdre.pipelines import score as _score
from clipdre.reporting import summary as _summary
from clipdre.scorers.base import Scorer
from clipdre.scorers.registry import find_scorer
from clipdre.selecting.listed import Listed
from clipdre.selecting.listed import select_listed as _select_listed
from clipdre.selecting.request import Quantity, Request
from clipdre.selecting.select import Selection
from clipdre.selecting.select import select as _select
from clipdre.sql.query import ScoreQuery


@dataclass(frozen=True)
class Scores:
    """A finished score folder.

    Attributes
    ----------
    folder : ScoreFolder
        Where its files are.
    manifest : Manifest
        What was run, on what, and what came of it.
    """

    folder: ScoreFolder
    manifest: Manifest

    def dataset(self) -> ds.Dataset:
        """Return all score rows in pool order, as an Arrow dataset that is read when needed."""
        paths = [str(self.folder.scores(shard.name)) for shard in self.manifest.shards]
        return ds.dataset(paths, format="parquet")

    def query(
        self, joined: Sequence[str | Path] = (), time_limit: float = TIME_LIMIT
    ) -> ScoreQuery:
        """Return the scores, measured columns and `joined` Parquet files as one table."""
        return ScoreQuery(self.folder, self.manifest, [Path(path) for path in joined], time_limit)


def open_scores(folder: str | Path) -> Scores:
    """Open a score folder; `ScoresError` if it is missing or unfinished.

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
    overwrite: bool = False,
    discard_embeddings: bool = False,
    max_bad_fraction: float = 1.0,
) -> Scores:
    """Score folders, tars, globs, brace patterns or URLs; see `clipdre.pipelines.score.score`.

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
    manifest = _score.score(
        expand_shards(list(shards)),
        Path(output),
        config,
        RunConfig(overwrite, discard_embeddings, max_bad_fraction),
    )
    return Scores(ScoreFolder(Path(output)), manifest)


def score_embeddings(
    embeddings: str | Path,
    output: str | Path,
    *,
    architecture: str = "l14",
    logit_scale: float | None = None,
    logit_bias: float = 0.0,
    estimate: EstimateConfig | None = None,
    device: str = "auto",
    overwrite: bool = False,
    discard_embeddings: bool = False,
    max_bad_fraction: float = 1.0,
) -> Scores:
    """Score DataComp metadata or clip-retrieval output, without encoding.

    Parameters
    ----------
    architecture : {"l14", "b32"}
        Model of DataComp's metadata.
    logit_scale, logit_bias : float
        Scale and bias of the model that produced the embeddings.

    Examples
    --------
    >>> import clipdre
    >>> folder = "demo/scores-clean/embeddings"
    >>> scores = clipdre.score_embeddings(folder, "demo/scores-again", logit_scale=30.0)
    >>> scores.manifest.model.logit_scale
    30.0
    """
    source = open_embeddings(Path(embeddings), architecture, logit_scale, logit_bias)
    manifest = _score.score_embeddings(
        source,
        Path(output),
        estimate or EstimateConfig(),
        device=device,
        run=RunConfig(overwrite, discard_embeddings, max_bad_fraction),
    )
    return Scores(ScoreFolder(Path(output)), manifest)


def summarize(scores: Scores) -> _summary.Summary:
    """Return what `clipdre info` shows: samples, failures, quantiles, columns.

    Examples
    --------
    >>> import clipdre
    >>> found = clipdre.summarize(clipdre.open_scores("demo/scores-pool"))
    >>> found.failures
    {'unreadable_image': 50}
    """
    return _summary.summarize(scores.folder, scores.manifest)


def check_reference(scores: Scores) -> _check.ReferenceCheck:
    """Return what `clipdre reference` shows: claimed and measured errors per column.

    Examples
    --------
    >>> import clipdre
    >>> found = clipdre.check_reference(clipdre.open_scores("demo/scores-clean"))
    >>> {column.reliability for column in found.columns}
    {1.0}
    """
    return _check.check_reference(scores.folder, scores.manifest)


def measure(
    scores: Scores,
    scorer: str | Scorer,
    *,
    suffix: str = "",
    device: str = "auto",
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> MeasureRecord:
    """Add a scorer's columns to a score folder; see `clipdre.pipelines.measure.measure`.

    Parameters
    ----------
    scorer : str or Scorer
        Name of a scorer, with its `settings`; or a scorer.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> circles = {"prompt": ("a circle",)}
    >>> record = clipdre.measure(scores, "prompt-weight", settings=circles)
    >>> [column.name for column in record.columns]
    ['prompt_weight', 'prompt_log_weight']
    """
    if isinstance(scorer, str):
        scorer = find_scorer(scorer)(**(settings or {}))
    config = MeasureConfig(suffix, device, overwrite)
    return _measure.measure(scores.folder, scores.manifest, scorer, config)


def select(
    scores: Scores,
    *,
    where: str | None = None,
    by: str | None = None,
    top: Quantity | None = None,
    bottom: Quantity | None = None,
    uniform: bool = False,
    bins: int | None = None,
    sample: Quantity | None = None,
    balance: str | None = None,
    cap: int | None = None,
    recipe: str | None = None,
    budget: Quantity | None = None,
    settings: Mapping[str, str | int | float] | None = None,
    seed: int = 0,
    joined: Sequence[str | Path] = (),
    time_limit: float = TIME_LIMIT,
) -> Selection:
    """Select the rows that `clipdre filter` keeps; see `clipdre.selecting.request.Request`.

    Parameters
    ----------
    top, bottom, sample, budget : int, float or str
        A count (int), or a share (float).
    joined : sequence of paths
        Parquet files whose columns join by key.

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
    request = Request(
        where=where,
        by=by,
        top=top,
        bottom=bottom,
        uniform=uniform,
        bins=bins,
        sample=sample,
        balance=balance,
        cap=cap,
        recipe=recipe or (),
        budget=budget,
        settings=settings,
        seed=seed,
    )
    query = scores.query(joined, time_limit)
    (rule,) = request.rules(query)
    return _select(query, rule)


def select_listed(scores: Scores, names: str | Path) -> Listed:
    """Select the samples that a file lists, as `clipdre emit --keys` does.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> best = clipdre.select(scores, by="log_ratio", top=10)
    >>> written = clipdre.emit(best, "demo/best.txt", format="keys", overwrite=True)
    >>> len(clipdre.select_listed(scores, "demo/best.txt").selection)
    10
    """
    with open(names, "rb") as file:
        return _select_listed(scores.query(), read_names(file, str(names)), str(names))


def emit(
    selection: Selection,
    output: str | Path | BinaryIO,
    *,
    format: SubsetFormat | str = SubsetFormat.TAR,
    shard_size: int = EmitConfig.shard_size,
    max_bytes: int | None = None,
    shuffle_seed: int | None = None,
    writers: int = EmitConfig.writers,
    shards: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Written:
    """Write the selected samples; see `clipdre.emitting.write.write_subset`.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> best = clipdre.select(scores, by="log_ratio", top=10)
    >>> clipdre.emit(best, "demo/best").kept
    10
    """
    return write_subset(
        selection,
        output,
        format=SubsetFormat(format),
        config=EmitConfig(shard_size, max_bytes, shuffle_seed, writers),
        shards=None if shards is None else expand_shards(list(shards)),
        overwrite=overwrite,
    )


def diagnose(
    shards: Sequence[str],
    *,
    read: ReadConfig | None = None,
    decode: bool = False,
    workers: int = 1,
) -> Diagnosis:
    """Check shards as `clipdre doctor` does; see `clipdre.doctor.diagnose`.

    Examples
    --------
    >>> import clipdre
    >>> clipdre.diagnose(["demo/pool"], decode=True).findings["unreadable_image"].samples
    50
    """
    urls = expand_shards(list(shards))
    return _diagnose(urls, read or ReadConfig(), decode=decode, workers=workers)

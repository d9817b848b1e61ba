"""clipdre from Python: the same functions as the command line, on score folders.

`clipdre.core.exact` has the quantities of pairs in arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow.dataset as ds

from clipdre.config import (
    TIME_LIMIT,
    Architecture,
    EmitConfig,
    EncodeConfig,
    EstimateConfig,
    JoinKey,
    MeasureConfig,
    ReadConfig,
    RunConfig,
    SubsetFormat,
)
from clipdre.doctor import Diagnosis
from clipdre.doctor import diagnose as _diagnose
from clipdre.emitting.write import Written, write_subset
from clipdre.errors import SelectionError, UsageError
from clipdre.estimating import check as _check
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest, read_complete_manifest
from clipdre.formats.folders.records import MeasureRecord
from clipdre.formats.name_lists import read_names
from clipdre.formats.tars.places import expand_shards
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

Choice = TypeVar("Choice", bound=Enum)
Places = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Scores:
    """A finished score folder.

    Attributes
    ----------
    folder : ScoreFolder
        Paths of its files.
    manifest : Manifest
        Record of the run: model, settings, shards and counts.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.open_scores("demo/scores-clean")
    >>> scores.manifest.model.name
    'clipdre-tiny'
    >>> "log_ratio" in scores.query().columns
    True
    """

    folder: ScoreFolder
    manifest: Manifest

    def dataset(self) -> ds.Dataset:
        """Return all score rows in pool order, as an Arrow dataset that reads on demand."""
        paths = [str(self.folder.scores(shard.name)) for shard in self.manifest.shards]
        return ds.dataset(paths, format="parquet")

    def query(
        self,
        joined: Places = (),
        time_limit: float = TIME_LIMIT,
        on: JoinKey | str | None = None,
    ) -> ScoreQuery:
        """Return the scores, measured columns and `joined` Parquet files as one table.

        Its `joins` say how many pairs found a row; see `select` for `joined` and `on`.
        """
        key = None if on is None else _chosen(JoinKey, on, "on")
        return ScoreQuery(self.folder, self.manifest, _listed(joined), time_limit, key)


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
    shards: Places,
    output: str | Path,
    *,
    read: ReadConfig | None = None,
    encode: EncodeConfig | None = None,
    estimate: EstimateConfig | None = None,
    overwrite: bool = False,
    discard_embeddings: bool = False,
    max_bad_fraction: float = 1.0,
    keep_reference: bool = False,
    prune: bool = False,
) -> Scores:
    """Score folders, tars, globs, brace patterns or URLs; see `clipdre.pipelines.score.score`.

    Parameters
    ----------
    read, encode, estimate : ReadConfig, EncodeConfig, EstimateConfig or None
        Settings of `clipdre.config`; None for the defaults.

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
    run = RunConfig(overwrite, discard_embeddings, max_bad_fraction, keep_reference, prune)
    manifest = _score.score(expand_shards(_listed(shards)), Path(output), config, run)
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
    """Score a score folder, DataComp metadata or clip-retrieval output, without encoding.

    Parameters
    ----------
    architecture : {"l14", "b32"}
        Model of DataComp's metadata.
    logit_scale, logit_bias : float
        Scale and bias of the model that made the embeddings: a score folder has its own, DataComp's
        metadata a default scale, 100.

    Examples
    --------
    >>> import clipdre
    >>> folder = "demo/scores-clean/embeddings"
    >>> scores = clipdre.score_embeddings(folder, "demo/scores-again", logit_scale=30.0)
    >>> scores.manifest.model.logit_scale
    30.0
    """
    manifest = _score.score_stored(
        Path(embeddings),
        Path(output),
        estimate or EstimateConfig(),
        architecture=_chosen(Architecture, architecture, "architecture").value,
        logit_scale=logit_scale,
        logit_bias=logit_bias,
        device=device,
        run=RunConfig(overwrite, discard_embeddings, max_bad_fraction),
    )
    return Scores(ScoreFolder(Path(output)), manifest)


def summarize(scores: Scores) -> _summary.Summary:
    """Count samples and failures, and compute quantiles, as `clipdre info` shows them.

    Examples
    --------
    >>> import clipdre
    >>> found = clipdre.summarize(clipdre.open_scores("demo/scores-pool"))
    >>> list(found.failures)
    ['unreadable_image']
    """
    return _summary.summarize(scores.folder, scores.manifest)


def check_reference(scores: Scores) -> _check.ReferenceCheck:
    """Compare claimed with measured errors of each column, as `clipdre reference` shows them.

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
        Name of a scorer, which takes `settings`, or a scorer with settings of its own.

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
    distinct: bool = False,
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
    joined: Places = (),
    on: JoinKey | str | None = None,
    time_limit: float = TIME_LIMIT,
) -> Selection:
    """Select the rows that `clipdre filter` keeps; see `clipdre.selecting.request.Request`.

    Parameters
    ----------
    top, bottom, sample, budget : int, float or str
        A count (int), or a share (float).
    joined : path or sequence of paths
        Parquet files, folders of them or glob patterns, whose columns are joined to the rows. Files
        that have the same columns are one table.
    on : {"key_hash", "shard,key", "uid", "key"} or None
        Names to match joined rows by; None for the first that the files have. The shard is a
        column, or the name of the file.

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
        distinct=distinct,
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
    query = scores.query(joined, time_limit, on)
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
    try:
        with open(names, "rb") as file:
            listed = read_names(file, str(names))
    except OSError as error:
        problem = f"cannot read `names` {names} ({error.strerror})"
        raise SelectionError(problem, "check the path") from error
    return _select_listed(scores.query(), listed, str(names))


def emit(
    selection: Selection,
    output: str | Path | BinaryIO,
    *,
    format: SubsetFormat | str | None = None,
    shard_size: int = EmitConfig.shard_size,
    max_bytes: int | None = None,
    shuffle_seed: int | None = None,
    writers: int = EmitConfig.writers,
    card: bool = False,
    shards: Places | None = None,
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
        format=None if format is None else _chosen(SubsetFormat, format, "format"),
        config=EmitConfig(shard_size, max_bytes, shuffle_seed, writers, card),
        shards=None if shards is None else expand_shards(_listed(shards)),
        overwrite=overwrite,
    )


def diagnose(
    shards: Places,
    *,
    read: ReadConfig | None = None,
    decode: bool = False,
    workers: int = 1,
) -> Diagnosis:
    """Check shards as `clipdre doctor` does; see `clipdre.doctor.diagnose`.

    Examples
    --------
    >>> import clipdre
    >>> list(clipdre.diagnose(["demo/pool"], decode=True).findings)
    ['unreadable_image']
    """
    urls = expand_shards(_listed(shards))
    return _diagnose(urls, read or ReadConfig(), decode=decode, workers=workers)


def _listed(places: Places) -> list[str]:
    """Return one place or several as a list: a string is not a sequence of letters here."""
    return [str(place) for place in ([places] if isinstance(places, str | Path) else places)]


def _chosen(choices: type[Choice], value: str, name: str) -> Choice:
    """Return a choice by its value; `UsageError` if there is no such choice."""
    try:
        return choices(value)
    except ValueError:
        known = ", ".join(choice.value for choice in choices)
        raise UsageError(f"invalid `{name}` {value!r}", f"choose from {known}") from None

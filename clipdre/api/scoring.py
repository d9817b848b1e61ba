"""Score pools, measure columns and check shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipdre.api.arguments import Places, chosen, engine_config, listed
from clipdre.api.scores import Scores
from clipdre.config import (
    DEFAULT_MODEL,
    DEFAULT_PRETRAINED,
    Architecture,
    EncodeConfig,
    EngineName,
    EstimateConfig,
    MeasureConfig,
    ReadConfig,
    RunConfig,
)
from clipdre.doctor import Diagnosis
from clipdre.doctor import diagnose as _diagnose
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.records import MeasureRecord
from clipdre.formats.folders.working_copy import local_copy
from clipdre.formats.tars.places import expand_shards
from clipdre.only_with import NotWith, check
from clipdre.pipelines import measure as _measure
from clipdre.pipelines import score as _score
from clipdre.scorers.base import Scorer
from clipdre.scorers.registry import find_scorer
from clipdre.slices import as_slice

PAIRINGS = tuple(
    NotWith(name, ("encode",), because="which has a field of that name")
    for name in ("model", "pretrained", "device")
)


def score(
    shards: Places,
    output: str | Path,
    *,
    model: str | Path | None = None,
    pretrained: str | Path | None = None,
    device: str | None = None,
    read: ReadConfig | None = None,
    encode: EncodeConfig | None = None,
    estimate: EstimateConfig | None = None,
    overwrite: bool = False,
    discard_embeddings: bool = False,
    max_bad_fraction: float = 1.0,
    keep_reference: bool = False,
    prune: bool = False,
    slice: str | None = None,
    engine: EngineName | str = EngineName.LOCAL,
    address: str | None = None,
    cpus_per_worker: int | None = None,
    scratch: str | Path | None = None,
) -> Scores:
    """Score folders, tars, globs, brace patterns or URLs; see `clipdre.pipelines.score.score`.

    Parameters
    ----------
    shards : path or sequence of paths
    output : path or URL
        Score folder, on a disk or in a store.
    model, pretrained, device : str, Path or None
        As on the command line; None for the defaults. Other settings of the encoder are fields of
        `encode`, which then has these too.
    read, encode, estimate : ReadConfig, EncodeConfig, EstimateConfig or None
        Settings of `clipdre.config`; None for the defaults.
    slice : str or None
        Part of the shards to encode, such as ``"3/8"``. The scores that are returned are then
        unfinished: their manifest has the shards of the slice, and no pair has a score yet.
    engine : {"local", "ray"}
    address : str or None
        ``HOST:PORT`` of the Ray cluster; None is the one of ``RAY_ADDRESS`` or of this machine, or
        else a new one on this machine.
    cpus_per_worker : int or None
        CPUs of each Ray worker; None shares those of the smallest node among its GPUs.
    scratch : path or None
        Local folder for the working copy of a score folder in a store; None for the user's cache.

    Raises
    ------
    UsageError
        If `encode` is given together with what is one of its fields.

    Examples
    --------
    >>> import clipdre
    >>> scores = clipdre.score("demo/clean", "demo/scores-api", model="clipdre-tiny")
    >>> scores.manifest.complete
    True
    """
    given = {"model": model, "pretrained": pretrained, "device": device, "encode": encode}
    check(given, PAIRINGS)
    where = engine_config(engine, address, cpus_per_worker)
    encode = encode or _encode_config(model, pretrained, device)
    config = _score.ScoreConfig(read or ReadConfig(), encode, estimate or EstimateConfig())
    part = as_slice(slice)
    run = RunConfig(
        overwrite, discard_embeddings, max_bad_fraction, keep_reference, prune, part, where
    )
    path = local_copy(output, scratch)
    manifest = _score.score(expand_shards(listed(shards)), path, config, run)
    return Scores(ScoreFolder(path), manifest)


def _encode_config(
    model: str | Path | None, pretrained: str | Path | None, device: str | None
) -> EncodeConfig:
    """Return the settings of an encoder; only the default model has a default of `pretrained`."""
    name = DEFAULT_MODEL if model is None else str(model)
    if pretrained is None:
        tag = DEFAULT_PRETRAINED if name == DEFAULT_MODEL else None
    else:
        tag = str(pretrained)
    return EncodeConfig(name, tag, device or EncodeConfig.device)


def score_embeddings(
    embeddings: str | Path,
    output: str | Path,
    *,
    architecture: str = "l14",
    logit_scale: float | None = None,
    logit_bias: float = 0.0,
    inner_product: bool = False,
    estimate: EstimateConfig | None = None,
    device: str = "auto",
    overwrite: bool = False,
    discard_embeddings: bool = False,
    max_bad_fraction: float = 1.0,
    scratch: str | Path | None = None,
) -> Scores:
    """Score a score folder, DataComp metadata or clip-retrieval output, without encoding.

    Parameters
    ----------
    embeddings, output : path or URL
        Score folders may be in stores; `scratch` is then as for `score`.
    architecture : {"l14", "b32"}
        Model of DataComp's metadata.
    logit_scale, logit_bias : float
        Scale and bias of the model that made the embeddings: a score folder has its own, DataComp's
        metadata a default scale, 100.
    inner_product : bool
        Take vectors as they are, of any length: logits are of inner products, not of cosines. A
        score folder records which.

    Examples
    --------
    >>> import clipdre
    >>> folder = "demo/scores-clean/embeddings"
    >>> scores = clipdre.score_embeddings(folder, "demo/scores-again", logit_scale=30.0)
    >>> scores.manifest.model.logit_scale
    30.0
    """
    path = local_copy(output, scratch)
    manifest = _score.score_stored(
        local_copy(embeddings, scratch),
        path,
        estimate or EstimateConfig(),
        architecture=chosen(Architecture, architecture, "architecture").value,
        logit_scale=logit_scale,
        logit_bias=logit_bias,
        inner_product=inner_product,
        device=device,
        run=RunConfig(overwrite, discard_embeddings, max_bad_fraction),
    )
    return Scores(ScoreFolder(path), manifest)


def measure(
    scores: Scores,
    scorer: str | Scorer,
    *,
    suffix: str = "",
    device: str = "auto",
    overwrite: bool = False,
    slice: str | None = None,
    engine: EngineName | str = EngineName.LOCAL,
    address: str | None = None,
    cpus_per_worker: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> MeasureRecord | None:
    """Add a scorer's columns to a score folder; see `clipdre.pipelines.measure.measure`.

    Parameters
    ----------
    scorer : str or Scorer
        Name of a scorer, which takes `settings`, or a scorer with settings of its own.
    slice : str or None
        Part of the work to do, such as ``"3/8"``; then nothing is returned.
    engine, address, cpus_per_worker
        As for `score`.

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
    where = engine_config(engine, address, cpus_per_worker)
    config = MeasureConfig(suffix, device, overwrite, engine=where)
    if (part := as_slice(slice)) is not None:
        _measure.measure_slice(scores.folder, scores.manifest, scorer, part, config)
        return None
    return _measure.measure(scores.folder, scores.manifest, scorer, config)


def diagnose(
    shards: Places,
    *,
    read: ReadConfig | None = None,
    decode: bool = False,
    workers: int = 1,
    engine: EngineName | str = EngineName.LOCAL,
    address: str | None = None,
    cpus_per_worker: int | None = None,
) -> Diagnosis:
    """Check shards as `clipdre doctor` does; see `clipdre.doctor.diagnose`.

    Parameters
    ----------
    engine, address, cpus_per_worker
        As for `score`; by default each CPU of a Ray cluster is a worker.

    Examples
    --------
    >>> import clipdre
    >>> list(clipdre.diagnose(["demo/pool"], decode=True).findings)
    ['unreadable_image']
    """
    urls = expand_shards(listed(shards))
    where = engine_config(engine, address, cpus_per_worker)
    return _diagnose(urls, read or ReadConfig(), decode=decode, workers=workers, engine=where)

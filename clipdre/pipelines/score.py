"""Score shards or embeddings: what is planned, for `clipdre.pipelines.stages` to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipdre import __version__
from clipdre.config import Architecture, EncodeConfig, EstimateConfig, ReadConfig, RunConfig
from clipdre.encoding.ingest import EmbeddingSource, open_embeddings
from clipdre.encoding.jobs import EncodeWork, IngestWork, RecordWork, workers_per_device
from clipdre.engines.base import Engine, silent
from clipdre.engines.local import InProcess
from clipdre.errors import ScoresError, UsageError
from clipdre.formats.files.storage import absolute
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.kept import column_names
from clipdre.formats.folders.manifest import (
    Manifest,
    is_own_manifest,
    read_complete_manifest,
    read_settings,
)
from clipdre.formats.folders.records import ModelRecord, ShardRecord, builtins
from clipdre.formats.tars.samples import printable
from clipdre.models.load import load_encoder, usable_device
from clipdre.pipelines.early import check_output, shard_records
from clipdre.pipelines.engine import followed, open_engine
from clipdre.pipelines.stages import Stages


@dataclass(frozen=True)
class ScoreConfig:
    """All settings of a run."""

    read: ReadConfig = field(default_factory=ReadConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    estimate: EstimateConfig = field(default_factory=EstimateConfig)


def score(
    urls: Sequence[str],
    output: Path,
    config: ScoreConfig,
    run: RunConfig | None = None,
) -> Manifest:
    """Score the pairs of the shards `urls` against their own pool.

    A run that was killed resumes; a finished one is not run again.

    Returns
    -------
    Manifest
        Manifest of the finished folder `output`.

    Raises
    ------
    InputError, ModelError
        Before anything is written, when a shard is missing or the model cannot be loaded; later,
        when too many samples failed.
    OutputError, ScoresError
        When `output` holds something else, or a run with other settings.
    """
    folder = ScoreFolder(output)
    check_output(folder, urls, config.estimate)
    column_names(config.read.keep)  # refuses those that cannot be
    shards = shard_records(urls)
    run = run or RunConfig()
    engine, cpus = open_engine(run.engine, config.encode.device, output, urls)
    if cpus is None:
        work, model = _local_work(config, engine.devices)
    else:
        work, model = _remote_work(config, engine, cpus)
    planned = _planned(model, read_settings(config.read), config.estimate, shards)
    return Stages(folder, followed(engine, folder), work).run(planned, run)


def _local_work(config: ScoreConfig, devices: Sequence[str]) -> tuple[EncodeWork, ModelRecord]:
    """Load the model; with several devices each process loads it itself, and this one lets go."""
    encoder = load_encoder(config.encode)
    encode = workers_per_device(config.encode, devices)
    loaded = encoder if len(devices) == 1 else None
    return EncodeWork(config.read, encode, loaded), encoder.record


def _remote_work(config: ScoreConfig, engine: Engine, cpus: int) -> tuple[EncodeWork, ModelRecord]:
    """Let a worker load the model: this machine may have no GPU."""
    encode = replace(config.encode, workers=cpus)
    ((_, model),) = engine.run(RecordWork(encode), [None], silent)
    return EncodeWork(config.read, encode, expected=model), model


def score_embeddings(
    source: EmbeddingSource,
    output: Path,
    config: EstimateConfig,
    *,
    device: str = "auto",
    run: RunConfig | None = None,
) -> Manifest:
    """Score pairs whose embeddings were made elsewhere; nothing is encoded.

    See `score`; each file of `source` takes the part of a shard.
    """
    folder = ScoreFolder(output)
    urls = source.files()
    check_output(folder, urls, config)
    shards = shard_records(urls)
    planned = _planned(source.model, {"embeddings": source.layout}, config, shards)
    engine = followed(InProcess(str(usable_device(device))), folder)
    return Stages(folder, engine, IngestWork(source)).run(planned, run or RunConfig())


def rescore(
    source: ScoreFolder,
    output: Path,
    config: EstimateConfig,
    *,
    device: str = "auto",
    run: RunConfig | None = None,
) -> Manifest:
    """Score the pairs of a score folder again, from its embeddings; nothing is encoded.

    The new scores are of the same shards and the same model. `output` may be `source` itself.

    Raises
    ------
    ScoresError
        When `source` is unfinished or keeps no embeddings; see `score` for others.
    """
    found = read_complete_manifest(source.path)
    source.store.fetch(source.embeddings, source.reference)
    if not source.embeddings.exists():
        raise ScoresError(f"{source.path} keeps no embeddings", "score the shards themselves")
    folder = ScoreFolder(output)
    check_output(folder, [shard.url for shard in found.shards], config)
    shards = (
        ShardRecord(name=s.name, url=s.url, nbytes=s.nbytes, modified=s.modified, sample=s.sample)
        for s in found.shards
    )
    planned = _planned(found.model, found.settings["read"], config, tuple(shards))
    engine = followed(InProcess(str(usable_device(device))), folder)
    return Stages(folder, engine, None, source).run(planned, run or RunConfig())


def score_stored(  # noqa: PLR0913 (one parameter per option)
    folder: Path,
    output: Path,
    config: EstimateConfig,
    *,
    architecture: str = Architecture.L14.value,
    logit_scale: float | None = None,
    logit_bias: float = 0.0,
    inner_product: bool = False,
    device: str = "auto",
    run: RunConfig | None = None,
) -> Manifest:
    """Score the embeddings in a folder: `rescore` a score folder, `score_embeddings` of others.

    Raises
    ------
    UsageError
        When a score folder, which records its model, is given with a scale, bias or kind.
    """
    if not is_own_manifest(folder):
        source = open_embeddings(folder, architecture, logit_scale, logit_bias, inner_product)
        return score_embeddings(source, output, config, device=device, run=run)
    if logit_scale is not None or logit_bias or inner_product:
        raise UsageError(
            f"{folder} is a score folder, which records the scale and bias of its model, and "
            "whether it has inner products",
            "drop `logit_scale`, `logit_bias` and `inner_product`, or name its subfolder "
            "embeddings",
        )
    return rescore(ScoreFolder(folder), output, config, device=device, run=run)


def _planned(
    model: ModelRecord,
    read: dict[str, Any],
    config: EstimateConfig,
    shards: tuple[ShardRecord, ...],
) -> Manifest:
    if config.saved is not None:
        config = replace(config, saved=printable(absolute(config.saved)))
    return Manifest(
        clipdre_version=__version__,
        model=model,
        settings={"read": read, "estimate": builtins(config)},
        shards=shards,
    )

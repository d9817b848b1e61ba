"""`clipdre score`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipdre.cli import score_options as take
from clipdre.cli.common_options import (
    Address,
    CpusPerWorker,
    Engines,
    SliceOption,
)
from clipdre.cli.read_options import IMAGE_KEY, read_config
from clipdre.cli.terminal import given_options
from clipdre.config import (
    DEFAULT_MODEL,
    DEFAULT_PRETRAINED,
    TINY_MODEL,
    Architecture,
    EncodeConfig,
    EngineConfig,
    EngineName,
    EstimateConfig,
    Normalization,
    Precision,
    ReadConfig,
    ReferenceMethod,
    RunConfig,
)
from clipdre.cpus import usable_cpus
from clipdre.errors import UsageError, named
from clipdre.formats.files.remote import is_remote
from clipdre.only_with import WITH_RAY, NotWith, OnlyWith, check, without_ray
from clipdre.slices import as_slice

if TYPE_CHECKING:
    from clipdre.formats.folders.manifest import Manifest

# Samples that a dry run tries.
TRIED = 500
# Name in messages of a reference that is a path.
SAVED = "PATH"
EXAMPLE = (
    "Example:  find pool -name '*.tar' | clipdre score - -o scores --model ViT-B-32 "
    "--pretrained laion2b_s34b_b79k"
)
# Options that have no effect on finished embeddings.
ENCODING = (
    "shards",
    "model",
    "pretrained",
    "precision",
    "decode",
    "batch_size",
    "workers",
    "image_key",
    "text_key",
    "keep",
    "max_member_bytes",
    "max_json_bytes",
    "max_caption_bytes",
    "max_pixels",
)
RULES: tuple[OnlyWith | NotWith, ...] = (
    *(NotWith(option, ("embeddings",), because="which are encoded already") for option in ENCODING),
    OnlyWith("architecture", ("embeddings",)),
    OnlyWith("logit_scale", ("embeddings",), because="since a model has its own"),
    OnlyWith("logit_bias", ("embeddings",), because="since a model has its own"),
    OnlyWith("inner_product", ("embeddings",), because="since a model has its own kind"),
    NotWith("neighbors", ("reference",), "exact"),
    NotWith("neighbors", ("reference",), "sample"),
    NotWith("neighbors", ("reference",), SAVED),
    NotWith("bulk", ("reference",), "exact"),
    NotWith("bulk", ("reference",), SAVED),
    NotWith("alike", ("reference",), SAVED, because="which brings its own"),
    NotWith("own", ("reference",), SAVED, because="which brings its own"),
    OnlyWith("tau", ("normalize",), "tau"),
    NotWith("prune", ("overwrite", "embeddings")),
    NotWith("keep_reference", ("overwrite",)),
    NotWith("dry_run", ("embeddings",), because="which are encoded already"),
    NotWith("slice", ("embeddings",), because="which are encoded already"),
    NotWith("slice", ("dry_run",), because="which writes nothing"),
    NotWith("slice", ("overwrite",), because="which drops what other slices wrote"),
    NotWith("engine", ("embeddings",), because="which are encoded already"),
    NotWith("engine", ("dry_run",), because="which tries this machine"),
    without_ray("workers"),
    *WITH_RAY,
    OnlyWith("limit", ("dry_run",), because="which tries so many samples"),
    OnlyWith("json", ("dry_run",)),
)
# What decides how a reference is built. `reference` always has a value in `RULES`.
BUILT = ("reference", "neighbors", "bulk", "alike", "own")
KEPT = (NotWith("keep_reference", BUILT, because="which is for one that is built again"),)


def score(
    context: typer.Context,
    shards: take.Shards = None,
    output: take.Output = None,
    embeddings: take.Embeddings = None,
    architecture: take.Architectures = Architecture.L14,
    logit_scale: take.LogitScale = None,
    logit_bias: take.LogitBias = 0.0,
    inner_product: take.InnerProduct = False,
    model: take.Model = DEFAULT_MODEL,
    pretrained: take.Pretrained = None,
    device: take.Device = EncodeConfig.device,
    precision: take.Precisions = EncodeConfig.precision,
    decode: take.DecodeWay = ReadConfig.decode,
    batch_size: take.BatchSize = EncodeConfig.batch_size,
    workers: take.Workers = None,
    reference: take.ReferenceWay = EstimateConfig.method.value,
    neighbors: take.Neighbors = EstimateConfig.neighbors,
    bulk: take.Bulk = EstimateConfig.bulk,
    alike: take.Alike = EstimateConfig.alike,
    own: take.OwnWay = EstimateConfig.own,
    normalize: take.Normalize = Normalization.REFERENCE,
    tau: take.Tau = None,
    keep_reference: take.KeepReference = False,
    image_key: take.ImageKey = IMAGE_KEY,
    text_key: take.TextKey = None,
    keep: take.Keep = None,
    max_bad_fraction: take.MaxBadFraction = 1.0,
    max_member_bytes: take.MaxMemberBytes = ReadConfig.max_member_bytes,
    max_json_bytes: take.MaxJsonBytes = ReadConfig.max_json_bytes,
    max_caption_bytes: take.MaxCaptionBytes = ReadConfig.max_caption_bytes,
    max_pixels: take.MaxPixels = ReadConfig.max_pixels,
    discard_embeddings: take.DiscardEmbeddings = False,
    prune: take.Prune = False,
    overwrite: take.Overwrite = False,
    slice: SliceOption = None,
    engine: Engines = EngineName.LOCAL,
    address: Address = None,
    cpus_per_worker: CpusPerWorker = None,
    dry_run: take.DryRun = False,
    limit: take.Limit = TRIED,
    json: take.Json = False,
) -> None:
    """Score image-text pairs: alignment and information in nats, from one encoding pass.

    A stopped run resumes when the same command is run again. With more shards, only those are
    encoded; with other options of the reference, none are. Prints the path of the score folder,
    unless a --slice of it was encoded.
    """
    _check_given(given_options(context), reference)
    _check_complete(bool(shards or embeddings), bool(output or dry_run), normalize, tau)
    estimate = replace(_estimate_config(reference, neighbors, bulk, tau), alike=alike, own=own)
    part, machines = as_slice(slice), EngineConfig(engine, address, cpus_per_worker)
    run_config = RunConfig(
        overwrite, discard_embeddings, max_bad_fraction, keep_reference, prune, part, machines
    )
    read = read_config(
        image_key,
        text_key or ReadConfig.caption_suffix,
        max_member_bytes,
        max_json_bytes,
        max_caption_bytes,
        max_pixels,
        decode,
        keep or (),
    )
    encode = _encode_config(model, pretrained, device, precision, batch_size, workers)
    if output is None or dry_run:
        _try_out(shards or [], read, encode, estimate, (limit, json))
        return
    if embeddings is None:
        manifest = _score_shards(shards or [], output, read, encode, estimate, run_config)
    else:
        theirs = (architecture, logit_scale, logit_bias, inner_product)
        manifest = _score_embeddings(embeddings, output, estimate, run_config, theirs, device)
    if manifest.complete:
        _show(manifest, output)
        typer.echo(named(str(output)))
    else:
        _show_slice(manifest, str(part))


def _check_complete(
    has_input: bool, has_output: bool, normalize: Normalization, tau: int | None
) -> None:
    """Refuse a command that lacks something."""
    if not has_input:
        raise UsageError("nothing to score", "name shards, or `embeddings`")
    if not has_output:
        raise UsageError("no `output`", "name a folder for the scores, or add `dry_run`")
    if normalize is Normalization.TAU and tau is None:
        raise UsageError("`normalize` tau needs a number of negatives", "add `tau`")


def _check_given(given: Mapping[str, object], reference: str) -> None:
    """Refuse options that do not go together."""
    methods = [method.value for method in ReferenceMethod]
    check({**given, "reference": reference if reference in methods else SAVED}, RULES)
    check(given, KEPT)


def _score_shards(
    shards: list[str],
    output: Path,
    read: ReadConfig,
    encode: EncodeConfig,
    estimate: EstimateConfig,
    run_config: RunConfig,
) -> Manifest:
    from clipdre.cli.terminal import note
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.formats.tars.places import expand_shards
    from clipdre.models.names import check_name
    from clipdre.pipelines.early import check_output

    if encode.model == TINY_MODEL:
        note(f"{TINY_MODEL} knows drawn shapes only: its scores of real images mean nothing")
    check_name(encode)
    urls = expand_shards(shards, sys.stdin)
    check_output(ScoreFolder(output), urls, estimate)
    # torch is imported only now: mistakes above are reported at once
    from clipdre.pipelines.score import ScoreConfig
    from clipdre.pipelines.score import score as run

    manifest = run(urls, output, ScoreConfig(read, encode, estimate), run=run_config)
    if encode.precision is Precision.AUTO:
        note(f"--precision auto: {manifest.model.precision} for this device")
    return manifest


def _try_out(
    shards: list[str],
    read: ReadConfig,
    encode: EncodeConfig,
    estimate: EstimateConfig,
    asked: tuple[int, bool],
) -> None:
    from clipdre.cli.trial import show_trial
    from clipdre.formats.tars.places import expand_shards
    from clipdre.pipelines.score import ScoreConfig
    from clipdre.pipelines.trial import try_out

    limit, as_json = asked
    urls = expand_shards(shards, sys.stdin)
    found = try_out(urls, ScoreConfig(read, encode, estimate), limit)
    show_trial(found, as_json=as_json)


def _score_embeddings(
    embeddings: Path,
    output: Path,
    estimate: EstimateConfig,
    run_config: RunConfig,
    model: tuple[Architecture, float | None, float, bool],
    device: str,
) -> Manifest:
    from clipdre.pipelines.score import score_stored

    architecture, logit_scale, logit_bias, inner_product = model
    return score_stored(
        embeddings,
        output,
        estimate,
        architecture=architecture.value,
        logit_scale=logit_scale,
        logit_bias=logit_bias,
        inner_product=inner_product,
        device=device,
        run=run_config,
    )


def _encode_config(
    model: str,
    pretrained: str | None,
    device: str,
    precision: Precision,
    batch_size: int,
    workers: int | None,
) -> EncodeConfig:
    return EncodeConfig(
        model=model,
        pretrained=pretrained or (DEFAULT_PRETRAINED if model == DEFAULT_MODEL else None),
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers or usable_cpus(),
    )


def _estimate_config(reference: str, neighbors: int, bulk: int, tau: int | None) -> EstimateConfig:
    methods = [method.value for method in ReferenceMethod]
    if reference in methods:
        return EstimateConfig(ReferenceMethod(reference), neighbors, bulk, tau=tau)
    if not is_remote(reference) and not Path(reference).exists():
        raise UsageError(
            f"`reference` {reference} is neither a method nor a folder",
            f"use {', '.join(methods)}, or the path of a score folder",
        )
    return EstimateConfig(saved=reference, tau=tau)


def _show_slice(manifest: Manifest, part: str) -> None:
    from clipdre.cli.terminal import note
    from clipdre.words import count

    shards, samples = count(len(manifest.shards), "shard"), count(manifest.samples, "sample")
    failed = f", {manifest.samples - manifest.rows:,} failed" if manifest.failures else ""
    note(f"slice {part} is encoded: {shards}, {samples}{failed}")
    note("when all slices are: the same command without --slice encodes what is missing and scores")


def _show(manifest: Manifest, output: Path) -> None:
    from clipdre.cli.summary import show_summary
    from clipdre.cli.terminal import note
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.reporting.summary import summarize
    from clipdre.words import operand

    show_summary(summarize(ScoreFolder(output), manifest), output)
    place = shlex.quote(operand(named(str(output))))
    note(f"look at the pairs in a browser: clipdre look {place} -o page.html")

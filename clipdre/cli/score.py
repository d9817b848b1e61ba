"""`clipdre score`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipdre.cli import score_options as take
from clipdre.cli.read_options import IMAGE_KEY, read_config
from clipdre.config import (
    DEFAULT_MODEL,
    DEFAULT_PRETRAINED,
    TINY_MODEL,
    Architecture,
    EncodeConfig,
    EstimateConfig,
    Normalization,
    Precision,
    ReadConfig,
    ReferenceMethod,
)

if TYPE_CHECKING:
    from clipdre.formats.folders.manifest import Manifest
    from clipdre.sql.query import ScoreQuery

SHOWN = ("similarity", "log_ratio", "kl_image", "kl_text", "klr_image", "klr_text")
PROBABILITIES = (0.05, 0.25, 0.5, 0.75, 0.95)
EXAMPLE = (
    "Example:  find pool -name '*.tar' | clipdre score - -o scores --model ViT-B-32 "
    "--pretrained laion2b_s34b_b79k"
)


def score(
    output: take.Output,
    shards: take.Shards = None,
    embeddings: take.Embeddings = None,
    arch: take.Arch = Architecture.L14,
    logit_scale: take.LogitScale = None,
    logit_bias: take.LogitBias = 0.0,
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
    normalize: take.Normalize = Normalization.REFERENCE,
    tau: take.Tau = None,
    image_key: take.ImageKey = IMAGE_KEY,
    text_key: take.TextKey = ReadConfig.caption_suffix,
    max_bad_fraction: take.MaxBadFraction = 1.0,
    max_member_bytes: take.MaxMemberBytes = ReadConfig.max_member_bytes,
    max_json_bytes: take.MaxJsonBytes = ReadConfig.max_json_bytes,
    max_caption_bytes: take.MaxCaptionBytes = ReadConfig.max_caption_bytes,
    max_pixels: take.MaxPixels = ReadConfig.max_pixels,
    discard_embeddings: take.DiscardEmbeddings = False,
    overwrite: take.Overwrite = False,
) -> None:
    """Score image-text pairs: alignment and information in nats, from one encoding pass.

    Prints the score folder's path. A run that was stopped goes on where it was when the same
    command is given again.
    """
    if (not shards) == (embeddings is None):
        raise typer.BadParameter("name either SHARDS or --embeddings DIR", param_hint="SHARDS")
    estimate = _estimate_config(reference, neighbors, bulk, normalize, tau)
    options: dict[str, Any] = {
        "overwrite": overwrite,
        "discard_embeddings": discard_embeddings,
        "max_bad_fraction": max_bad_fraction,
    }
    if embeddings is not None:
        from clipdre.encoding.ingest import open_embeddings
        from clipdre.pipelines.score import score_embeddings

        source = open_embeddings(embeddings, arch.value, logit_scale, logit_bias)
        manifest = score_embeddings(source, output, estimate, device=device, **options)
    else:
        read = read_config(
            image_key,
            text_key,
            max_member_bytes,
            max_json_bytes,
            max_caption_bytes,
            max_pixels,
            decode,
        )
        encode = _encode_config(model, pretrained, device, precision, batch_size, workers)
        manifest = _score_shards(shards or [], output, read, encode, estimate, options)
    print_summary(manifest, output)
    typer.echo(str(output))


def _score_shards(
    shards: list[str],
    output: Path,
    read: ReadConfig,
    encode: EncodeConfig,
    estimate: EstimateConfig,
    options: dict[str, Any],
) -> Manifest:
    from clipdre.cli.terminal import note
    from clipdre.formats.tars.shards import expand_shards
    from clipdre.pipelines.score import ScoreConfig
    from clipdre.pipelines.score import score as run

    if encode.model == TINY_MODEL:
        note(f"{TINY_MODEL} knows drawn shapes only: its scores of real images mean nothing")
    urls = expand_shards(shards, sys.stdin)
    manifest = run(urls, output, ScoreConfig(read, encode, estimate), **options)
    if encode.precision is Precision.AUTO:
        note(f"--precision auto: {manifest.model.precision}, as suits the device")
    return manifest


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
        workers=workers or os.cpu_count() or 1,
    )


def _estimate_config(
    reference: str, neighbors: int, bulk: int, normalize: Normalization, tau: int | None
) -> EstimateConfig:
    if (normalize is Normalization.TAU) != (tau is not None):
        raise typer.BadParameter("--normalize tau and --tau N belong together", param_hint="--tau")
    methods = [method.value for method in ReferenceMethod]
    if reference in methods:
        return EstimateConfig(ReferenceMethod(reference), neighbors, bulk, tau=tau)
    if not Path(reference).exists():
        raise typer.BadParameter(
            f"{reference} is none of {', '.join(methods)}, and no such folder exists",
            param_hint="--reference",
        )
    return EstimateConfig(saved=reference, tau=tau)


def print_summary(manifest: Manifest, output: Path) -> None:
    """Samples, failures by reason, mutual information, and quantiles of each score."""
    from collections import Counter

    from clipdre.cli.terminal import note, table
    from clipdre.formats.folders.folder import ScoreFolder
    from clipdre.sql.query import ScoreQuery

    failures: Counter[str] = Counter()
    for shard in manifest.shards:
        failures.update(shard.failures)
    reasons = [(f"  {reason}", f"{count:,}") for reason, count in failures.most_common()]
    query = ScoreQuery(ScoreFolder(output), manifest)
    table(
        f"{manifest.samples:,} samples in {len(manifest.shards):,} shards",
        ("", "samples"),
        [("scored", f"{manifest.rows:,}"), ("failed", f"{failures.total():,}"), *reasons],
    )
    table(
        "Scores (quantiles over the pool; nats, similarity is a cosine)",
        ("score", *(f"{p:.0%}" for p in PROBABILITIES)),
        [
            (name, *(f"{value:.3f}" for value in query.quantiles(name, PROBABILITIES)))
            for name in SHOWN
        ],
    )
    model = manifest.model
    note(
        f"mutual information of the pool: {query.total('kl_contribution'):.3f} nats "
        f"({model.name}, {model.precision}, logit scale {model.logit_scale:.1f}; "
        f"{manifest.reference['method']} reference of {manifest.reference['pairs']:,} pairs)"
    )
    _note_reliability(query, manifest, output)
    if failures:
        note(f"why samples failed: {output}/failures/")


def _note_reliability(query: ScoreQuery, manifest: Manifest, output: Path) -> None:
    from clipdre.cli.terminal import note

    method = manifest.reference["method"]
    if method == ReferenceMethod.EXACT.value:
        note("reliability: 1 for every score, all are exact for this pool")
        return
    worst = min(SHOWN[1:], key=lambda name: query.errors(name)[3])
    note(
        f"reliability: {query.errors(worst)[3]:.3f} or more ({worst}); "
        f"'clipdre reference {output}' tells all, and checks it against exact"
    )
    if method == ReferenceMethod.SAMPLE.value:
        note(
            "a uniform sample's own errors are not to be trusted: another draw would give other "
            "scores; use --reference stratified or exact"
        )

"""Stored embeddings and prompts to importance weights; no image is encoded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from clipdre.config import EncodeConfig, Precision
from clipdre.core.weights import importance_weights, log_mixture, weights_sample_size
from clipdre.errors import ModelError, ScoresError
from clipdre.formats.files.parquet import write_table
from clipdre.formats.folders.embeddings import Pool, embedding_files
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.manifest import Manifest
from clipdre.models.encoder import Encoder
from clipdre.models.load import load_encoder

TILE_ROWS = 8192
TOP = 5


@dataclass(frozen=True)
class Weighing:
    """What came of `weigh`.

    Attributes
    ----------
    rows : int
    sample_size : float
        Effective sample size of the weights.
    top : list of (weight, key, caption)
        The heaviest pairs.
    """

    rows: int
    sample_size: float
    top: list[tuple[float, str, str]]


def weigh(
    folder: ScoreFolder,
    manifest: Manifest,
    output: Path,
    prompts: Sequence[str],
    avoided: Sequence[str] = (),
    *,
    logit_scale: float = 10.0,
    device: str = "auto",
) -> Weighing:
    """Write ``shard, key, key_hash, weight`` to `output`, one row per pair, weights of mean 1.

    Parameters
    ----------
    prompts, avoided : sequences of str
        Several prompts are a mixture; the weight of the avoided ones divides.
    logit_scale : float
        Smaller than the model's own gives softer weights.

    Raises
    ------
    ScoresError
        When the embeddings were discarded.
    ModelError
        When the model cannot be loaded again, or is no longer the one that made the embeddings.
    """
    if not folder.embeddings.exists():
        raise ScoresError(
            f"{folder.path} keeps no embeddings: score again without --discard-embeddings"
        )
    encoder = _same_encoder(manifest, device)
    files = embedding_files(folder.embeddings, len(manifest.shards))
    pool = Pool(files)

    def mixture(texts: Sequence[str]) -> Tensor:
        vectors = encoder.encode_texts([encoder.tokenize(text) for text in texts]).cpu()
        tiles = (tile for _, tile in pool.tiles("img", TILE_ROWS))
        return torch.cat([log_mixture(tile, vectors, logit_scale) for tile in tiles])

    weights = importance_weights(mixture(prompts), mixture(avoided) if avoided else None)
    samples = pa.concat_tables(
        [file.samples().select(["shard", "key", "key_hash", "caption"]) for file in files]
    )
    table = samples.append_column("weight", pa.array(weights.numpy()))
    write_table(table.drop_columns(["caption"]), output)
    heaviest = torch.topk(weights, min(TOP, len(weights)))
    top = samples.take(pa.array(heaviest.indices.numpy())).to_pylist()
    return Weighing(
        rows=len(table),
        sample_size=weights_sample_size(weights),
        top=[
            (weight, row["key"], row["caption"] or "")
            for weight, row in zip(heaviest.values.tolist(), top, strict=True)
        ],
    )


def _same_encoder(manifest: Manifest, device: str) -> Encoder:
    model = manifest.model
    if "embeddings" in manifest.settings["read"]:
        raise ModelError(
            "these scores were made from embeddings alone, so there is no text encoder for "
            "prompts: score the shards themselves"
        )
    encoder = load_encoder(
        EncodeConfig(model.name, model.pretrained, device, Precision(model.precision))
    )
    if encoder.record.digest != model.digest:
        raise ModelError(
            f"the weights of {model.name} ({model.pretrained}) are not those that made the scores: "
            "score again, or bring the old checkpoint back"
        )
    return encoder

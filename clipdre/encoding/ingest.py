"""Embeddings made elsewhere become a run's own: checked, copied, of cosines at unit length."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipdre.encoding.encode import ShardEmbeddings, failed_shard
from clipdre.errors import InputError, ModelError, UsageError
from clipdre.formats.files.storage import unescaped_path
from clipdre.formats.folders.embeddings import (
    LONGEST,
    SHORTEST,
    Stored,
    are_usable,
    stored_type,
    unit_half,
)
from clipdre.formats.folders.precomputed import (
    ARCHITECTURES,
    DATACOMP_SCALE,
    DataCompLayout,
    Layout,
    UnreadableError,
    find_layout,
    sample_table,
)
from clipdre.formats.folders.records import ModelRecord, ShardRecord
from clipdre.formats.tars.samples import Failure, Reason, Stage, printable
from clipdre.words import count

# Files of half a million rows are usual, and in fp32 they take twice the memory.
ROWS_AT_ONCE = 8192
NOT_USABLE = (
    f"NaN, infinity or a zero vector; or, of inner products, a length outside {SHORTEST:g} to "
    f"{LONGEST:g}"
)


@dataclass(frozen=True)
class EmbeddingSource:
    """A folder of embeddings, and the model that made them."""

    layout_reader: Layout
    model: ModelRecord

    @property
    def layout(self) -> str:
        """Name of the layout, for the manifest."""
        return type(self.layout_reader).__name__.removesuffix("Layout")

    def files(self) -> list[str]:
        """Return the table that belongs to each file of embeddings, in order."""
        return [printable(str(path)) for path in self.layout_reader.files()]

    def read(self, shard: ShardRecord) -> ShardEmbeddings:
        """Read one file; a damaged one is a failure row, not an error."""
        try:
            return self._read(shard)
        except UnreadableError as error:
            return self._failed(Reason.BROKEN_FILE, str(error))
        except Exception as error:  # strangers' columns and arrays can be of any type
            return self._failed(Reason.BROKEN_FILE, f"{type(error).__name__}: {error}")

    def _read(self, shard: ShardRecord) -> ShardEmbeddings:
        images, texts, columns = self.layout_reader.read(unescaped_path(shard.url))
        rows, dim = len(columns), self.model.embedding_dim
        if not images.shape == texts.shape == (rows, dim):
            shapes = f"images {images.shape}, texts {texts.shape}, table ({rows}, {dim})"
            return self._failed(Reason.MISALIGNED_ROWS, f"rows do not align: {shapes}")
        inner_product = self.model.inner_product
        images, texts = (_stored(vectors, inner_product) for vectors in (images, texts))
        return _checked(images, texts, columns, shard.name)

    def _failed(self, reason: Reason, message: str) -> ShardEmbeddings:
        return failed_shard(Failure("", 0, Stage.READ, reason, message), self.model)


def open_embeddings(
    folder: Path,
    architecture: str,
    logit_scale: float | None,
    logit_bias: float,
    inner_product: bool = False,
) -> EmbeddingSource:
    """Open the embeddings of a folder, in any known layout.

    Raises
    ------
    InputError
        When the folder has no known layout, or none of its files can be read.
    ModelError
        When the logit scale of the model is neither given nor known.
    UsageError
        When the scale is not positive, or the scale or the bias is not finite.
    """
    layout = find_layout(folder, architecture)
    name = "unknown"
    if isinstance(layout, DataCompLayout):
        name = f"{ARCHITECTURES[architecture]} (openai)"
        if not inner_product:
            logit_scale = DATACOMP_SCALE if logit_scale is None else logit_scale
    if logit_scale is None:
        usual = "1 if inner products are logits" if inner_product else "100 for most CLIP models"
        raise ModelError(
            "the embeddings do not record the logit scale of their model",
            f"pass `logit_scale` ({usual}), and `logit_bias` for SigLIP",
        )
    if not 0 < logit_scale < math.inf or not math.isfinite(logit_bias):
        raise UsageError(
            f"`logit_scale` is {logit_scale} and `logit_bias` {logit_bias}",
            "use a positive scale, and finite numbers",
        )
    dim = _dim(layout, folder)
    kind = " inner product" if inner_product else ""
    digest = f"{type(layout).__name__} {name} {dim} {logit_scale} {logit_bias}{kind}"
    model = ModelRecord(
        name=name,
        pretrained=None,
        digest=digest,
        embedding_dim=dim,
        logit_scale=logit_scale,
        logit_bias=logit_bias,
        precision="as given",
        preprocessing={},
        inner_product=inner_product,
    )
    return EmbeddingSource(layout, model)


def _dim(layout: Layout, folder: Path) -> int:
    for path in layout.files():
        with suppress(Exception):  # it becomes a failure row when it is read again
            return int(layout.read(path)[0].shape[1])
    raise InputError(
        f"none of the embedding files in {folder} can be read", "check that they are complete"
    )


def _stored(vectors: npt.NDArray[np.floating], inner_product: bool) -> Stored:
    rows: Stored = np.empty(vectors.shape, stored_type(inner_product))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        with np.errstate(over="ignore"):  # infinite vectors are failures
            single = vectors[part].astype(np.float32)
        rows[part] = single if inner_product else unit_half(single)
    return rows


def _checked(images: Stored, texts: Stored, columns: pa.Table, shard: str) -> ShardEmbeddings:
    """Keep rows with two vectors that can be scored; others are failures."""
    good = are_usable(images) & are_usable(texts)
    table, unnamed = sample_table(columns, shard)
    keys = table["key"].to_pylist()
    failures = [
        Failure(
            keys[row],
            int(row),
            Stage.READ,
            Reason.NON_FINITE_EMBEDDING,
            NOT_USABLE,
        )
        for row in np.flatnonzero(~good)
    ]
    warned = (f"{count(unnamed, 'row')} without a key, named by number",) if unnamed else ()
    kept = table.filter(pa.array(good))
    return ShardEmbeddings(len(table), images[good], texts[good], kept, failures, warned)

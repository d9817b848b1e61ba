"""Vectors and texts of another data set, which scorers compare the pool with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clipdre.core.density_ratio import unit
from clipdre.core.modality import Modality
from clipdre.errors import InputError
from clipdre.formats.files.parquet import read_table
from clipdre.formats.files.storage import CHECK_PATH, regular
from clipdre.formats.folders.embeddings import StoredPool, embedding_files, map_array
from clipdre.formats.folders.folder import ScoreFolder
from clipdre.formats.folders.layout import MANIFEST
from clipdre.formats.folders.manifest import read_complete_manifest
from clipdre.formats.folders.precomputed import UnreadableError, checked_vectors, find_layout
from clipdre.words import one_line

ROWS_AT_ONCE = 8192
TEXTS = "give a UTF-8 text file with one per line, a .json list of them, or a score folder"


def target_tiles(place: Path, modality: Modality) -> Iterator[Tensor]:
    """Yield unit vectors of a score folder, a folder of embeddings, or a .npy file."""
    if not place.exists():
        raise InputError(f"`target` {place} does not exist", CHECK_PATH)
    if place.suffix == ".npy":
        try:
            yield from _unit_tiles(checked_vectors(map_array(place)), place)
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot read `target` {place}: {error}", "give a .npy of shape (n, d)"
            ) from error
        return
    if (place / MANIFEST).exists():
        count = len(read_complete_manifest(place).shards)
        pool = StoredPool(embedding_files(ScoreFolder(place).embeddings, count))
        for _, tile in pool.directions.tiles(modality, ROWS_AT_ONCE):
            yield tile
        return
    layout = find_layout(place, "l14")
    for path in layout.files():
        try:
            images, texts, _ = layout.read(path)
        except UnreadableError as error:
            raise InputError(
                f"cannot read `target` {path}: {error}", "remove it, or copy it again"
            ) from error
        yield from _unit_tiles(images if modality is Modality.IMAGE else texts, path)


def _unit_tiles(vectors: npt.NDArray[Any], place: Path) -> Iterator[Tensor]:
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        tile = torch.from_numpy(vectors[start : start + ROWS_AT_ONCE].astype(np.float32))
        rows = unit(tile)
        if not torch.isfinite(rows).all():
            raise InputError(f"`target` {place} has NaN, infinite or zero vectors", "remove them")
        yield rows


def target_texts(place: Path) -> Iterator[str]:
    """Yield the lines of a file, the texts of a .json list, or the captions of a score folder."""
    if (place / MANIFEST).exists():
        texts: Iterable[str] = _captions(place)
    elif place.suffix == ".json":
        texts = _listed(place)
    else:
        texts = _lines(place)
    yield from filter(None, texts)


def _captions(place: Path) -> Iterator[str]:
    for shard in read_complete_manifest(place).shards:
        table = read_table(ScoreFolder(place).checked_scores(shard), ["caption"])
        yield from (caption or "" for caption in table["caption"].to_pylist())


def _listed(place: Path) -> list[str]:
    try:
        return msgspec.json.decode(regular(place).read_bytes(), type=list[str])
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read texts in {place} ({one_line(error)})", TEXTS) from error


def _lines(place: Path) -> Iterator[str]:
    try:
        with regular(place).open(encoding="utf-8") as file:
            yield from (line.strip("\r\n") for line in file)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read texts in {place} ({one_line(error)})", TEXTS) from error

"""Recognise what img2dataset writes instead of tars."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipdre.config import IMAGE_SUFFIXES
from clipdre.errors import InputError
from clipdre.formats.files.parquet import UNREADABLE
from clipdre.formats.files.storage import regular

# Names in a folder that are looked at.
LOOKED_AT = 1000


def refuse_loose(path: Path) -> None:
    """Raise `InputError` if a path is output of img2dataset that is not made of tars."""
    found = output_format(path)
    if found is not None:
        raise InputError(
            f"{path} is not made of tars, but as img2dataset writes with --output_format {found}",
            "use --output_format webdataset, or pack images and captions into tars",
        )


def output_format(path: Path) -> str | None:
    """Return ``parquet`` or ``files`` for such an output of img2dataset, else None."""
    names = sorted(islice(path.iterdir(), LOOKED_AT)) if path.is_dir() else [path]
    tables = [name for name in names if name.suffix == ".parquet"]
    if tables and _holds_images(tables[0]):
        return "parquet"
    return "files" if any(map(_is_part_of_files, names)) else None


def _holds_images(table: Path) -> bool:
    try:
        schema = pq.read_schema(regular(table))
    except UNREADABLE:
        return False
    images = [schema.field(name) for name in schema.names if name in IMAGE_SUFFIXES]
    return "key" in schema.names and any(pa.types.is_binary(image.type) for image in images)


def _is_part_of_files(path: Path) -> bool:
    """Whether a path is a folder of img2dataset's with its counts, or an image with its record."""
    if path.is_dir():
        return path.with_name(f"{path.name}_stats.json").exists()
    return path.suffix[1:] in IMAGE_SUFFIXES and path.with_suffix(".json").exists()

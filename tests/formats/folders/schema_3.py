"""Score folders as clipdre wrote them before it recorded where images are."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

LATER = ("path", "image_offset", "image_nbytes")


def downgrade(folder: Path) -> None:
    """Turn a score folder, finished or not, into one of schema 3."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 3}))
    for file in [*folder.glob("scores/*.parquet"), *folder.glob("embeddings/metadata/*.parquet")]:
        table = pq.read_table(file)
        stamp = {k: v for k, v in table.schema.metadata.items() if k != b"clipdre.samples"}
        pq.write_table(table.drop_columns(LATER).replace_schema_metadata(stamp), file)

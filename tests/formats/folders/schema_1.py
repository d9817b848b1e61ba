"""Score folders as clipdre 0.1 wrote them, from those of today."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq


def downgrade_reference(folder: Path) -> None:
    """Give the files, moments and modalities of a reference their old names."""
    for path in list(folder.glob("*image*")):
        path.rename(path.with_name(path.name.replace("image", "img")))
    with np.load(folder / "moments.npz") as arrays:
        renamed = {name.replace("image_", "img_"): arrays[name] for name in arrays.files}
    np.savez(folder / "moments.npz", **renamed)
    raw = json.loads((folder / "reference.json").read_text())
    (folder / "reference.json").write_text(json.dumps(_old_names(raw), indent=2))


def downgrade(folder: Path, *, complete: bool = True) -> None:
    """Turn a finished score folder into one of schema 1."""
    raw = json.loads((folder / "manifest.json").read_text())
    old = {**raw, "schema_version": 1, "complete": complete}
    old["reference"] = _old_names(raw["reference"]) if complete else {}
    if not complete:  # counts are written with the finished manifest
        old["shards"] = [{**shard, "rows": 0, "failures": {}} for shard in raw["shards"]]
    (folder / "manifest.json").write_text(json.dumps(old, indent=2) + "\n")
    downgrade_reference(folder / "reference")
    digest, tau = raw["reference"]["digest"], raw["settings"]["estimate"]["tau"]
    for n, shard in enumerate(raw["shards"]):
        scores = {"clipdre.reference": digest, "clipdre.tau": str(tau)}
        _restamp(folder / "scores" / f"{shard['name']}.parquet", scores)
        decided_by = {
            "model": raw["model"],
            "read": raw["settings"]["read"],
            "shard": [shard["name"], shard["nbytes"], shard["modified"]],
        }
        encoded = hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()
        metadata = folder / "embeddings" / "metadata" / f"metadata_{n}.parquet"
        _restamp(metadata, {"clipdre.encoded": encoded})


def _old_names(reference: dict[str, object]) -> dict[str, object]:
    near = {m.replace("image", "img"): record for m, record in reference["near"].items()}
    return {**reference, "near": near}


def _restamp(path: Path, stamp: dict[str, str]) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata(stamp), path)

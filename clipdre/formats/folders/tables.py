"""Schemas of the Parquet files: samples, failures and scores, one file per shard."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipdre.formats.tars.samples import Failure, printable

SAMPLE_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("uid", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("nbytes", pa.int64()),
        ("caption", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("key_hash", pa.uint64()),
    ]
)
FAILURE_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("offset", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("message", pa.string()),
    ]
)
SCORE_COLUMNS = (
    "similarity",
    "log_partition_image",
    "log_partition_text",
    "log_ratio_image",
    "log_ratio_image_se",
    "log_ratio_text",
    "log_ratio_text_se",
    "log_ratio",
    "log_ratio_se",
    "kl_contribution",
    "kl_image",
    "kl_image_se",
    "klr_image",
    "klr_image_se",
    "dw_image",
    "dc_image",
    "ess_image",
    "kl_text",
    "kl_text_se",
    "klr_text",
    "klr_text_se",
    "dw_text",
    "dc_text",
    "ess_text",
)
# clip-retrieval's name for a sample's key in its metadata.
CLIP_RETRIEVAL_KEY = "image_path"

MAX_MESSAGE = 500


def key_hash(shard: str, key: str, occurrence: int = 0) -> int:
    """64 bits that order samples at random, the same on any machine.

    `occurrence` tells apart the samples of a shard that share a key.
    """
    name = (f"{shard}/{key}" + f"\0{occurrence}" * (occurrence > 0)).encode(
        "utf-8", "surrogatepass"
    )
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def key_hashes(shard: str, keys: Sequence[str]) -> npt.NDArray[np.uint64]:
    """`key_hash` of all keys of a shard, in order; uint64 of shape (n,)."""
    seen: Counter[str] = Counter()
    hashes = np.empty(len(keys), np.uint64)
    for n, key in enumerate(keys):
        hashes[n] = key_hash(shard, key, seen[key])
        seen[key] += 1
    return hashes


def failures_table(failures: Sequence[Failure]) -> pa.Table:
    """One row per failed sample, in shard order."""
    rows = [
        {
            "key": printable(failure.key),
            "offset": failure.offset,
            "stage": failure.stage.value,
            "reason": failure.reason.value,
            "message": printable(failure.message)[:MAX_MESSAGE],
        }
        for failure in failures
    ]
    return pa.Table.from_pylist(rows, schema=FAILURE_SCHEMA)


def scores_table(samples: pa.Table, columns: Mapping[str, npt.NDArray[np.floating]]) -> pa.Table:
    """The rows of `samples` with the score `columns` behind them, as float32."""
    for name in (*SCORE_COLUMNS, *(name for name in columns if name not in SCORE_COLUMNS)):
        samples = samples.append_column(name, pa.array(columns[name].astype(np.float32)))
    return samples
